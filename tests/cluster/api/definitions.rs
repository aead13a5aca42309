//! Our definitions, and what `kubectl` shows by them.

use std::process::Output;

use jitney_api::{
    AncestorRef, AncestorStatus, BatchPolicyStatus, CONTROLLER_NAME, Condition, ConditionStatus,
    ConditionType, Reason, Rejection, SidecarStatus, custom_resource_definitions, to_yaml,
};
use serde_json::{Value, json};

use super::chart::{DEFINITIONS, installed};
use crate::kubectl::{Namespace, get, kubectl, refused, succeeded, told};

#[tokio::test]
async fn they_are_taken_as_they_are() {
    installed().await;
    let documents = custom_resource_definitions().into_iter();
    let documents: Vec<_> = documents.map(|(_, definition)| to_yaml(&definition)).collect();
    let output = told(
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--filename",
            "-",
        ],
        &documents.join("---\n"),
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no warnings");
    let said = succeeded(output);
    for definition in DEFINITIONS {
        assert!(said.contains(definition), "{said}");
        let found = get(&["customresourcedefinition", definition]);
        let conditions = found["status"]["conditions"].as_array().unwrap().iter();
        let conditions: Vec<_> = conditions
            .map(|one| (one["type"].as_str(), one["status"].as_str()))
            .collect();
        let expected = [
            (Some("NamesAccepted"), Some("True")),
            (Some("Established"), Some("True")),
        ];
        assert_eq!(
            conditions, expected,
            "a schema that is not structural would be a third"
        );
    }
}

#[tokio::test]
async fn a_policy_shows_what_became_of_it() {
    installed().await;
    let namespace = Namespace::restricted("columns");
    namespace.apply(users());
    let _patched = succeeded(write_status(&namespace, &json!(status())));

    let table = kubectl(&["get", "bp", "--namespace", namespace.name]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let columns = ["NAME", "MODE", "TARGET", "ACCEPTED", "PROGRAMMED", "ACKED", "AGE"];
    assert_eq!(rows[0], columns);
    assert_eq!(
        rows[1][..6],
        ["users", "Shadow", "users", "True", "False", "41/42"],
        "{table}"
    );
    let found = namespace.get("batchpolicy/users")["status"].take();
    assert_eq!(
        serde_json::from_value::<BatchPolicyStatus>(found).unwrap(),
        status()
    );
    let by_category = kubectl(&["get", "jitney", "--namespace", namespace.name]);
    assert!(by_category.contains("users"), "{by_category}");
}

#[tokio::test]
async fn a_status_is_written_apart_and_checked() {
    installed().await;
    let namespace = Namespace::restricted("statuses");
    namespace.apply(users());
    let _patched = succeeded(write_status(&namespace, &json!(status())));
    let mut policy = users();
    policy["status"] = json!({"sidecars": {"selected": 1, "acked": 0, "rejected": 0, "stale": 0}});
    namespace.apply(policy);
    let found = namespace.get("batchpolicy/users");
    assert_eq!(found["status"]["sidecars"]["acked"], 41, "{found}");

    let good = status();
    let twice = [&good.ancestors[0].conditions[0]; 2];
    let ancestor = json!({"ancestorRef": {"kind": "Service", "name": "a"}, "controllerName": "x"});
    for (conditions, field) in [
        (json!([]), "status.ancestors[0].conditions"),
        (json!(twice), "status.ancestors[0].conditions[1]"),
        (
            json!([{"type": "Accepted", "status": "Yes"}]),
            "status.ancestors[0].conditions[0].status",
        ),
    ] {
        let mut ancestor = ancestor.clone();
        ancestor["conditions"] = conditions;
        let output = write_status(&namespace, &json!({"ancestors": [ancestor]}));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(field),
            "{field}: {said}"
        );
    }
}

#[tokio::test]
async fn fields_are_explained() {
    installed().await;
    for (field, expected) in [
        ("batchpolicy", "Which calls are gathered into batches, and how."),
        ("batchpolicy.spec.routes", "exactly one of its fields"),
        ("bp.spec.mode", "- `Shadow`: Batches are formed and reported"),
        ("batchpolicy.spec.routes.batch.maxBytes", "1 to 256Mi"),
        (
            "batchpolicy.status.sidecars.lastRejection",
            "Why one of them cannot.",
        ),
        ("backends.jitney.dev.spec.endpoints", "an IPv6 address"),
        (
            "runtimes.jitney.dev.spec.authorization.rules.from",
            "Callers, as their certificates say",
        ),
    ] {
        let said = kubectl(&["explain", field]);
        assert!(said.contains(expected), "{field}: {said}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_by_name() {
    installed().await;
    let route = json!({"codec": {"jsonRpc": {}}, "batch": {"maxSzie": 4}});
    for (spec, field) in [
        (json!({"tragetRefs": []}), "spec.tragetRefs"),
        (json!({"routes": [route]}), "spec.routes[0].batch.maxSzie"),
        (
            json!({"routes": [{"codec": {"jsonRpc": {"version": 2}}}]}),
            "spec.routes[0].codec.jsonRpc.version",
        ),
    ] {
        let said = refused(&policy("unknown", &spec));
        assert!(said.contains(&format!("unknown field \"{field}\"")), "{said}");
    }
}

/// Writes the status of [`users`] as the control plane does, which nobody else may.
fn write_status(namespace: &Namespace, status: &Value) -> Output {
    let patch = json!({"status": status}).to_string();
    let whose = ["patch", "batchpolicy", "users", "--namespace", namespace.name];
    let how = ["--subresource", "status", "--type", "merge", "--patch", &patch];
    told(&[&whose[..], &how].concat(), "")
}

fn users() -> Value {
    policy(
        "users",
        &json!({
            "targetRefs": [{"name": "users"}],
            "mode": "Shadow",
            "routes": [{"codec": {"jsonRpc": {}}}],
        }),
    )
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "jitney.dev/v1alpha1", "kind": "BatchPolicy", "metadata": {"name": name}, "spec": spec})
}

fn status() -> BatchPolicyStatus {
    let condition = |kind: ConditionType, status, reason: Reason| Condition {
        kind: kind.to_string(),
        status,
        reason: reason.to_string(),
        message: "41 of 42 sidecars run generation 1".to_owned(),
        last_transition_time: "2026-01-31T23:59:59Z".to_owned(),
        observed_generation: Some(1),
    };
    let mut sidecars = SidecarStatus {
        selected: 42,
        acked: 41,
        rejected: 1,
        last_rejection: Some(Rejection {
            sidecar: "shop/users-7c9".to_owned(),
            field: "spec.routes[0].batch.maxBytes".to_owned(),
            reason: "over its memory limit".to_owned(),
        }),
        ..SidecarStatus::default()
    };
    sidecars.summary = sidecars.summary();
    BatchPolicyStatus {
        ancestors: vec![AncestorStatus {
            ancestor_ref: AncestorRef {
                group: String::new(),
                kind: "Service".to_owned(),
                namespace: None,
                name: "users".to_owned(),
                section_name: None,
            },
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: vec![
                condition(ConditionType::Accepted, ConditionStatus::True, Reason::Accepted),
                condition(
                    ConditionType::ResolvedRefs,
                    ConditionStatus::True,
                    Reason::ResolvedRefs,
                ),
                condition(
                    ConditionType::Programmed,
                    ConditionStatus::False,
                    Reason::PartiallyProgrammed,
                ),
            ],
        }],
        sidecars: Some(sidecars),
    }
}
