//! Policy and configuration files that change under the real sidecar.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{Caller, get, request};
use jitney_tests::{Reply, TestProxy, TestUpstream};
use serde_json::{Value, from_str};
use tokio::time::Instant;

fn policy(route: &str) -> String {
    format!(
        r#"
kind: BatchPolicy
metadata: {{name: users}}
spec:
  mode: Active
  routes:
  - name: {route}
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
"#
    )
}

async fn echo(name: &'static str) -> TestUpstream {
    TestUpstream::start(move |_| Reply::json(200, format!("{{\"from\":\"{name}\"}}"))).await
}

async fn config(proxy: &TestProxy) -> Value {
    from_str(&proxy.admin("/config").await.text()).unwrap()
}

/// Waits until `/config` satisfies `fact`; returns how long that took.
#[track_caller]
fn shows(proxy: &TestProxy, fact: impl Fn(&Value) -> bool) -> impl Future<Output = Duration> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let seen = config(proxy).await;
            if fact(&seen) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{place}: {seen:#}\n{}",
                proxy.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn runs_route(route: &str) -> impl Fn(&Value) -> bool {
    let name = Value::from(format!("users/{route}"));
    move |config| config["policy"]["effective"]["backends"][0]["routes"][0] == name
}

#[tokio::test]
async fn change_is_in_force_within_two_seconds_whatever_way_it_is_made() {
    let upstream = echo("a").await;
    let proxy = TestProxy::start(upstream.address, &policy("first")).await;
    let path = proxy.policy_path();
    let two_seconds = Duration::from_secs(2);

    fs::write(path, policy("in-place")).unwrap();
    assert!(shows(&proxy, runs_route("in-place")).await < two_seconds);

    let beside = path.with_extension("tmp");
    fs::write(&beside, policy("renamed")).unwrap();
    fs::rename(&beside, path).unwrap();
    assert!(shows(&proxy, runs_route("renamed")).await < two_seconds);

    let folder = path.parent().unwrap();
    for version in ["v1", "v2"] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("policy.yaml"), policy(version)).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if version == "v1" {
            std::os::unix::fs::symlink("..data/policy.yaml", &beside).unwrap();
            fs::rename(&beside, path).unwrap();
        }
        assert!(shows(&proxy, runs_route(version)).await < two_seconds);
    }
}

#[tokio::test]
async fn faulty_change_is_refused_shown_and_leaves_the_last_good_policy() {
    let upstream = echo("a").await;
    let proxy = TestProxy::start(upstream.address, &policy("good")).await;
    let generation = config(&proxy).await["policy"]["generation"].clone();

    let faulty = policy("bad").replace("codec:", "kodek:");
    fs::write(proxy.policy_path(), &faulty).unwrap();
    shows(&proxy, |config| config["refusal"]["current"] == true).await;
    let seen = config(&proxy).await;
    let place = format!("{}:9:5: ", proxy.policy_path().display());
    let faults = seen["refusal"]["faults"].as_array().unwrap();
    assert!(
        faults
            .iter()
            .any(|fault| fault.as_str().unwrap().starts_with(&place)),
        "{faults:#?}"
    );
    assert!(runs_route("good")(&seen), "{seen:#}");
    assert_eq!(seen["policy"]["generation"], generation);
    assert_eq!(proxy.metric("jitney_policy_refusals_total", "").await, 1.0);
    assert_eq!(proxy.metric("jitney_policy_faulty", "").await, 1.0);
    assert_eq!(
        proxy.log().matches(&place).count(),
        1,
        "logged once:\n{}",
        proxy.log()
    );
    assert_eq!(get(proxy.address, "/else").await.unwrap().status, 200);

    fs::remove_file(proxy.policy_path()).unwrap();
    shows(&proxy, |config| {
        config["refusal"]["faults"][0]
            .as_str()
            .is_some_and(|fault| fault.contains("no such file"))
    })
    .await;
    fs::write(proxy.policy_path(), policy("better")).unwrap();
    shows(&proxy, runs_route("better")).await;
    let seen = config(&proxy).await;
    assert_eq!(seen["refusal"]["current"], false);
    assert_eq!(proxy.metric("jitney_policy_faulty", "").await, 0.0);
}

/// Callers that keep calling until told to stop, each on its own connection.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(proxy: &TestProxy, callers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let address = proxy.address;
        let one = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                let mut caller = Caller::h1(address).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match caller.call(request("GET", "/users/1", &[], "")).await {
                        Ok(answer) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            if answer.header("connection") == "close" {
                                caller = Caller::h1(address).await.unwrap();
                            }
                        }
                        // A connection that is closed while idle is no lost call: HTTP has its callers try again.
                        other => {
                            wrong.push(format!("{other:?}"));
                            caller = Caller::h1(address).await.unwrap();
                        }
                    }
                }
                wrong
            })
        };
        Self {
            callers: (0..callers).map(one).collect(),
            stop,
            answered,
        }
    }

    async fn more(&self, calls: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + calls;
        jitney_tests::wait::until("calls are answered", || {
            self.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for caller in self.callers {
            wrong.extend(caller.await.unwrap());
        }
        wrong
    }
}

#[tokio::test]
async fn change_under_load_drops_no_call() {
    let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, r#"[{"id":1}]"#)).await;
    let proxy = TestProxy::start(upstream.address, &policy("r0")).await;
    let load = Load::start(&proxy, 8);
    for n in 1..=5 {
        load.more(100).await;
        fs::write(proxy.policy_path(), policy(&format!("r{n}"))).unwrap();
        shows(&proxy, runs_route(&format!("r{n}"))).await;
    }
    load.more(100).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

fn documents(listeners: &[(&str, &str, &str)], backends: &[(&str, &TestUpstream)]) -> String {
    let listeners = listeners.iter().map(|(name, address, backend)| {
        format!("kind: Listener\nmetadata: {{name: {name}}}\nspec: {{address: \"{address}\", backend: {backend}}}\n")
    });
    let backends = backends.iter().map(|(name, upstream)| {
        format!(
            "kind: Backend\nmetadata: {{name: {name}}}\nspec: {{endpoints: [\"{}\"]}}\n",
            upstream.address
        )
    });
    listeners.chain(backends).collect::<Vec<_>>().join("---\n")
}

async fn says(proxy: &TestProxy) -> String {
    get(proxy.address, "/").await.unwrap().text()
}

async fn applied(proxy: &TestProxy, path: &Path, text: &str, generation: u64) {
    fs::write(path, text).unwrap();
    shows(proxy, |config| config["policy"]["generation"] == generation).await;
}

#[tokio::test]
async fn listener_moves_to_another_backend_without_dropping_a_call() {
    let (a, b) = (echo("a").await, echo("b").await);
    let first = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a), ("b", &b)]);
    let proxy = TestProxy::with().config(first.as_str()).start().await;
    assert!(says(&proxy).await.contains("\"a\""));
    let second = documents(&[("in", "127.0.0.1:0", "b")], &[("a", &a), ("b", &b)]);
    applied(&proxy, proxy.policy_path(), &second, 2).await;
    assert!(says(&proxy).await.contains("\"b\""));
    // The same backend elsewhere.
    let third = documents(&[("in", "127.0.0.1:0", "b")], &[("b", &a)]);
    applied(&proxy, proxy.policy_path(), &third, 3).await;
    assert!(says(&proxy).await.contains("\"a\""));
}

#[tokio::test]
async fn listeners_come_and_go() {
    let a = echo("a").await;
    let one = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a)]);
    let proxy = TestProxy::with().config(one.as_str()).start().await;
    let two = documents(
        &[("in", "127.0.0.1:0", "a"), ("more", "127.0.0.1:0", "a")],
        &[("a", &a)],
    );
    applied(&proxy, proxy.policy_path(), &two, 2).await;
    let log = proxy.log();
    let second = log
        .lines()
        .filter(|line| line.contains("listening") && !line.contains("admin"))
        .nth(1)
        .unwrap();
    let second = second
        .split("address=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(get(second, "/").await.unwrap().status, 200);
    applied(&proxy, proxy.policy_path(), &one, 3).await;
    jitney_tests::wait::until("nobody listens there", || {
        std::net::TcpStream::connect(second).is_err()
    })
    .await;
    assert!(says(&proxy).await.contains("\"a\""));
}

#[tokio::test]
async fn address_that_is_taken_refuses_the_whole_change() {
    let (a, b) = (echo("a").await, echo("b").await);
    let first = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a), ("b", &b)]);
    let proxy = TestProxy::with().config(first.as_str()).start().await;
    let taken = a.address.to_string();
    let second = documents(
        &[("in", "127.0.0.1:0", "b"), ("more", &taken, "a")],
        &[("a", &a), ("b", &b)],
    );
    fs::write(proxy.policy_path(), second).unwrap();
    shows(&proxy, |config| config["refusal"]["current"] == true).await;
    assert!(
        config(&proxy).await["refusal"]["faults"][0]
            .as_str()
            .unwrap()
            .contains(&taken)
    );
    assert!(says(&proxy).await.contains("\"a\""));
}
