//! What the control plane makes in a cluster goes when its release does: Kubernetes deletes it.

use std::process::{Child, Command, Stdio};

use jitney_tests::wait;
use serde_json::{Value, json};

use crate::kubectl::{Namespace, apply, get, kubectl};
use crate::programs::path;

/// What is made, by namespace: the authority's keys are where the kubeconfig says that the program runs.
const MADE: [(&str, &str); 3] = [
    ("default", "secret/jitney-authority"),
    ("leaving", "secret/jitney-webhook"),
    ("leaving", "configmap/jitney-roots"),
];

/// The program, and where it keeps its state.
struct Running(
    Child,
    #[expect(dead_code, reason = "the folder is removed with it")] tempfile::TempDir,
);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn nothing_that_was_made_outlives_the_owner() {
    let _namespace = Namespace::labelled("leaving", &json!({}));
    apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "leaving"},
        "rules": [],
    }));
    let owner = get(&["clusterrole", "leaving"])["metadata"]["uid"].take();

    let running = start();
    wait::until("all of it is made", || MADE.into_iter().all(is_there)).await;
    for (namespace, object) in MADE {
        let owners = get(&["--namespace", namespace, object])["metadata"]["ownerReferences"].take();
        let expected = json!([{
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "name": "leaving",
            "uid": owner,
        }]);
        assert_eq!(owners, expected, "{object}");
    }

    // While it runs it would make all of it anew.
    drop(running);
    kubectl(&["delete", "clusterrole", "leaving"]);
    wait::until("all of it is gone", || !MADE.into_iter().any(is_there)).await;
}

fn is_there((namespace, object): (&str, &str)) -> bool {
    let found = kubectl(&[
        "get",
        "--ignore-not-found",
        "--output=json",
        "--namespace",
        namespace,
        object,
    ]);
    serde_json::from_str::<Value>(&found).is_ok()
}

fn start() -> Running {
    let state = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0";
    let child = Command::new(path("jitney-control-plane"))
        .args(["run", "--source", "kubernetes:leaving", "--owner", "leaving"])
        .args(["--listen", any, "--admin", any, "--webhook", any])
        .args(["--control-plane-namespace", "leaving", "--log-level", "warn"])
        .arg("--state")
        .arg(state.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Running(child, state)
}
