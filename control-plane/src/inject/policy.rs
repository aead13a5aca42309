//! The same sidecars without a webhook: the API server's own policies (`MutatingAdmissionPolicy`, Kubernetes
//! 1.36), which no server has to answer for. They are made of what the function gives a plain pod, so that both
//! say the same; a pod with wishes is refused, since only code can read them. Probes stay as they are: kubelet's
//! get through as long as callers need not prove who they are.

use serde_json::{Value, json};

mod warnings;

use super::probes::Asked;
use super::webhook::said;
use super::{CLUSTER_NAMESPACE, GROUP, INJECT, INJECTED, PROXY, SettingsArgs, USER, Wishes, sidecar};

/// The policy that gives pods their sidecars, the one that refuses those that should have one and do not, the one that
/// warns of what a sidecar may not do in one, and what puts them in force.
pub fn policies(settings: &SettingsArgs) -> Vec<Value> {
    let own = [CLUSTER_NAMESPACE, &settings.control_plane_namespace];
    let constraints = json!({
        "namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": own},
        ]},
        "resourceRules": [{
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
        }],
    });
    let mut plain = conditions();
    plain.push(json!({"name": "has-no-wishes", "expression": format!("!{}", has_wishes())}));
    plain.push(json!({"name": "runs-as-others", "expression": format!("!{}", runs_as_ours())}));
    plain.push(json!({"name": "is-understood", "expression": format!("!{}", is_odd())}));
    // Match conditions do not know the namespace, and expressions do.
    let patch = format!("{} ? {} : []", asked_for(), patch(settings));
    let injects = json!({
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": constraints,
        "matchConditions": plain,
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
    });
    let is_not_asked_for = format!("!{}", asked_for());
    let is_ours =
        format!("user {USER} is the sidecar's: no container of a pod that may have one can run as it");
    let refuses = json!({
        "failurePolicy": "Fail",
        "matchConstraints": constraints,
        "matchConditions": conditions(),
        "validations": [
            {"expression": format!("!({} && {})", asked_for(), is_odd()), "reason": "Forbidden", "messageExpression": odd_word()},
            {"expression": format!("!({} && {})", asked_for(), runs_as_ours()), "reason": "Forbidden", "message": is_ours},
            {"expression": is_not_asked_for, "reason": "Forbidden", "message": REFUSED},
        ],
    });
    let warns = warnings::policy(&constraints, settings);
    let action = |name: &str, action: &str| json!({"policyName": name, "validationActions": [action]});
    vec![
        of_kind("MutatingAdmissionPolicy", NAME, &injects),
        of_kind(
            "MutatingAdmissionPolicyBinding",
            NAME,
            &json!({"policyName": NAME}),
        ),
        of_kind("ValidatingAdmissionPolicy", NAME, &refuses),
        of_kind("ValidatingAdmissionPolicyBinding", NAME, &action(NAME, "Deny")),
        of_kind("ValidatingAdmissionPolicy", warnings::NAME, &warns),
        of_kind(
            "ValidatingAdmissionPolicyBinding",
            warnings::NAME,
            &action(warnings::NAME, "Warn"),
        ),
    ]
}

fn of_kind(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Whether a pod or its namespace wants a sidecar.
fn asked_for() -> String {
    let (label, annotation) = (said("labels"), said("annotations"));
    let namespace = format!("namespaceObject.metadata.?labels['{INJECT}'].orValue('')");
    format!("({namespace} == 'enabled' || {label} == 'enabled' || {annotation} == 'enabled')")
}

/// Whether a container of this name is among those that a pod begins with.
fn begins_with(name: &str) -> String {
    format!("object.spec.?initContainers.orValue([]).exists(one, one.name == '{name}')")
}

/// Whether a pod says of sidecars what nobody understands.
fn is_odd() -> String {
    let is_odd = |field| format!("!({} in ['', 'enabled', 'disabled'])", said(field));
    format!("({} || {})", is_odd("labels"), is_odd("annotations"))
}

/// What is said then, in the words of the webhook.
fn odd_word() -> String {
    let (label, annotation) = (said("labels"), said("annotations"));
    let odd = format!("({label} in ['', 'enabled', 'disabled'] ? {annotation} : {label})");
    format!("'{INJECT}: found \"' + {odd} + '\", expected enabled or disabled'")
}

/// Which pods may have a sidecar, and have none.
fn conditions() -> Vec<Value> {
    let (label, annotation) = (said("labels"), said("annotations"));
    [
        (
            "not-declined",
            format!("{label} != 'disabled' && {annotation} != 'disabled'"),
        ),
        (
            "not-of-the-node",
            "!object.spec.?hostNetwork.orValue(false)".to_owned(),
        ),
        (
            "for-linux",
            "object.spec.?os.?name.orValue('linux') == 'linux'".to_owned(),
        ),
        (
            "has-no-sidecar",
            format!(
                "!object.spec.containers.exists(one, one.name == '{PROXY}') && !{}",
                begins_with(PROXY)
            ),
        ),
    ]
    .map(|(name, expression)| json!({"name": name, "expression": expression}))
    .to_vec()
}

/// Whether annotations are there that the function reads.
fn has_wishes() -> String {
    format!(
        "object.metadata.?annotations.orValue({{}}).exists(name, \
         name.startsWith('{GROUP}') && !(name in ['{INJECT}', '{INJECTED}']))"
    )
}

/// Whether something of the pod runs as the sidecar's user, by which the kernel knows what not to hand over.
fn runs_as_ours() -> String {
    let user = format!("?securityContext.?runAsUser.orValue(0) == {USER}");
    let container = format!("one, one.{user}");
    format!(
        "(object.spec.{user} || object.spec.containers.exists({container}) || \
         object.spec.?initContainers.orValue([]).exists({container}))"
    )
}

/// What the function changes for a plain pod, as an expression.
fn patch(settings: &SettingsArgs) -> String {
    let containers = sidecar::containers(&Wishes::default(), &Asked::new(), settings);
    let first = containers.iter().enumerate();
    let first = first.map(|(at, one)| add(&format!("'/spec/initContainers/{at}'"), &literal(one)));
    let last = sidecar::volumes();
    let last = last.iter().map(|one| add("'/spec/volumes/-'", &literal(one)));
    let labelled = add(
        &format!("'/metadata/labels/' + jsonpatch.escapeKey('{INJECTED}')"),
        "'true'",
    );
    let all = |path: &str, items: Vec<Value>| add(path, &literal(&items.into()));
    let branches = [
        (
            "metadata.labels",
            labelled,
            add("'/metadata/labels'", &literal(&json!({INJECTED: "true"}))),
        ),
        (
            "spec.initContainers",
            first.collect::<Vec<_>>().join(", "),
            all("'/spec/initContainers'", containers.clone()),
        ),
        (
            "spec.volumes",
            last.collect::<Vec<_>>().join(", "),
            all("'/spec/volumes'", sidecar::volumes()),
        ),
    ];
    let branches = branches.map(|(field, some, none)| format!("(has(object.{field}) ? [{some}] : [{none}])"));
    branches.join(" + ")
}

fn add(path: &str, value: &str) -> String {
    format!("JSONPatch{{op: 'add', path: {path}, value: {value}}}")
}

/// A value as CEL writes it. Lists and maps of Kubernetes' CEL have values of one type: any.
fn literal(value: &Value) -> String {
    let any = |value: &Value| format!("dyn({})", literal(value));
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(any).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), any(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        // Its words for these, and its escapes in texts, are JSON's.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

const NAME: &str = "jitney-injector";
const REFUSED: &str = "the pod is to have a sidecar and was given none: its jitney.dev/ annotations are read by the \
                       webhook and by `jitney-control-plane inject` only, not by this policy";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::tests::settings;

    #[test]
    fn values_are_written_as_cel() {
        let value = json!({"a": [1, true, null], "b c": "it's \"so\"\n"});
        assert_eq!(
            literal(&value),
            r#"{"a": dyn([dyn(1), dyn(true), dyn(null)]), "b c": dyn("it's \"so\"\n")}"#
        );
    }

    #[test]
    fn settings_are_in_the_policy() {
        let policies = policies(&settings(&["--proxy-image", "example.org/p@sha256:0"]));
        let kinds: Vec<_> = policies
            .iter()
            .map(|policy| policy["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds.len(), 6, "{kinds:?}");
        assert!(policies[0].to_string().contains("example.org/p@sha256:0"));
    }
}
