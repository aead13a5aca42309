//! An Event for each pod without the sidecar that it is to have, and for whoever asks for some in words that nobody
//! understands: once, whoever leads.

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bare::{Why, Without};
use crate::inject::INJECT;
use crate::kubernetes::authority::MANAGER;

/// Who writes them.
pub(super) struct Events {
    client: Client,
    replica: String,
    /// Those that were told of, by their uids; no more than there are.
    told: BTreeSet<String>,
}

impl Events {
    /// Nothing is told yet.
    pub(super) const fn new(client: Client, replica: String) -> Self {
        Self {
            client,
            replica,
            told: BTreeSet::new(),
        }
    }

    /// Tells of those that are not told of, a few at a time.
    pub(super) async fn tell(&mut self, missed: &[Without]) -> Result<(), String> {
        self.told = missed.iter().filter_map(|pod| self.told.take(&pod.uid)).collect();
        let news = missed.iter().filter(|pod| !self.told.contains(&pod.uid));
        let news: Vec<&Without> = news.take(AT_ONCE).collect();
        for pod in news {
            match self.write(pod).await {
                Ok(_) => {
                    let (kind, namespace, name) = (pod.kind, &pod.namespace, &pod.name);
                    tracing::warn!(kind, namespace, name, "{}", pod.why.note());
                }
                // Whoever led before has told of it, or it is about to be gone, and its namespace.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(kube::Error::Api(status)) if status.message.contains("being terminated") => {}
                Err(error) => return Err(format!("Event in {}: {error}", namespace_of(pod))),
            }
            self.told.insert(pod.uid.clone());
        }
        Ok(())
    }

    async fn write(&self, pod: &Without) -> kube::Result<()> {
        let event = serde_json::from_value::<Event>(json!({
            // One name for one object: it cannot be told of twice.
            "metadata": {"name": format!("jitney-missed-{}", pod.uid), "namespace": namespace_of(pod)},
            "eventTime": now(),
            "type": "Warning",
            "reason": pod.why.reason(),
            "action": "Inject",
            "note": pod.why.note(),
            "regarding": {
                "apiVersion": "v1",
                "kind": pod.kind,
                "namespace": Some(&pod.namespace).filter(|name| !name.is_empty()),
                "name": pod.name,
                "uid": pod.uid,
            },
            "reportingController": format!("jitney.dev/{MANAGER}"),
            "reportingInstance": self.replica,
        }));
        let event = event.map_err(kube::Error::SerdeError)?;
        let events = Api::<Event>::namespaced(self.client.clone(), namespace_of(pod));
        events.create(&PostParams::default(), &event).await.map(drop)
    }
}

impl Why {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Missed => "SidecarMissing",
            Self::Odd(_) => "InjectNotUnderstood",
        }
    }

    fn note(&self) -> String {
        match self {
            Self::Missed => NOTE.to_owned(),
            Self::Odd(word) => {
                format!("{INJECT}: found {word:?}, expected enabled or disabled: nobody gets a sidecar by it")
            }
        }
    }
}

/// Where an Event is written: of what is in no namespace, where the API server wants it.
fn namespace_of(one: &Without) -> &str {
    match one.kind {
        "Namespace" => "default",
        _ => &one.namespace,
    }
}

/// As times with microseconds are written.
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let now = now.format(&Rfc3339).unwrap_or_default();
    now.replace('Z', ".000000Z")
}

const NOTE: &str = "it is to have a sidecar and has none: no replica of the control plane answered when it was made, or \
                    it is older than the label that asks for one; made anew, it gets one";

/// Events in a second: those of a whole cluster's pods are no burst.
const AT_ONCE: usize = 20;
