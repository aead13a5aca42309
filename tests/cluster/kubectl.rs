//! The cluster through `kubectl`: objects go in and come out as JSON.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const DRY_RUN: [&str; 6] = [
    "create",
    "--dry-run=server",
    "--output",
    "json",
    "--filename",
    "-",
];

/// A namespace of the cluster for one test. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: &'static str,
}

impl Namespace {
    /// Makes one in which pods may do no more than they have to.
    #[track_caller]
    pub(crate) fn restricted(name: &'static str) -> Self {
        Self::labelled(name, &json!({"pod-security.kubernetes.io/enforce": "restricted"}))
    }

    /// Makes one with labels.
    #[track_caller]
    pub(crate) fn labelled(name: &'static str, labels: &Value) -> Self {
        let metadata = json!({"name": name, "labels": labels});
        apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        Self { name }
    }

    /// Creates or changes an object in it.
    #[track_caller]
    pub(crate) fn apply(&self, mut object: Value) {
        object["metadata"]["namespace"] = self.name.into();
        apply(&object);
    }

    /// Waits until an object has got as far as `condition` says, in the words of `kubectl wait --for`.
    #[track_caller]
    pub(crate) fn wait(&self, object: &str, condition: &str) {
        kubectl(&[
            "wait",
            "--namespace",
            self.name,
            "--timeout=60s",
            "--for",
            condition,
            object,
        ]);
    }

    /// An object as it is now.
    #[track_caller]
    pub(crate) fn get(&self, object: &str) -> Value {
        get(&["--namespace", self.name, object])
    }

    /// What a pod's container has written.
    #[track_caller]
    pub(crate) fn logs(&self, pod: &str, container: &str) -> String {
        kubectl(&["logs", "--namespace", self.name, pod, "--container", container])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a test that failed has left is shown when the cluster ends.
        if !std::thread::panicking() {
            kubectl(&["delete", "namespace", self.name, "--wait=false"]);
        }
    }
}

/// Creates or changes an object that is in no namespace, or names its own.
#[track_caller]
pub(crate) fn apply(object: &Value) {
    let _applied = succeeded(try_apply(object));
}

/// Creates many objects at once, in this order; each can be changed by [`apply`].
#[track_caller]
pub(crate) fn create(objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let _created = kubectl_with(&["create", "--save-config", "--filename", "-"], &list.to_string());
}

/// How a pod with a service account reaches the API server, as a kubeconfig.
#[track_caller]
pub(crate) fn config_of(namespace: &str, account: &str) -> Value {
    let config = kubectl(&["config", "view", "--raw", "--minify", "--output=json"]);
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let token = kubectl(&["create", "token", account, "--namespace", namespace]);
    config["users"][0]["user"] = json!({"token": token.trim()});
    config["contexts"][0]["context"]["namespace"] = namespace.into();
    config
}

/// A token with which a pod's sidecar shows whose it is, as kubelet would have it made.
#[track_caller]
pub(crate) fn token_of_pod(namespace: &str, account: &str, pod: &str) -> String {
    let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod];
    let asked = [
        "create",
        "token",
        account,
        "--audience=jitney.dev",
        "--namespace",
        namespace,
    ];
    kubectl(&[&asked[..], &bound[..]].concat()).trim().to_owned()
}

/// As [`apply`]; gives what was said when it was refused.
#[track_caller]
pub(crate) fn refused(object: &Value) -> String {
    let output = try_apply(object);
    assert!(!output.status.success(), "{object} was taken");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs `kubectl` with something to read; gives what it says.
#[track_caller]
pub(crate) fn kubectl_with(arguments: &[&str], input: &str) -> String {
    succeeded(told(arguments, input))
}

/// What is said of an object that the server would not make.
#[track_caller]
pub(crate) fn refused_dry_run(object: &Value) -> String {
    let output = dry_run_output(object);
    assert!(!output.status.success(), "{object} was taken");
    String::from_utf8(output.stderr).unwrap()
}

/// All that the server says of an object that it would make or not, warnings included.
pub(crate) fn dry_run_output(object: &Value) -> Output {
    told(&DRY_RUN, &object.to_string())
}

/// What the server would make of an object; `None` when it would not.
pub(crate) fn try_dry_run(object: &Value) -> Option<Value> {
    let output = dry_run_output(object);
    serde_json::from_slice(&output.stdout).ok()
}

/// What the server would make of manifests, YAML or JSON, if they were created.
#[track_caller]
pub(crate) fn dry_run(manifests: &str) -> Vec<Value> {
    let printed = kubectl_with(&DRY_RUN, manifests);
    let objects = serde_json::Deserializer::from_str(&printed).into_iter();
    let objects: Vec<Value> = objects.map(Result::unwrap).collect();
    let items = |object: Value| match object["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![object],
    };
    objects.into_iter().flat_map(items).collect()
}

/// Objects as they are now: what `kubectl get` gives for `arguments`.
#[track_caller]
pub(crate) fn get(arguments: &[&str]) -> Value {
    let answer = kubectl(&[&["get", "--output", "json"], arguments].concat());
    serde_json::from_str(&answer).unwrap()
}

/// Runs `kubectl`; gives what it says.
#[track_caller]
pub(crate) fn kubectl(arguments: &[&str]) -> String {
    succeeded(bounded().args(arguments).output().unwrap())
}

/// `kubectl`, ended when it takes longer than any wait of these tests.
fn bounded() -> Command {
    let mut command = Command::new("timeout");
    command.args(["90", "kubectl"]);
    command
}

fn try_apply(object: &Value) -> Output {
    told(&["apply", "--filename", "-"], &object.to_string())
}

/// Runs `kubectl` to its end with a text to read.
pub(crate) fn told(arguments: &[&str], text: &str) -> Output {
    fed(bounded().args(arguments), text)
}

/// Runs a program to its end with a text to read.
pub(crate) fn fed(program: &mut Command, text: &str) -> Output {
    let mut program = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    let text = text.to_owned();
    // It may answer before it has read all of it.
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = program.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    output
}

/// What a program said that has to succeed.
#[track_caller]
pub(crate) fn succeeded(output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
