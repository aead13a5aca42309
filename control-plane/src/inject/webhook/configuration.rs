//! What the API server is told of the webhook: which pods to ask about. Narrow, so that while nobody answers
//! only those pods are not made that would have a sidecar.

use serde_json::{Value, json};

use super::{BY_THE_POD, FOR_ALL};
use crate::inject::{CLUSTER_NAMESPACE, INJECT, SettingsArgs};

/// The `MutatingWebhookConfiguration`, without the authority, which the control plane writes into it.
pub fn configuration(settings: &SettingsArgs) -> Value {
    let wanted = json!({"key": INJECT, "operator": "In", "values": ["enabled"]});
    let unsaid = json!({"key": INJECT, "operator": "NotIn", "values": ["enabled"]});
    let (of_label, of_annotation) = (said("labels"), said("annotations"));
    let is_not_no = format!("{of_label} != 'disabled' && {of_annotation} != 'disabled'");
    let is_yes = format!("{of_label} == 'enabled' || {of_annotation} == 'enabled'");
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [
            webhook("namespaces", FOR_ALL, &wanted, &is_not_no, settings),
            webhook("pods", BY_THE_POD, &unsaid, &is_yes, settings),
        ],
    })
}

fn webhook(name: &str, path: &str, namespaces: &Value, pods: &str, settings: &SettingsArgs) -> Value {
    let own = [CLUSTER_NAMESPACE, &settings.control_plane_namespace];
    json!({
        "name": format!("{name}.inject.jitney.dev"),
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {
            "name": SERVICE,
            "namespace": settings.control_plane_namespace,
            "path": path,
            "port": PORT,
        }},
        "rules": [{
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }],
        "namespaceSelector": {"matchExpressions": [
            namespaces,
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": own},
        ]},
        "matchConditions": [
            {"name": "asked-for", "expression": pods},
            {"name": "not-of-the-node", "expression": "!object.spec.?hostNetwork.orValue(false)"},
        ],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 5,
        // What another webhook adds later is behind the sidecar all the same, and a pod has only one.
        "reinvocationPolicy": "Never",
    })
}

/// What a pod says in its labels or annotations, as CEL.
pub(crate) fn said(field: &str) -> String {
    format!("object.metadata.?{field}['{INJECT}'].orValue('')")
}

/// What it is called where nobody says otherwise.
pub(super) const NAME: &str = "jitney-injector";
/// The control plane's Service, and its port for the API server.
pub(crate) const SERVICE: &str = "jitney-control-plane";
const PORT: u16 = 15017;
