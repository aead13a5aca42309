//! Under which names a token is good: a pod's under that pod's, and another under none that a pod could have.

use std::process::Command;

use jitney_tests::{Process, caller, wait};
use serde_json::json;

use super::rights::allow_all;
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::kubectl::{Namespace, kubectl, token_of_pod};
use crate::programs::path;

const NAMESPACE: &str = "named";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_no_pod_takes_no_pods_name() {
    let _alone = ALONE.lock().await;
    installed().await;
    let namespace = Namespace::labelled(NAMESPACE, &json!({}));
    allow_all(&namespace);
    namespace.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "users"}}));
    namespace.apply(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "users-1", "labels": {"jitney.dev/injected": "true"}},
        "spec": {"serviceAccountName": "users", "containers": [{"name": "users", "image": "users:1"}]},
    }));
    let plane = Plane::start(NAMESPACE, "plane", &["--webhook-configuration", "rights"]);
    let own = [
        "create",
        "token",
        "users",
        "--audience=jitney.dev",
        "--namespace",
        NAMESPACE,
    ];
    let of_nobody = kubectl(&own).trim().to_owned();
    let of_pod = token_of_pod(NAMESPACE, "users", "users-1");

    for (token, node, told) in [
        (
            &of_nobody,
            "users-1",
            "node: found \"users-1\", which may be a pod's name, and the token is bound to no pod; ",
        ),
        (
            &of_pod,
            "users-2",
            "node: found \"users-2\", and the token is of the pod \"users-1\"; ",
        ),
    ] {
        let sidecar = sidecar(&plane, token, node).await;
        let said = || sidecar.log().replace("\\\"", "\"");
        wait::until("it says why it is refused", || said().contains(told)).await;
        assert!(
            said().contains("--node") && !said().contains("--token-file"),
            "{}",
            said()
        );
        let status = status(&plane).await;
        let shown = format!("{NAMESPACE}/users {node} gets no certificate, refused ");
        assert!(status.contains(&shown), "{status}");
    }
    for (token, node) in [(&of_nobody, "outside/users-1"), (&of_pod, "users-1")] {
        let sidecar = sidecar(&plane, token, node).await;
        wait::until("it is connected", || {
            sidecar.log().contains("connected control_plane=")
        })
        .await;
    }
}

async fn status(plane: &Plane) -> String {
    let admin = plane.address("admin endpoint listening").await;
    caller::get(admin.parse().unwrap(), "/status")
        .await
        .unwrap()
        .text()
}

/// One that shows this token, and calls itself so.
async fn sidecar(plane: &Plane, token: &str, node: &str) -> Process {
    let (folder, address) = (plane.folder(), plane.address("run: listening").await);
    let file = folder.join("token");
    std::fs::write(&file, token).unwrap();
    let mut command = Command::new(path("jitney-proxy"));
    command
        .args(["run", "--node", node, "--admin", "127.0.0.1:0", "--token-file"])
        .arg(file)
        .arg("--trust-bundle")
        .arg(plane.state().join("roots.pem"))
        .args(["--control-plane", &format!("https://{address}")])
        .env("NO_COLOR", "1");
    Process::run("the sidecar", command)
}
