//! Manifests in, manifests out.

use serde_json::json;

use super::*;
use crate::inject::tests::settings;

/// What comes out: the manifests, the notes and the faults.
fn injected(text: &str) -> (String, Vec<String>, Vec<String>) {
    let settings = settings(&[]);
    let mut all = Manifests::new("default", &settings);
    all.add("m.yaml", text);
    (all.out, all.notes, all.faults)
}

#[track_caller]
fn values(text: &str) -> Vec<Value> {
    let documents = documents(text).into_iter();
    documents.map(|(_, text)| parsed(text).unwrap()).collect()
}

#[track_caller]
fn written(text: &str) -> Vec<Value> {
    let (out, _, faults) = injected(text);
    assert_eq!(faults, Vec::<String>::new());
    values(&out)
}

#[test]
fn every_kind_with_a_pod_gets_a_sidecar_in_it() {
    for (group, kind, pointer) in [
        ("v1", "Pod", ""),
        ("v1", "ReplicationController", "/spec/template"),
        ("apps/v1", "Deployment", "/spec/template"),
        ("apps/v1", "StatefulSet", "/spec/template"),
        ("apps/v1", "DaemonSet", "/spec/template"),
        ("apps/v1", "ReplicaSet", "/spec/template"),
        ("batch/v1", "Job", "/spec/template"),
        ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
    ] {
        let mut object = json!({"spec": {"containers": [{"name": "users"}]}});
        for field in pointer.rsplit('/').filter(|field| !field.is_empty()) {
            object = json!({field: object});
        }
        object["apiVersion"] = group.into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = "users".into();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [object]});
        for (text, at) in [(object.to_string(), ""), (list.to_string(), "/items/0")] {
            let written = written(&text);
            let name = format!("{at}{pointer}/spec/initContainers/1/name");
            assert_eq!(written[0].pointer(&name).unwrap(), "jitney-proxy", "{kind}{at}");
        }
    }
}

#[test]
fn other_documents_are_passed_on_as_they_were_written() {
    let service = "# of users\nkind:   Service\napiVersion: v1\nmetadata: {name: users} # this\n";
    let of_others = "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: x}\n";
    let text = format!("{service}---\n\n{of_others}--- # nothing\n");
    let (out, notes, faults) = injected(&text);
    assert_eq!(out, format!("---\n{service}---\n{of_others}"));
    assert_eq!((notes, faults), (vec![], vec![]));
}

#[test]
fn what_is_written_anew_means_the_same() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: users
  annotations: {on: 'yes', size: '0644', at: '12:30:45', big: '1e3', no: '', text: \"a: b\\n  c\\n\"}
spec:
  containers:
  - name: users
    env: &env [{name: A, value: 'true'}, {name: B, value: 'null'}, {name: C, value: '~'}]
    command:
    - sh
    - -c
    - |
      echo '--- no mark'
       indented
    tty: yes
  - {name: other, env: *env}
  volumes: [{name: keys, secret: {secretName: keys, defaultMode: 0644}}]
";
    let (before, after) = (&values(text)[0], &written(text)[0]);
    assert_eq!(after["spec"]["volumes"][0]["secret"]["defaultMode"], 0o644);
    assert_eq!(after["spec"]["containers"][0]["tty"], true);
    assert_eq!(after["spec"]["containers"], before["spec"]["containers"]);
    assert_eq!(
        after["metadata"]["annotations"],
        before["metadata"]["annotations"]
    );
    let annotations = after["metadata"]["annotations"].as_object().unwrap();
    assert!(annotations.values().all(Value::is_string), "{annotations:?}");
}

#[test]
fn what_is_injected_already_is_passed_on() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: users}\nspec: {containers: []}\n";
    let (once, notes, _) = injected(pod);
    assert_eq!(notes, Vec::<String>::new());
    let (twice, notes, _) = injected(&once);
    assert_eq!(twice, once);
    assert_eq!(
        notes,
        ["m.yaml:2: Pod default/users: left as it is: it has a sidecar"]
    );
}

#[test]
fn every_fault_is_told_with_its_document() {
    let text = "\
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: users, namespace: shop}
spec: {template: {metadata: {annotations: {jitney.dev/mode: none}}, spec: {containers: []}}}
---
a: b: c
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
";
    let (_, _, faults) = injected(text);
    assert_eq!(
        faults[0],
        "m.yaml:2: Deployment shop/users: jitney.dev/mode: found \"none\", expected Redirect or NoRedirect"
    );
    assert!(faults[1].starts_with("m.yaml:7: "), "{}", faults[1]);
    assert_eq!(
        faults[2],
        "m.yaml:9: DaemonSet default/logs: spec.template: expected a pod's template"
    );
}
