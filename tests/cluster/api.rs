//! An API server alone: what it takes, and what it refuses.

use jitney_tests::wait;
use serde_json::{Value, json};

use crate::kubectl::{apply, get, kubectl, refused};

/// The group of a kind that only this test knows.
const GROUP: &str = "test.jitney.dev";

#[test]
fn the_server_answers_with_its_version() {
    let version: Value = serde_json::from_str(&kubectl(&["version", "--output", "json"])).unwrap();
    let (client, server) = (&version["clientVersion"], &version["serverVersion"]);
    assert_eq!(client["gitVersion"], server["gitVersion"], "of one build");
}

/// What validation in our own definitions stands on.
#[tokio::test]
async fn a_rule_of_a_definition_refuses_an_object_by_its_field() {
    apply(&definition());
    wait::until("its kind is served", || {
        kubectl(&["api-resources", "--api-group", GROUP, "--output", "name"]).contains("samples")
    })
    .await;

    apply(&sample("good", 1));
    assert_eq!(get(&["sample", "good"])["spec"]["size"], 1);

    let said = refused(&sample("bad", 0));
    assert!(said.contains("spec.size"), "{said}");
    assert!(said.contains("a batch of none is no batch"), "{said}");
}

fn sample(name: &str, size: u32) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "Sample",
        "metadata": {"name": name},
        "spec": {"size": size},
    })
}

fn definition() -> Value {
    let size = json!({
        "type": "integer",
        "x-kubernetes-validations": [{"rule": "self > 0", "message": "a batch of none is no batch"}],
    });
    let schema = json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": size}}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("samples.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {"kind": "Sample", "plural": "samples", "singular": "sample"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}
