//! Documents: what a file holds, each with the tree it was decoded from.

use std::cmp::Ordering;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::diagnostic::nearest;
use crate::node::{self, Node, Path};
use crate::{Backend, BatchPolicy, Diagnostic, Listener, Runtime, Severity, Sources};

/// Name and place of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The name: lower-case letters, digits, `-` and `.`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace; `default` where none is given. A control plane pushes a document to sidecars of its own
    /// namespace, and looks for a policy's targets there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// For selecting; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub labels: Ignored,
    /// For tools; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub annotations: Ignored,
    /// Written by Kubernetes: when the resource was made. Of two policies for the same the older one has it.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub creation_timestamp: Created,
    /// Written by Kubernetes; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub generation: Ignored,
    /// Written by Kubernetes; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub resource_version: Ignored,
    /// Written by Kubernetes; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub uid: Ignored,
    /// Written by Kubernetes; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub managed_fields: Ignored,
    /// Of which Kubernetes made the name; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub generate_name: Ignored,
    /// Who has something to do before the object is gone; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub finalizers: Ignored,
    /// Whose end is the object's end; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub owner_references: Ignored,
    /// Written by Kubernetes: since when the object is to go; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub deletion_timestamp: Ignored,
    /// Written by Kubernetes; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub deletion_grace_period_seconds: Ignored,
}

/// A value that is accepted and forgotten, so that what `kubectl get -o yaml` prints can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// When something was made, as Kubernetes writes it: in UTC and whole seconds, so that texts compare as times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created(Option<Box<str>>);

impl Created {
    /// What is older comes first, and last what may have been made at any time.
    pub fn age(&self) -> impl Ord {
        (self.0.is_none(), self.0.as_deref())
    }
}

impl PartialOrd for Created {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Created {
    /// By age.
    fn cmp(&self, other: &Self) -> Ordering {
        self.age().cmp(&other.age())
    }
}

impl<'de> Deserialize<'de> for Created {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `kubectl create --dry-run` writes null.
        let Some(text) = Option::<Box<str>>::deserialize(deserializer)? else {
            return Ok(Self::default());
        };
        let pattern = b"0000-00-00T00:00:00Z";
        let fits = |(found, digit): (u8, &u8)| match digit {
            b'0' => found.is_ascii_digit(),
            other => found == *other,
        };
        if text.len() == pattern.len() && text.bytes().zip(pattern).all(fits) {
            Ok(Self(Some(text)))
        } else {
            Err(D::Error::custom(format!(
                "found {text:?}, expected a time such as 2026-01-31T23:59:59Z"
            )))
        }
    }
}

/// The API version that this build reads, and the one of a document that names none.
pub(crate) const API_VERSION: &str = "jitney.dev/v1alpha1";

pub(crate) fn api_version() -> String {
    API_VERSION.to_owned()
}

/// Any resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// `kind: BatchPolicy`.
    BatchPolicy(BatchPolicy),
    /// `kind: Backend`.
    Backend(Backend),
    /// `kind: Listener`.
    Listener(Listener),
    /// `kind: Runtime`.
    Runtime(Runtime),
}

impl Resource {
    /// The kind as a document names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::BatchPolicy(_) => KINDS[0],
            Self::Backend(_) => KINDS[1],
            Self::Listener(_) => KINDS[2],
            Self::Runtime(_) => KINDS[3],
        }
    }

    /// Its name and namespace.
    pub const fn metadata(&self) -> &Metadata {
        match self {
            Self::BatchPolicy(policy) => &policy.metadata,
            Self::Backend(backend) => &backend.metadata,
            Self::Listener(listener) => &listener.metadata,
            Self::Runtime(runtime) => &runtime.metadata,
        }
    }
}

/// A resource and where it comes from.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// What it says.
    pub resource: Resource,
    node: Arc<Node>,
}

impl Document {
    pub(crate) fn fault(&self, path: &Path, message: impl Into<String>) -> Diagnostic {
        let place = self.node.place_of(path);
        Diagnostic {
            line: place.line,
            column: place.column,
            field: path.to_string(),
            ..Diagnostic::of_file(&self.file, message)
        }
    }

    pub(crate) fn warning(&self, path: &Path, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..self.fault(path, message)
        }
    }
}

/// Documents in the order of their files, then that within.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The documents.
    pub documents: Vec<Document>,
    /// What kept parts of the files from being read. The documents are then good for finding more
    /// faults, and for nothing else.
    pub(crate) faults: Vec<Diagnostic>,
    /// Files without a document.
    pub(crate) empty: Vec<Arc<str>>,
}

impl FromIterator<Document> for Documents {
    /// Documents that were read and found free of faults before.
    fn from_iter<T: IntoIterator<Item = Document>>(documents: T) -> Self {
        Self {
            documents: documents.into_iter().collect(),
            ..Self::default()
        }
    }
}

impl Documents {
    /// Parses every file. What is faulty is told by the functions that compile, together with what
    /// they find.
    pub fn read(sources: &Sources) -> Self {
        let mut all = Self::default();
        for source in &sources.files {
            match node::parse(&source.file, &source.text) {
                Ok(nodes) if nodes.is_empty() => all.empty.push(Arc::clone(&source.file)),
                Ok(nodes) => nodes.into_iter().for_each(|node| all.add(&source.file, node)),
                Err(fault) => all.faults.push(fault),
            }
        }
        all
    }

    /// Whether there is none, and nothing that could not be read.
    pub const fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.faults.is_empty()
    }

    /// Whether a file holds no document: it is empty, or holds blanks and comments.
    pub fn is_without(&self, file: &str) -> bool {
        self.empty.iter().any(|empty| **empty == *file)
    }

    /// Documents that stand in no file, each with the name that its faults are told by. Their places in it
    /// are not known.
    pub fn of_json(documents: impl IntoIterator<Item = (Arc<str>, serde_json::Value)>) -> Self {
        let mut all = Self::default();
        for (name, document) in documents {
            all.add(&name, Node::of_json(&document));
        }
        all
    }

    fn add(&mut self, file: &Arc<str>, node: Node) {
        let resource = match kind_of(&node) {
            Ok("BatchPolicy") => self.decode(file, &node, Resource::BatchPolicy),
            Ok("Backend") => self.decode(file, &node, Resource::Backend),
            Ok("Listener") => self.decode(file, &node, Resource::Listener),
            Ok(_) => self.decode(file, &node, Resource::Runtime),
            Err((field, message)) => {
                let path = Path::default();
                let path = if field.is_empty() { path } else { path.key(field) };
                self.fault(file, &node, &path, message);
                None
            }
        };
        if let Some(resource) = resource {
            self.documents.push(Document {
                file: Arc::clone(file),
                resource,
                node: Arc::new(node),
            });
        }
    }

    fn decode<T: for<'de> Deserialize<'de>>(
        &mut self,
        file: &Arc<str>,
        node: &Node,
        wrap: fn(T) -> Resource,
    ) -> Option<Resource> {
        let (value, faults) = node::decode::<T>(node);
        self.faults.extend(faults.into_iter().map(|fault| Diagnostic {
            line: fault.place.line,
            column: fault.place.column,
            field: fault.path.to_string(),
            ..Diagnostic::of_file(file, fault.message)
        }));
        value.map(wrap)
    }

    fn fault(&mut self, file: &Arc<str>, node: &Node, path: &Path, message: String) {
        let place = node.place_of(path);
        let (line, column, field) = (place.line, place.column, path.to_string());
        self.faults.push(Diagnostic {
            line,
            column,
            field,
            ..Diagnostic::of_file(file, message)
        });
    }
}

/// The kind of a document, one of [`KINDS`]; or the field at fault and what is wrong with it.
fn kind_of(node: &Node) -> Result<&'static str, (&'static str, String)> {
    if !matches!(node.value, node::Value::Map(_)) {
        return Err((
            "",
            format!(
                "found no map of fields, expected a document with kind: {}",
                KINDS.join(", ")
            ),
        ));
    }
    if let Some(version) = node.member("apiVersion")
        && version.text() != Some(API_VERSION)
    {
        let found = version
            .text()
            .map_or_else(|| "another value".to_owned(), |text| format!("{text:?}"));
        return Err(("apiVersion", format!("found {found}, expected {API_VERSION}")));
    }
    let expected = format!("expected one of {}", KINDS.join(", "));
    let Some(kind) = node.member("kind") else {
        return Err(("kind", format!("found nothing, {expected}")));
    };
    let found = kind
        .text()
        .ok_or_else(|| ("kind", format!("found no text, {expected}")))?;
    KINDS.into_iter().find(|known| *known == found).ok_or_else(|| {
        let meant = nearest(found, KINDS)
            .map(|name| format!(" (did you mean {name}?)"))
            .unwrap_or_default();
        ("kind", format!("found {found:?}, {expected}{meant}"))
    })
}

/// Kinds that this build reads.
const KINDS: [&str; 4] = ["BatchPolicy", "Backend", "Listener", "Runtime"];

#[cfg(test)]
mod tests;
