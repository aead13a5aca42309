//! What happens to a node and its pods in a year, on a real kubelet: the kernel kills a sidecar, the control plane is
//! away, the node is lost. Callers get their pages.

use std::collections::BTreeMap;

use jitney_tests::wait;
use serde_json::{Value, json};

use crate::kubectl::{apply as apply_object, get, kubectl};
use crate::shop::{
    SHOP, SYSTEM, apply, as_told, asked, condition, pages, pods, rolled_out, says, serves, settled,
    under_load, users,
};

mod node;

use node::Node;

/// In this order: after the last of it another node is there.
#[tokio::test]
async fn callers_get_their_pages_whatever_happens() {
    as_told("kubectl apply --filename examples/kubernetes/shop.yaml\n");
    apply("shop.yaml", |text| {
        let users = "metadata: {labels: {app: users}}";
        assert!(text.contains(users), "{text}");
        let limited = "metadata: {labels: {app: users}, annotations: {jitney.dev/proxy-memory-limit: 96Mi}}";
        text.replace(users, limited)
    });
    apply("policy.yaml", str::to_owned);
    callers_try_again();
    rolled_out();
    serves().await;
    says("users", "2/2").await;
    let expected = pages();

    sidecar_that_the_kernel_kills_starts_alone();
    says("users", "2/2").await;
    assert!(pages() == expected, "not what it was before");

    control_plane_is_away().await;
    assert!(pages() == expected, "not what it was with a control plane");

    let _node = node_is_lost().await;
    assert!(pages() == expected, "not what it was on the node before");
    batches_form();
}

/// A call to a pod that has just gone is made again, to another.
fn callers_try_again() {
    for service in ["users", "orders"] {
        apply_object(&json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": "BatchPolicy",
            "metadata": {"name": format!("callers-of-{service}"), "namespace": SHOP},
            "spec": {
                "placement": "Outbound",
                "targetRefs": [{"kind": "Service", "name": service}],
                "routes": [],
                "traffic": {"retry": {
                    "attempts": 4,
                    "on": ["connect-failure", "reset", "refused-stream", "gateway-error"],
                    "budget": {"ratio": 1.0, "minPerSecond": 100},
                }},
            },
        }));
    }
}

/// What is known of one container of a pod.
#[derive(Clone, Debug)]
struct Ran {
    restarts: u64,
    is_ready: bool,
    /// Why it ended before, in kubelet's words.
    ended: String,
}

/// All containers of a pod that go on, by their names.
fn ran(pod: &Value) -> BTreeMap<String, Ran> {
    let status = &pod["status"];
    let all = ["initContainerStatuses", "containerStatuses"];
    let all = all
        .iter()
        .flat_map(|field| status[*field].as_array().into_iter().flatten());
    all.map(|one| {
        let ran = Ran {
            restarts: one["restartCount"].as_u64().unwrap(),
            is_ready: one["ready"] == true,
            ended: one["lastState"]["terminated"]["reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        (one["name"].as_str().unwrap().to_owned(), ran)
    })
    .collect()
}

fn pod(name: &str) -> Value {
    get(&["pod", name, "--namespace", SHOP])
}

/// Waits until a pod's sidecar has been started again so often, and then until it is ready.
fn sidecar_is_back(name: &str, restarts: u64) -> BTreeMap<String, Ran> {
    sidecar_is(name, &format!("restartCount}}={restarts}"));
    sidecar_is(name, "ready}=true");
    ran(&pod(name))
}

/// Waits for a field of its status: it is the second of the init containers.
fn sidecar_is(name: &str, field: &str) {
    let condition = format!("jsonpath={{.status.initContainerStatuses[1].{field}");
    let pod = [
        "--namespace",
        SHOP,
        "--timeout=80s",
        "--for",
        &condition,
        "pod",
        name,
    ];
    kubectl(&[&["wait"], &pod[..]].concat());
}

/// It is out of memory: the kernel kills it and nothing else, kubelet starts it and nothing else. Its service goes on,
/// and who calls it calls the other one meanwhile.
fn sidecar_that_the_kernel_kills_starts_alone() {
    let victim = &pods("app=users")[0];
    let (name, uid) = (text(victim, "name"), text(victim, "uid"));
    under_load(|| {
        let pid = node::sidecar_of(&uid);
        node::have_killed_for_memory(pid);
        let ran = sidecar_is_back(&name, 1);
        assert_eq!(ran["jitney-proxy"].ended, "OOMKilled", "{ran:?}");
        assert_eq!(
            (ran["users"].restarts, ran["users"].is_ready),
            (0, true),
            "{ran:?}"
        );
    });
    let after = pod(&name);
    assert_eq!(text(&after, "uid"), uid, "the pod is the same");
}

/// Sidecars go on with what they have, one that starts anew among them; what has changed they hear when it is back.
async fn control_plane_is_away() {
    let scale = |replicas: &str| {
        let deployment = "deployment/jitney-control-plane";
        kubectl(&["scale", "--namespace", SYSTEM, deployment, "--replicas", replicas]);
        settled(SYSTEM, "jitney-control-plane");
    };
    let victim = &pods("app=users")[0];
    let (name, uid) = (text(victim, "name"), text(victim, "uid"));
    under_load(|| {
        scale("0");
        let gone = [
            "--for",
            "delete",
            "pod",
            "--selector",
            "app.kubernetes.io/component=control-plane",
        ];
        kubectl(&[&["wait", "--namespace", SYSTEM, "--timeout=80s"], &gone[..]].concat());
        let before = ran(&pod(&name))["jitney-proxy"].restarts;
        node::kill(&[node::sidecar_of(&uid)]);
        sidecar_is(&name, &format!("restartCount}}={}", before + 1));
        let shadow = ["--type", "merge", "--patch", r#"{"spec": {"mode": "Shadow"}}"#];
        kubectl(
            &[
                &["patch", "batchpolicy", "users", "--namespace", SHOP],
                &shadow[..],
            ]
            .concat(),
        );
        scale("1");
        sidecar_is_back(&name, before + 1);
    });
    let message = || {
        let status = get(&["batchpolicy", "users", "--namespace", SHOP])["status"].take();
        condition(&status, "Programmed")["message"].take()
    };
    wait::until("all sidecars have heard what has changed", || {
        message() == "2 of 2 sidecars run generation 2"
    })
    .await;
    let active = ["--type", "merge", "--patch", r#"{"spec": {"mode": "Active"}}"#];
    kubectl(
        &[
            &["patch", "batchpolicy", "users", "--namespace", SHOP],
            &active[..],
        ]
        .concat(),
    );
    wait::until("they have heard the next, too", || {
        message() == "2 of 2 sidecars run generation 3"
    })
    .await;
}

/// All that ran on it ends at once, without a word: then it comes back.
async fn node_is_lost() -> Node {
    let names = || -> Vec<String> { pods("app").iter().map(|pod| text(pod, "name")).collect() };
    let before = names();
    let restarts: BTreeMap<String, u64> = before
        .iter()
        .map(|name| (name.clone(), ran(&pod(name))["jitney-proxy"].restarts))
        .collect();
    let node = Node::lose_and_start();
    for name in &before {
        sidecar_is_back(name, restarts[name] + 1);
    }
    rolled_out();
    settled(SYSTEM, "jitney-control-plane");
    assert_eq!(names(), before, "pods are the same");
    serves().await;
    says("users", "2/2").await;
    says("orders", "1/1").await;
    node
}

fn batches_form() {
    let before: Vec<_> = users().iter().map(asked).collect();
    let _pages = pages();
    let after: Vec<_> = users().iter().map(asked).collect();
    let sum = |all: &[crate::shop::Asked]| -> (u64, u64) {
        (
            all.iter().map(|one| one.calls).sum(),
            all.iter().map(|one| one.rows).sum(),
        )
    };
    let ((calls, rows), (calls_before, rows_before)) = (sum(&after), sum(&before));
    let (calls, rows) = (calls - calls_before, rows - rows_before);
    assert!(rows > 2 * calls, "{calls} calls for {rows} rows");
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().unwrap().to_owned()
}
