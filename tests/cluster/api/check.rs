//! `check --source kubernetes`: what is applied, as somebody is told of it who asks.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::chart::installed;
use crate::kubectl::Namespace;
use crate::programs::path;

#[tokio::test]
async fn what_is_applied_is_checked_as_it_stands() {
    installed().await;
    let namespace = Namespace::labelled("checked", &json!({}));
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "users"},
        "spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": "users"}},
    }));
    namespace.apply(policy("users", "users"));
    let (said, complained) = told(checked());
    let expected = "checked/users: no control plane has told who runs it\n\
                    1 batchpolicies, 0 backends, 0 runtimes: faults\n";
    assert_eq!(said, expected);
    let nobody = "BatchPolicy checked/users: no control plane has looked at it: it has no status of a control plane's\n\
                  Lease checked/jitney-control-plane: no control plane runs: it is not there; ";
    assert!(complained.starts_with(nobody), "{complained}");

    namespace.apply(policy("usres", "usres"));
    namespace.apply(policy("younger", "users"));
    let (said, complained) = told(checked());
    assert!(
        said.ends_with("3 batchpolicies, 0 backends, 0 runtimes: faults\n"),
        "{said}"
    );
    let missing = "BatchPolicy checked/usres: spec.targetRefs[0]: ";
    assert_eq!(complained.matches(missing).count(), 1, "{complained}");
    assert_eq!(
        complained.matches("checked/usres: spec").count(),
        1,
        "{complained}"
    );
    assert!(
        complained.contains("BatchPolicy checked/younger: warning: "),
        "{complained}"
    );
}

#[test]
fn a_cluster_that_is_not_there_is_said_to_be() {
    let output = Command::new(path("jitney-control-plane"))
        .args(["check", "--source", "kubernetes"])
        .env("KUBECONFIG", "/none")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    let complained = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(complained.contains("--source kubernetes: "), "{complained}");
}

fn policy(name: &str, service: &str) -> Value {
    json!({
        "apiVersion": "jitney.dev/v1alpha1", "kind": "BatchPolicy", "metadata": {"name": name},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": service}],
            "routes": [{
                "name": "one",
                "match": {"method": "GET", "path": {"type": "Template", "value": "/users/{id}"}},
                "codec": {"keyedGet": {"batchPath": "/users?ids={id}", "key": "/id"}},
            }],
        },
    })
}

/// Checks the namespace, of which no control plane knows: that is a fault.
#[track_caller]
fn checked() -> Output {
    let mut check = Command::new(path("jitney-control-plane"));
    let output = check
        .args([
            "check",
            "--source",
            "kubernetes:checked",
            "--control-plane-namespace",
            "checked",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

fn told(output: Output) -> (String, String) {
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8(text).unwrap())
        .into()
}
