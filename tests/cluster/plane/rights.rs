//! Each right of the chart's roles is needed: without it the control plane says by name what it may not do. It is
//! started once for each, with all the others.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, SystemTime};

use jitney_control_plane::inject::webhook::Authorities;
use jitney_tests::{Process, wait};
use serde_json::{Value, json};

use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::gateway::Definitions;
use crate::helm::{chart, helm};
use crate::kubectl::{Namespace, apply, kubectl, succeeded};
use crate::programs::{control_plane, path};

/// One verb on one sort of objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    /// Which of them; all, if empty.
    names: Vec<String>,
    verb: String,
    /// Of the role in the control plane's own namespace.
    is_own: bool,
}

impl Right {
    /// What an API server says to whoever lacks it.
    fn denial(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }

    fn rule(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb]});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }

    fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }
}

#[tokio::test]
async fn without_any_one_right_it_says_what_it_may_not_do() {
    let _alone = ALONE.lock().await;
    installed().await;
    let rights = rights();
    assert!(rights.len() > 25, "{rights:?}");
    let mut silent = Vec::new();
    for (index, right) in rights.iter().enumerate() {
        if let Err(said) = tried(index, right, &rights).await {
            silent.push(format!("{right:?}:\n{said}"));
        }
    }
    // It would be missed by others, too.
    let bare = ["pod", "bare", "--namespace", "default"];
    kubectl(
        &[
            &["delete", "--grace-period=0", "--force", "--ignore-not-found"],
            &bare[..],
        ]
        .concat(),
    );
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

/// All that the chart allows, a verb at a time.
fn rights() -> Vec<Right> {
    let text = helm(&["template", "jitney", &chart("jitney"), "--namespace", "rights"]);
    let objects = serde_saphyr::from_multiple::<Value>(&text).unwrap();
    let roles = objects
        .iter()
        .filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap_or_default()));
    let mut rights = BTreeSet::new();
    for role in roles {
        let texts = |of: &Value| -> Vec<String> {
            let texts = of.as_array().into_iter().flatten();
            texts.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        for rule in role["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert(Right {
                            group: group.clone(),
                            resource: resource.clone(),
                            names: texts(&rule["resourceNames"]),
                            verb,
                            is_own: role["kind"] == "Role",
                        });
                    }
                }
            }
        }
    }
    rights.into_iter().collect()
}

/// Runs it with all rights but one until it tells; gives what it has said if it does not.
async fn tried(index: usize, without: &Right, all: &[Right]) -> Result<(), String> {
    let name: &'static str = format!("right-{index}").leak();
    let namespace = Namespace::labelled(name, &json!({}));
    let others: Vec<&Right> = all.iter().filter(|right| *right != without).collect();
    allow(&namespace, &others);
    scene(&namespace, without);
    // To list a kind takes the right to, whether it is defined or not; to watch it, something to watch.
    let is_of_routes = without.group == "gateway.networking.k8s.io" && without.verb == "watch";
    let _definitions = is_of_routes.then(Definitions::applied);
    let plane = Plane::start(name, "plane", &["--webhook-configuration", "rights"]);
    let denial = without.denial();
    // A log line may quote what it quotes.
    let said = || plane.said().replace("\\\"", "\"");
    let mut asked = Asked::default();
    let told = async {
        while !said().contains(&denial) {
            asked.ask_for(without, &plane).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(wait::PATIENCE, told).await;
    told.map_err(|_| said())
}

/// What only happens when somebody wants something.
#[derive(Default)]
struct Asked {
    done: bool,
    sidecar: Option<Process>,
}

impl Asked {
    /// Has the control plane do what takes the right, once.
    async fn ask_for(&mut self, right: &Right, plane: &Plane) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if right.is("create", "tokenreviews") {
            self.sidecar = Some(sidecar(plane).await);
        } else if right.is("update", "secrets") && right.names == ["jitney-authority"] {
            let admin = plane.address("admin endpoint listening").await;
            let url = format!("http://{admin}/trust/add");
            let post = [
                "-sS",
                "--max-time",
                "10",
                "--retry",
                "5",
                "--retry-all-errors",
                "-X",
                "POST",
                &url,
            ];
            let _answer = succeeded(Command::new("curl").args(post).output().unwrap());
        }
    }
}

/// Somebody who shows a token, and asks for a certificate.
async fn sidecar(plane: &Plane) -> Process {
    let folder = plane.folder();
    let address = plane.address("run: listening").await;
    let state = plane.state();
    let roots = control_plane(&["trust", "roots", "--state", state.to_str().unwrap()], "");
    for (file, text) in [("roots.pem", roots.as_str()), ("token", "any")] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let mut command = Command::new(path("jitney-proxy"));
    command
        .args([
            "run",
            "--node",
            "any",
            "--admin",
            "127.0.0.1:0",
            "--control-plane",
        ])
        .arg(format!("https://{address}"))
        .arg("--token-file")
        .arg(folder.join("token"))
        .arg("--trust-bundle")
        .arg(folder.join("roots.pem"));
    Process::run("the sidecar", command)
}

/// An account with all rights.
pub(super) fn allow_all(namespace: &Namespace) {
    let all = rights();
    allow(namespace, &all.iter().collect::<Vec<_>>());
}

/// An account with these rights.
fn allow(namespace: &Namespace, rights: &[&Right]) {
    let name = namespace.name;
    let metadata = json!({"name": "plane", "namespace": name});
    apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
    let api = "rbac.authorization.k8s.io";
    let subjects = json!([{"kind": "ServiceAccount", "name": "plane", "namespace": name}]);
    for (kind, is_own, metadata) in [
        ("ClusterRole", false, json!({"name": name})),
        ("Role", true, json!({"name": name, "namespace": name})),
    ] {
        let own = rights.iter().filter(|right| right.is_own == is_own);
        let mut rules: Vec<Value> = own.map(|right| right.rule()).collect();
        for rule in &mut rules {
            if rule["resources"][0] == "mutatingwebhookconfigurations" {
                rule["resourceNames"] = json!(["rights"]);
            }
        }
        let version = format!("{api}/v1");
        apply(&json!({"apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules}));
        let role = json!({"apiGroup": api, "kind": kind, "name": name});
        let binding = format!("{kind}Binding");
        apply(&json!({
            "apiVersion": version, "kind": binding, "metadata": metadata, "roleRef": role, "subjects": subjects,
        }));
    }
}

/// What the chart has made by now, and what there is to be told of.
fn scene(namespace: &Namespace, without: &Right) {
    let lease = json!({"name": "jitney-control-plane"});
    if !without.is("create", "leases") {
        namespace.apply(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease, "spec": {},
        }));
    }
    if without.is("update", "secrets") && without.names == ["jitney-webhook"] {
        let old = SystemTime::now() - Duration::from_secs(300 * 24 * 3600);
        let old = Authorities::generate(old).unwrap();
        namespace.apply(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "jitney-webhook"},
            "stringData": {"ca.crt": old.certificates(), "ca.key": old.keys()},
        }));
    }
    // Asked about nothing.
    let nowhere = json!({"matchLabels": {"kubernetes.io/metadata.name": "nowhere"}});
    let mut webhook = json!({
        "name": "rights.jitney.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": {"name": "none", "namespace": "nowhere"}},
        "namespaceSelector": nowhere,
    });
    webhook["rules"] = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
    }]);
    apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "rights"},
        "webhooks": [webhook],
    }));
    if without.is("patch", "batchpolicies/status") {
        namespace.apply(json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": "BatchPolicy",
            "metadata": {"name": "told"},
            "spec": {"routes": [{"codec": {"jsonRpc": {}}}]},
        }));
    }
    if without.is("patch", "runtimes/status") {
        namespace.apply(json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": "Runtime",
            "metadata": {"name": "told"},
            "spec": {"mode": "Shadow"},
        }));
    }
    if without.is("delete", "configmaps") {
        namespace.apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "jitney-roots"}, "immutable": true,
        }));
    }
    if without.is("create", "events") {
        // Its own namespace is none that pods get sidecars in.
        let metadata = json!({"name": "default", "namespace": "default"});
        apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
        let labels = json!({"jitney.dev/inject": "enabled"});
        apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "bare", "namespace": "default", "labels": labels},
            "spec": {"containers": [{"name": "users", "image": "users:1"}]},
        }));
    }
}
