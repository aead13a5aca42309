//! The example of three services on a node: installed as README says, called, and asked what it was asked for.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use jitney_tests::programs::root;
use jitney_tests::wait;
use serde_json::Value;

use crate::kubectl::{get, kubectl, kubectl_with, succeeded};
use crate::programs::path;

pub(crate) const SYSTEM: &str = "jitney-system";
pub(crate) const SHOP: &str = "shop";

pub(crate) const SERVICES: [&str; 3] = ["users", "orders", "front"];

/// What README says, line by line, up to the one that begins so.
pub(crate) fn as_told(until: &str) {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## In Kubernetes\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let (lines, rest) = block.split_once(until).unwrap();
    assert!(rest.ends_with('\n') && lines.lines().count() == 2, "{block}");
    for line in lines.lines() {
        // The images of this run, and one replica: two cores are for more than this.
        let images =
            ["image.tag", "proxy.image.tag", "redirect.image.tag"].map(|image| format!("{image}=test"));
        let values = format!(" --set {},replicas=1", images.join(","));
        let more = if line.contains("--wait") {
            values
        } else {
            String::new()
        };
        let mut shell = Command::new("sh");
        let _said = succeeded(
            shell
                .args(["-c", &(line.to_owned() + &more)])
                .current_dir(root())
                .output()
                .unwrap(),
        );
    }
}

/// The line of README's section that begins so.
pub(crate) fn line(begins: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## In Kubernetes\n").unwrap();
    let line = section.lines().find(|line| line.starts_with(begins));
    line.unwrap_or_else(|| panic!("README says no {begins}"))
        .to_owned()
}

/// Applies a file of the example, as README does, with the images of this run.
pub(crate) fn apply(file: &str, change: impl FnOnce(&str) -> String) {
    let text = std::fs::read_to_string(root().join("examples/kubernetes").join(file)).unwrap();
    let image = format!("jitney/example-shop:{}", env!("CARGO_PKG_VERSION"));
    let text = change(&text).replace(&image, "jitney/example-shop:test");
    let _applied = kubectl_with(&["apply", "--filename", "-"], &text);
}

pub(crate) fn rolled_out() {
    for service in SERVICES {
        settled(SHOP, service);
    }
}

/// Pages of the shop, called by the name of its Service.
pub(crate) fn pages() -> String {
    succeeded(load("60"))
}

pub(crate) fn load(pages: &str) -> Output {
    let line = [
        "load",
        "front.shop.svc.cluster.local:80",
        "--pages",
        pages,
        "--print",
    ];
    Command::new(path("shop")).args(line).output().unwrap()
}

/// Waits until Services lead to pods: a little after these are ready.
pub(crate) async fn serves() {
    wait::until("the shop serves", || load("16").status.success()).await;
}

pub(crate) fn pods(selector: &str) -> Vec<Value> {
    let pods = get(&["pods", "--namespace", SHOP, "--selector", selector]);
    let pods = pods["items"].as_array().unwrap().iter();
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    pods.filter(stays).cloned().collect()
}

pub(crate) fn sidecars() -> Vec<Value> {
    pods("jitney.dev/injected=true")
}

/// Addresses of the pods behind the Service of users.
pub(crate) fn users() -> Vec<String> {
    let pods = pods("app=users");
    pods.iter()
        .map(|pod| pod["status"]["podIP"].as_str().unwrap().to_owned())
        .collect()
}

/// What a service was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) calls: u64,
    pub(crate) rows: u64,
}

pub(crate) fn asked(ip: &String) -> Asked {
    let url = format!("http://{ip}:8080/stats");
    let stats = succeeded(
        Command::new("curl")
            .args(["-sS", "--max-time", "10", &url])
            .output()
            .unwrap(),
    );
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let count = |name: &str| stats[name].as_u64().unwrap();
    Asked {
        calls: count("calls"),
        rows: count("rows"),
    }
}

/// Waits until as many sidecars run a policy as it says there are.
pub(crate) async fn says(policy: &str, acked: &str) {
    wait::until("it is told who runs the policy", || {
        let status = get(&["batchpolicy", "--namespace", SHOP, policy])["status"].take();
        status["sidecars"]["summary"] == acked && condition(&status, "Programmed")["status"] == "True"
    })
    .await;
}

/// What is said of a policy's first target.
pub(crate) fn condition(status: &Value, kind: &str) -> Value {
    let conditions = status["ancestors"][0]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions
        .find(|one| one["type"] == kind)
        .cloned()
        .unwrap_or_default()
}

/// Ends what waits for it, also where a test fails before.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Loads pages while something is done, and once more when it is; none may fail.
pub(crate) fn under_load(done: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let mut is_last = false;
            while !is_last {
                is_last = is_over.load(Ordering::Relaxed);
                let _pages = succeeded(load("16"));
            }
        });
        let over = Over(&is_over);
        done();
        drop(over);
        loading.join().unwrap();
    });
}

/// Returns when all of a Deployment's pods are those that it wants now.
pub(crate) fn settled(namespace: &str, name: &str) {
    let deployment = format!("deployment/{name}");
    let limit = "--timeout=80s";
    kubectl(&["rollout", "status", "--namespace", namespace, limit, &deployment]);
}
