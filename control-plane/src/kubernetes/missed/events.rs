//! An Event for each pod without the sidecar that it is to have: once, whoever leads.

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bare::Without;
use crate::kubernetes::authority::MANAGER;

/// Who writes them.
pub(super) struct Events {
    client: Client,
    replica: String,
    /// The pods that were told of, by their uids; no more than are missed.
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
                Ok(_) => tracing::warn!(pod = format!("{}/{}", pod.namespace, pod.name), "{NOTE}"),
                // Whoever led before has told of it, or it is about to be gone, and its namespace.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(kube::Error::Api(status)) if status.message.contains("being terminated") => {}
                Err(error) => return Err(format!("Event in {}: {error}", pod.namespace)),
            }
            self.told.insert(pod.uid.clone());
        }
        Ok(())
    }

    async fn write(&self, pod: &Without) -> kube::Result<()> {
        let event = serde_json::from_value::<Event>(json!({
            // One name for one pod: it cannot be told of twice.
            "metadata": {"name": format!("jitney-missed-{}", pod.uid), "namespace": pod.namespace},
            "eventTime": now(),
            "type": "Warning",
            "reason": "SidecarMissing",
            "action": "Inject",
            "note": NOTE,
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            },
            "reportingController": format!("jitney.dev/{MANAGER}"),
            "reportingInstance": self.replica,
        }));
        let event = event.map_err(kube::Error::SerdeError)?;
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        events.create(&PostParams::default(), &event).await.map(drop)
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
