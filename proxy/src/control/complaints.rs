//! What is in force but for a part: a Runtime some of whose listeners have no address yet. Told in answer to
//! the resource, and so asked for again when it changes while there is nothing to answer.

use std::collections::{BTreeMap, BTreeSet};

use jitney_api::push::config::Cause;
use jitney_api::push::{Change, Delta, Kind, Subscriber};

use crate::listeners::{ListenerView, Listeners};

/// What the control plane was told, or is about to be.
#[derive(Debug)]
pub(super) struct Complaints {
    listeners: Listeners,
    told: BTreeMap<String, Complaint>,
}

/// What is wrong with a Runtime, which is in force otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Complaint {
    field: String,
    reason: String,
}

impl Complaints {
    pub(super) const fn new(listeners: Listeners) -> Self {
        Self {
            listeners,
            told: BTreeMap::new(),
        }
    }

    /// Fires when there may be something to tell.
    pub(super) fn listeners(&self) -> Listeners {
        self.listeners.clone()
    }

    /// Rejects what a response brought and is in force but for a part.
    pub(super) fn answer(&mut self, delta: &mut Delta, subscriber: &mut Subscriber) {
        if delta.kind != Kind::Runtime {
            return;
        }
        let mut present = present(&self.listeners.borrow());
        for change in delta.changes.clone() {
            let (name, version) = match change {
                Change::Set { name, version, .. } => (name, version),
                // Nobody is left to be told, and to ask again would give the same answer.
                Change::Gone { name } => {
                    self.told.remove(&name);
                    self.told.extend(present.remove_entry(&name));
                    continue;
                }
            };
            // What is in force of this is its last good version, and has been told.
            if delta.rejected.iter().any(|rejection| rejection.name == name) {
                continue;
            }
            let Some(complaint) = present.remove(&name) else {
                self.told.remove(&name);
                continue;
            };
            delta.reject(&name, &version, Cause::Place, &complaint.field, &complaint.reason);
            subscriber.hold_in_part(Kind::Runtime, &name);
            self.told.insert(name, complaint);
        }
    }

    /// Asks for what there is something else to tell of than was told last.
    pub(super) fn ask(&mut self, subscriber: &mut Subscriber) {
        let present = present(&self.listeners.borrow());
        let names: BTreeSet<&String> = present.keys().chain(self.told.keys()).collect();
        for name in names {
            let complaint = present.get(name);
            if complaint.is_some() {
                subscriber.hold_in_part(Kind::Runtime, name);
            }
            if complaint != self.told.get(name) {
                subscriber.subscribe(Kind::Runtime, name);
            }
        }
        self.told = present;
    }
}

/// By the name of the Runtime: the field of its first listener that is pending, and why each is.
fn present(listeners: &[ListenerView]) -> BTreeMap<String, Complaint> {
    let mut reasons = BTreeMap::<&str, Vec<(&str, &str)>>::new();
    for pending in listeners.iter().filter_map(|listener| listener.pending.as_ref()) {
        let of_runtime = reasons.entry(&pending.place.runtime).or_default();
        of_runtime.push((&pending.place.field, &pending.reason));
    }
    let complaint = |reasons: Vec<(&str, &str)>| {
        let (field, _) = reasons.first()?;
        let texts: Vec<&str> = reasons.iter().map(|(_, reason)| *reason).collect();
        Some(Complaint {
            field: (*field).to_owned(),
            reason: format!(
                "{}; everything else is in force and it is tried again",
                texts.join("; ")
            ),
        })
    };
    let complaints = reasons
        .into_iter()
        .filter_map(|(runtime, reasons)| Some((runtime.to_owned(), complaint(reasons)?)));
    complaints.collect()
}
