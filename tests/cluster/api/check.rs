//! `check --source kubernetes`: what is applied, as somebody is told of it who asks.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::chart::installed;
use crate::kubectl::{Namespace, config_of};
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

/// Who may read Jitney's kinds and what they are for, and neither routes, Leases nor namespaces.
#[tokio::test]
async fn who_may_not_see_all_is_told_what_is_not_known() {
    installed().await;
    let namespace = Namespace::labelled("seen", &json!({}));
    let rules = json!([
        {"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    reader(&namespace, &rules);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, config_of("seen", "reader").to_string()).unwrap();
    let check = || {
        let source = [
            "check",
            "--source",
            "kubernetes:seen",
            "--control-plane-namespace",
            "seen",
        ];
        let mut check = Command::new(path("jitney-control-plane"));
        let output = check.args(source).env("KUBECONFIG", &config).output().unwrap();
        (output.status.code(), told(output))
    };
    let (status, (said, complained)) = check();
    assert_eq!(status, Some(0), "{complained}");
    assert_eq!(said, "0 batchpolicies, 0 backends, 0 runtimes: no faults\n");
    for expected in [
        "httproutes: warning: this account may not list and watch httproutes.gateway.networking.k8s.io, ",
        "grpcroutes: warning: this account may not list and watch grpcroutes.gateway.networking.k8s.io, ",
        "Namespace seen: warning: nothing is in it, and whether it is there is not known: ",
        "Lease seen/jitney-control-plane: warning: whether a control plane runs is not known: ",
    ] {
        assert_eq!(
            complained.matches(expected).count(),
            1,
            "{expected}: {complained}"
        );
    }
    assert_eq!(complained.lines().count(), 4, "{complained}");

    reader(&namespace, &json!([]));
    let (status, (_, complained)) = check();
    assert_eq!(status, Some(1), "{complained}");
    assert!(
        complained.contains("this account may not list and watch "),
        "{complained}"
    );
}

/// An account that may view Jitney's kinds, and do this.
fn reader(namespace: &Namespace, rules: &Value) {
    let (api, name) = ("rbac.authorization.k8s.io", namespace.name);
    let version = format!("{api}/v1");
    let subjects = json!([{"kind": "ServiceAccount", "name": "reader", "namespace": name}]);
    namespace.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}));
    let metadata = json!({"name": "reader"});
    namespace.apply(json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}));
    for (kind, role) in [("Role", "reader"), ("ClusterRole", "jitney-crds-view")] {
        namespace.apply(json!({
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "subjects": subjects,
            "roleRef": {"apiGroup": api, "kind": kind, "name": role},
        }));
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_a_fault() {
    installed().await;
    let mut check = Command::new(path("jitney-control-plane"));
    let output = check
        .args(["check", "--source", "kubernetes:nosuchns"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (said, complained) = told(output);
    assert_eq!(said, "0 batchpolicies, 0 backends, 0 runtimes: faults\n");
    let expected = "Namespace nosuchns: there is no namespace \"nosuchns\"";
    assert!(complained.contains(expected), "{complained}");
}

/// As while a control plane is rolled out: the replica that ends gives the Lease back before another takes it.
#[tokio::test]
async fn a_lease_that_changes_hands_is_no_fault() {
    installed().await;
    let namespace = Namespace::labelled("handed", &json!({}));
    let lease = |spec: Value| {
        namespace.apply(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "jitney-control-plane"}, "spec": spec,
        }));
    };
    let source = [
        "check",
        "--source",
        "kubernetes:handed",
        "--control-plane-namespace",
        "handed",
    ];
    lease(json!({"leaseTransitions": 1}));
    let mut check = Command::new(path("jitney-control-plane"));
    let check = check
        .args(source)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // However old it is by this clock: it is good for longer than any test.
    lease(json!({
        "leaseTransitions": 2, "holderIdentity": "other", "leaseDurationSeconds": i32::MAX,
        "renewTime": "2026-01-01T00:00:00.000000Z",
    }));
    let output = check.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    lease(
        json!({"leaseTransitions": 3, "holderIdentity": null, "leaseDurationSeconds": null, "renewTime": null}),
    );
    let output = Command::new(path("jitney-control-plane"))
        .args(source)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (_, complained) = told(output);
    assert!(
        complained.contains("no control plane runs: nobody holds it; "),
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
