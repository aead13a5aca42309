//! What the control plane tells on objects of a cluster, and `check` says of that.

use std::process::Command;
use std::time::Duration;

use jitney_tests::wait::PATIENCE;
use jitney_tests::{caller, wait};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::rights::allow_all;
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::kubectl::{Namespace, apply, kubectl};
use crate::programs::path;

/// A Runtime says whether it was taken, what is kept of one that was not, and who runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_says_what_became_of_it() {
    let _alone = ALONE.lock().await;
    installed().await;
    let (system, shop) = (
        Namespace::labelled("told", &json!({})),
        Namespace::labelled("told-shop", &json!({})),
    );
    allow_all(&system);
    pod_with_sidecar(&shop);
    // The API server does not know expressions.
    shop.apply(runtime("users", "/(a"));
    shop.apply(runtime("user", "/a"));
    let plane = Plane::start("told", "plane", &["--webhook-configuration", "rights"]);
    let said = |name: &str| conditions(&shop.get(&format!("runtime/{name}")));
    wait::until("both are told of", || {
        ["users", "user"].iter().all(|name| said(name).len() == 2)
    })
    .await;
    let told = said("users");
    let field = "Accepted False Invalid 1: spec.authorization.rules[0].paths[0].value: ";
    assert!(
        told[0].starts_with(field) && told[0].contains("; until it can be taken"),
        "{told:?}"
    );
    let kept =
        "Programmed False PartiallyProgrammed 1: 0 of 1 sidecar runs what is kept of it; 1 not heard of yet";
    assert_eq!(told[1], kept);
    let nobody = "no pod of the service account \"user\" has a sidecar (did you mean told-shop/users?)";
    let told = said("user");
    assert_eq!(told[0], "Accepted True Accepted 1: valid");
    assert!(
        told[1].starts_with(&format!("Programmed Unknown NoSidecars 1: {nobody}")),
        "{told:?}"
    );

    shown(&shop);
    let (status, said_by_check) = check(&shop, "told");
    assert_eq!(status, Some(1), "{said_by_check}");
    for told in [
        field.strip_prefix("Accepted False Invalid 1: ").unwrap(),
        nobody,
        kept.split_once(": ").unwrap().1,
    ] {
        assert!(said_by_check.contains(told), "{told}: {said_by_check}");
    }
    shop.apply(runtime("users", "/a"));
    let programmed = "Programmed False Pending 2: 0 of 1 sidecar runs generation 2; 1 not heard of yet";
    wait::until("it is mended", || {
        said("users") == ["Accepted True Accepted 2: valid", programmed]
    })
    .await;
    let (status, said_by_check) = check(&shop, "told");
    assert_eq!(status, Some(0), "{said_by_check}");
    counted_alike(&plane, &shop).await;
    nobody_looks(plane, &shop);
}

/// The page says the generation that objects have, however often something was pushed.
async fn counted_alike(plane: &Plane, shop: &Namespace) {
    for path in ["/c", "/d", "/e"] {
        shop.apply(runtime("user", path));
    }
    let admin = plane.address("admin endpoint listening").await.parse().unwrap();
    for name in ["user", "users"] {
        let expected = shop.get(&format!("runtime/{name}"))["metadata"]["generation"].take();
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = caller::get(admin, "/status").await.unwrap().text();
            let status: Value = serde_json::from_str(&answer).unwrap();
            let runtimes = status["runtimes"].as_array().unwrap();
            let full = format!("told-shop/{name}");
            let found = runtimes.iter().find(|one| one["name"] == *full);
            if found.is_some_and(|one| one["generation"] == expected) {
                break;
            }
            assert!(
                Instant::now() < end,
                "{name} is not of generation {expected}: {answer}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What is applied while no control plane runs has been looked at by nobody, whatever statuses say.
fn nobody_looks(plane: Plane, shop: &Namespace) {
    drop(plane);
    shop.apply(runtime("users", "/b"));
    let (status, said) = check(shop, "told");
    assert_eq!(status, Some(1), "{said}");
    let old = "Runtime told-shop/users: no control plane has looked at it: its status is of generation 2, and it is \
               generation 3\n";
    assert!(said.contains(old), "{said}");
    // It was held a moment ago.
    let renewed = r#"{"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}"#;
    kubectl(&[
        "patch",
        "lease",
        "jitney-control-plane",
        "--namespace",
        "told",
        "--patch",
        renewed,
    ]);
    let (status, said) = check(shop, "told");
    assert_eq!(status, Some(1), "{said}");
    let away = "Lease told/jitney-control-plane: no control plane runs: it was last renewed ";
    assert!(said.contains(away), "{said}");
}

/// The Lease says which replica leads, by the name that it was given, and comes back when somebody deletes it.
#[tokio::test]
async fn a_lease_that_is_deleted_is_made_and_held_again() {
    let _alone = ALONE.lock().await;
    installed().await;
    let system = Namespace::labelled("lease", &json!({}));
    allow_all(&system);
    let _owner = Owner::made();
    let lease = ["lease", "jitney-control-plane", "--namespace", "lease"];
    let held_by = |name: &str| {
        let path = "jsonpath={.spec.holderIdentity}";
        let found = [&["get", "--ignore-not-found", "--output", path], &lease[..]].concat();
        kubectl(&found) == name
    };
    let more = [
        "--webhook-configuration",
        "rights",
        "--replica",
        "control-plane-1",
    ];
    let plane = Plane::start("lease", "plane", &more);
    wait::until("it is held", || held_by("control-plane-1")).await;
    kubectl(&[&["delete"], &lease[..]].concat());
    wait::until("it is held again", || held_by("control-plane-1")).await;
    let said = plane.said();
    assert!(said.contains("was gone, and is made again"), "{said}");
    let metadata = system.get("lease/jitney-control-plane")["metadata"].take();
    assert_eq!(
        metadata["ownerReferences"][0]["name"], "jitney-control-plane",
        "{metadata}"
    );
    assert_eq!(
        metadata["labels"],
        json!({"app.kubernetes.io/managed-by": "jitney-control-plane"}),
        "{metadata}"
    );
    // It ends at once, and so leaves it as it is; one that nobody has named waits until it has expired.
    drop(plane);
    let plane = Plane::start("lease", "plane", &["--webhook-configuration", "rights"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let path = "jsonpath={.spec.holderIdentity}";
    let found = [&["get", "--output", path], &lease[..]].concat();
    wait::until("another holds it", || {
        kubectl(&found).starts_with(&format!("{}-", host.trim()))
    })
    .await;
    drop(plane);
}

/// Without the roots no pod of a namespace starts, and with others its sidecar believes nobody.
#[tokio::test]
async fn roots_that_somebody_edits_or_deletes_come_back() {
    let _alone = ALONE.lock().await;
    installed().await;
    let system = Namespace::labelled("roots", &json!({}));
    allow_all(&system);
    let _owner = Owner::made();
    let plane = Plane::start("roots", "plane", &["--webhook-configuration", "rights"]);
    let map = ["configmap", "jitney-roots", "--namespace", "roots"];
    let held = || {
        let path = r"jsonpath={.data.roots\.pem}";
        kubectl(&[&["get", "--ignore-not-found", "--output", path], &map[..]].concat())
    };
    wait::until("they are there", || held().contains("BEGIN CERTIFICATE")).await;
    let roots = held();
    kubectl(&[&["delete"], &map[..]].concat());
    wait::until("they are made again", || held() == roots).await;
    let whole = || {
        let found = kubectl(&[&["get", "--ignore-not-found", "--output", "json"], &map[..]].concat());
        let mut found: Value = serde_json::from_str(&found).unwrap_or_default();
        let metadata = found["metadata"].take();
        let of = ["labels", "ownerReferences"].map(|field| metadata[field].clone());
        (
            of,
            found["data"].take(),
            found["binaryData"].take(),
            found["immutable"].take(),
        )
    };
    let before = whole();
    assert_eq!(before.0[1][0]["kind"], "ClusterRole", "{before:?}");
    for edited in [
        r#"{"data": {"roots.pem": "garbage"}}"#,
        r#"{"data": {"more": "data"}, "binaryData": {"bytes": "AAAA"}}"#,
        r#"{"metadata": {"labels": null}}"#,
        r#"{"metadata": {"ownerReferences": null}}"#,
        r#"{"immutable": true}"#,
        r#"{"immutable": true, "data": {"roots.pem": "garbage"}}"#,
    ] {
        kubectl(&[&["patch", "--type", "merge", "--patch", edited], &map[..]].concat());
        assert_ne!(whole(), before, "{edited}");
        wait::until(&format!("it is put right after {edited}"), || whole() == before).await;
    }
    let said = plane.said();
    assert!(!said.contains("forbidden"), "{said}");
}

/// The ClusterRole that a control plane's own objects belong to, until this is dropped.
struct Owner;

impl Owner {
    fn made() -> Self {
        apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "jitney-control-plane"}, "rules": [],
        }));
        Self
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            kubectl(&["delete", "clusterrole", "jitney-control-plane"]);
        }
    }
}

/// A Runtime with one rule, for paths that an expression describes.
fn runtime(name: &str, path: &str) -> Value {
    json!({
        "apiVersion": "jitney.dev/v1alpha1", "kind": "Runtime", "metadata": {"name": name},
        "spec": {
            "mtls": {"mode": "Strict"},
            "authorization": {"rules": [{"paths": [{"type": "RegularExpression", "value": path}]}]},
        },
    })
}

/// One that is for nobody, and one that is faulty, in columns.
fn shown(namespace: &Namespace) {
    let table = kubectl(&["get", "runtimes", "--namespace", namespace.name]);
    let words: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let columns = [
        "NAME",
        "MODE",
        "MTLS",
        "AUTHORIZATION",
        "ACCEPTED",
        "PROGRAMMED",
        "ACKED",
        "AGE",
    ];
    assert_eq!(words[0], columns);
    assert_eq!(
        words[1][1..6],
        ["Strict", "Enforce", "True", "Unknown", "0/0"],
        "{table}"
    );
    assert_eq!(
        words[2][1..6],
        ["Strict", "Enforce", "False", "False", "0/1"],
        "{table}"
    );
}

/// A pod of the account `users` that is to have a sidecar; nobody runs it.
fn pod_with_sidecar(namespace: &Namespace) {
    namespace.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "users"}}));
    let labels = json!({"jitney.dev/injected": "true"});
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "users-1", "labels": labels},
        "spec": {"serviceAccountName": "users", "containers": [{"name": "users", "image": "users:1"}]},
    }));
}

/// The conditions of an object that has them itself: type, status, reason, generation and message.
pub(super) fn conditions(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let said = conditions.map(|one| {
        let words = ["type", "status", "reason"]
            .map(|field| text(one, field))
            .join(" ");
        format!("{words} {}: {}", one["observedGeneration"], text(one, "message"))
    });
    said.collect()
}

/// With which status `check` ends of a namespace, where the control plane is in that one, and all that it says.
pub(super) fn check(namespace: &Namespace, control_plane: &str) -> (Option<i32>, String) {
    let mut check = Command::new(path("jitney-control-plane"));
    let source = format!("kubernetes:{}", namespace.name);
    let place = ["--control-plane-namespace", control_plane];
    let output = check
        .args(["check", "--source", &source])
        .args(place)
        .output()
        .unwrap();
    let said = [output.stderr, output.stdout].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}
