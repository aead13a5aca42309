//! Kinds of the Gateway API, defined as far as somebody needs them who reads them only.

use serde_json::{Value, json};

use crate::kubectl::{apply, kubectl};

const KINDS: [(&str, &str); 2] = [("HTTPRoute", "httproutes"), ("GRPCRoute", "grpcroutes")];
const GROUP: &str = "gateway.networking.k8s.io";

/// The definitions, until this is dropped.
pub(crate) struct Definitions;

impl Definitions {
    /// Returns when the API server serves the kinds.
    pub(crate) fn applied() -> Self {
        for (kind, plural) in KINDS {
            apply(&definition(kind, plural));
            let object = format!("customresourcedefinition/{plural}.{GROUP}");
            kubectl(&["wait", "--timeout=60s", "--for", "condition=Established", &object]);
        }
        Self
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        // What a test that failed has left goes with its cluster.
        let left = if std::thread::panicking() { &[] } else { &KINDS[..] };
        for (_, plural) in left {
            let name = format!("{plural}.{GROUP}");
            kubectl(&["delete", "--timeout=60s", "customresourcedefinition", &name]);
        }
    }
}

/// A kind whose objects say whatever they say.
fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            // The server asks for a word on who may define kinds of this group.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}
