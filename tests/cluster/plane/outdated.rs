//! Definitions that are older than the control plane: a kind whose status nobody can write.

use jitney_tests::{caller, wait};
use serde_json::{Value, json};

use super::rights::allow_all;
use super::told::{check, conditions};
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::kubectl::{Namespace, kubectl};

const TOLD: &str = "runtimes.jitney.dev has no status subresource: upgrade the chart jitney-crds";

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_without_a_status_is_told_of_until_it_has_one() {
    let _alone = ALONE.lock().await;
    installed().await;
    let namespace = Namespace::labelled("outdated", &json!({}));
    allow_all(&namespace);
    defined(r#"{"op": "remove", "path": "/spec/versions/0/subresources"}"#).await;
    namespace.apply(json!({
        "apiVersion": "jitney.dev/v1alpha1", "kind": "Runtime", "metadata": {"name": "users"}, "spec": {"mode": "Shadow"},
    }));
    namespace.apply(json!({
        "apiVersion": "jitney.dev/v1alpha1", "kind": "BatchPolicy", "metadata": {"name": "users"},
        "spec": {"routes": [{"codec": {"jsonRpc": {}}}]},
    }));
    let plane = Plane::start("outdated", "plane", &["--webhook-configuration", "rights"]);
    wait::until("it is in the log", || plane.said().contains(TOLD)).await;
    let faults = faults(&plane).await;
    assert!(faults.contains(TOLD), "{faults}");
    wait::until("what has a status is told of", || {
        namespace.get("batchpolicy/users")["status"].is_object()
    })
    .await;
    let (status, said) = check(&namespace, "outdated");
    assert_eq!(status, Some(1), "{said}");
    let definition = format!("CustomResourceDefinition runtimes.jitney.dev: {TOLD}\n");
    assert!(said.contains(&definition), "{said}");
    assert!(!said.contains("no control plane has looked at it"), "{said}");

    defined(r#"{"op": "add", "path": "/spec/versions/0/subresources", "value": {"status": {}}}"#).await;
    wait::until("it is told of", || {
        conditions(&namespace.get("runtime/users")).len() == 2
    })
    .await;
    wait::until("that is over", || {
        plane.said().contains("over: kinds are defined as")
    })
    .await;
    let (status, said) = check(&namespace, "outdated");
    assert_eq!(status, Some(0), "{said}");
}

/// Changes the definition of Runtimes, and returns when it is in force.
async fn defined(patch: &str) {
    let definition = ["customresourcedefinition", "runtimes.jitney.dev"];
    kubectl(
        &[
            &["patch"],
            &definition[..],
            &["--type", "json", "--patch", &format!("[{patch}]")],
        ]
        .concat(),
    );
    wait::until("it is in force", || {
        let served = kubectl(&["get", "--raw", "/apis/jitney.dev/v1alpha1"]);
        served.contains("\"runtimes/status\"") == patch.contains("add")
    })
    .await;
}

async fn faults(plane: &Plane) -> String {
    let admin = plane.address("admin endpoint listening").await;
    let answer = caller::get(admin.parse().unwrap(), "/status").await.unwrap();
    let status: Value = serde_json::from_str(&answer.text()).unwrap();
    status["warnings"].to_string()
}
