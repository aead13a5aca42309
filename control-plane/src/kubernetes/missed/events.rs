//! An Event for each pod without the sidecar that it is to have, and for whoever asks for some in words that nobody
//! understands: once, whoever leads.

use std::collections::BTreeSet;

use kube::Client;

use super::bare::{Why, Without};
use crate::inject::INJECT;
use crate::kubernetes::events::{About, Told, tell};

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
            match tell(&self.client, &self.replica, &told(pod)).await {
                Ok(true) => {
                    let (kind, namespace, name) = (pod.kind, &pod.namespace, &pod.name);
                    tracing::warn!(kind, namespace, name, "{}", pod.why.note());
                }
                Ok(false) => {}
                Err(error) => return Err(format!("Event in {}: {error}", namespace_of(pod))),
            }
            self.told.insert(pod.uid.clone());
        }
        Ok(())
    }
}

fn told(one: &Without) -> Told {
    Told {
        // One name for one object: it cannot be told of twice.
        name: format!("jitney-missed-{}", one.uid),
        namespace: namespace_of(one).to_owned(),
        about: About {
            api_version: "v1".to_owned(),
            kind: one.kind.to_owned(),
            namespace: Some(one.namespace.clone()).filter(|name| !name.is_empty()),
            name: one.name.clone(),
            uid: one.uid.clone(),
        },
        reason: one.why.reason(),
        note: one.why.note(),
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

const NOTE: &str = "it is to have a sidecar and has none: no replica of the control plane answered when it was made, or \
                    it is older than the label that asks for one; made anew, it gets one";

/// Events in a second: those of a whole cluster's pods are no burst.
const AT_ONCE: usize = 20;
