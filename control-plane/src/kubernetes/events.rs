//! Events of Kubernetes: each is told once, beside what it is about.

use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::authority::MANAGER;

/// What is told of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// What the Event is called: one name is told of once.
    pub(crate) name: String,
    /// The namespace in which it is written.
    pub(crate) namespace: String,
    /// What it is about.
    pub(crate) about: About,
    /// In one word.
    pub(crate) reason: &'static str,
    /// In a sentence; of a longer one than an Event may have, its beginning.
    pub(crate) note: String,
}

/// An object as an Event names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// `None` of what is in none.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Tells, as this replica. False when somebody has told of it before, or nobody can any more.
///
/// # Errors
/// The API server's own.
///
/// # Cancellation
/// It may be told all the same.
pub(crate) async fn tell(client: &Client, replica: &str, told: &Told) -> kube::Result<bool> {
    let About {
        api_version,
        kind,
        namespace,
        name,
        uid,
    } = &told.about;
    let event = serde_json::from_value::<Event>(json!({
        "metadata": {"name": told.name, "namespace": told.namespace},
        "eventTime": now(),
        "type": "Warning",
        "reason": told.reason,
        "action": "Inject",
        "note": &told.note[..told.note.floor_char_boundary(NOTE_BYTES)],
        "regarding": {"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name, "uid": uid},
        "reportingController": format!("jitney.dev/{MANAGER}"),
        "reportingInstance": replica,
    }));
    let event = event.map_err(kube::Error::SerdeError)?;
    let events = Api::<Event>::namespaced(client.clone(), &told.namespace);
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(true),
        // Whoever led before has told of it, or it is about to be gone, and its namespace.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(kube::Error::Api(status)) if status.message.contains("being terminated") => Ok(false),
        Err(error) => Err(error),
    }
}

/// As times with microseconds are written.
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let now = now.format(&Rfc3339).unwrap_or_default();
    now.replace('Z', ".000000Z")
}

/// The API server refuses a longer one.
const NOTE_BYTES: usize = 1024;
