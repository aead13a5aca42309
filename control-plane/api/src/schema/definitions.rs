//! The custom resource definitions of Kubernetes: kinds, their names and what `kubectl get` shows of them.

use serde_json::{Value, json};

use super::structural::structural;
use super::whole_schemas;
use crate::document::API_VERSION;

/// The definition of each kind that is an object of Kubernetes, by the kind's name. Where the kernel hands
/// connections to the sidecar, nobody writes a Listener.
pub fn custom_resource_definitions() -> Vec<(&'static str, Value)> {
    let schemas = whole_schemas();
    let definition = |kind: &Kind| {
        let (_, schema) = schemas.iter().find(|(name, _)| *name == kind.name)?;
        Some((kind.name, kind.definition(schema)))
    };
    KINDS.iter().filter_map(definition).collect()
}

/// How a kind is called, and what is shown of its objects.
struct Kind {
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    labels: &'static [(&'static str, &'static str)],
    columns: &'static [Column],
    /// Whether the control plane writes a status, which nobody else may.
    has_status: bool,
}

/// A column of `kubectl get`: its name, what its value is, where that is found, and what it says.
struct Column(&'static str, &'static str, &'static str, &'static str);

impl Kind {
    fn definition(&self, schema: &Value) -> Value {
        let (group, version) = API_VERSION.split_once('/').unwrap_or_default();
        let mut served = json!({
            "name": version,
            "served": true,
            "storage": true,
            "schema": {"openAPIV3Schema": structural(schema)},
            "additionalPrinterColumns": self.columns.iter().map(Column::definition).collect::<Value>(),
        });
        if self.has_status {
            served["subresources"] = json!({"status": {}});
        }
        let mut metadata = json!({"name": format!("{}.{group}", self.plural)});
        for (name, value) in self.labels {
            metadata["labels"][name] = (*value).into();
        }
        let mut names = json!({
            "kind": self.name,
            "listKind": format!("{}List", self.name),
            "plural": self.plural,
            "singular": self.singular,
            "categories": ["jitney"],
        });
        if !self.short.is_empty() {
            names["shortNames"] = self.short.into();
        }
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": metadata,
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
        })
    }
}

impl Column {
    fn definition(&self) -> Value {
        let Self(name, kind, path, description) = self;
        json!({"name": name, "type": kind, "jsonPath": path, "description": description})
    }
}

const AGE: Column = Column("Age", "date", ".metadata.creationTimestamp", "How old it is.");

const ACKED: Column = Column(
    "Acked",
    "string",
    ".status.sidecars.summary",
    "How many sidecars run it, of how many that are to.",
);

const KINDS: [Kind; 3] = [
    Kind {
        name: "BatchPolicy",
        plural: "batchpolicies",
        singular: "batchpolicy",
        short: &["bp"],
        // GEP-713: it may be for a Service or a route to it, and then the latter's counts.
        labels: &[("gateway.networking.k8s.io/policy", "Inherited")],
        columns: &[
            Column("Mode", "string", ".spec.mode", "Whether calls are merged."),
            // Of several values the server shows the first.
            Column(
                "Target",
                "string",
                ".spec.targetRefs[*].name",
                "What the policy is for; the first of several.",
            ),
            Column(
                "Accepted",
                "string",
                r#".status.ancestors[*].conditions[?(@.type=="Accepted")].status"#,
                "Whether the policy is valid and has its first target.",
            ),
            Column(
                "Programmed",
                "string",
                r#".status.ancestors[*].conditions[?(@.type=="Programmed")].status"#,
                "Whether all sidecars run it.",
            ),
            ACKED,
            AGE,
        ],
        has_status: true,
    },
    Kind {
        name: "Backend",
        plural: "backends",
        singular: "backend",
        short: &[],
        labels: &[],
        columns: &[
            Column("Protocol", "string", ".spec.protocol", "How it is spoken to."),
            Column(
                "mTLS",
                "string",
                ".spec.mtls",
                "Whether connections to it are secured.",
            ),
            AGE,
        ],
        has_status: false,
    },
    Kind {
        name: "Runtime",
        plural: "runtimes",
        singular: "runtime",
        short: &[],
        labels: &[],
        columns: &[
            Column("Mode", "string", ".spec.mode", "The most that any route does."),
            Column("mTLS", "string", ".spec.mtls.mode", "What callers have to prove."),
            Column(
                "Authorization",
                "string",
                ".spec.authorization.mode",
                "What becomes of calls that no rule allows.",
            ),
            Column(
                "Accepted",
                "string",
                r#".status.conditions[?(@.type=="Accepted")].status"#,
                "Whether it is valid.",
            ),
            Column(
                "Programmed",
                "string",
                r#".status.conditions[?(@.type=="Programmed")].status"#,
                "Whether all sidecars of the workload run it; Unknown where there is none.",
            ),
            ACKED,
            AGE,
        ],
        has_status: true,
    },
];
