//! What this sidecar cannot run of what it was pushed: shown until there is a better version.

use std::collections::BTreeMap;

use jitney_api::push::{Change, Delta, Kind};

use super::name_of;
use crate::control::Rejected;

/// By type and name.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<(Kind, String), Rejected>);

impl Refused {
    /// What became of a response.
    pub(super) fn note(&mut self, delta: &Delta) {
        for change in &delta.changes {
            let name = name_of(change);
            let rejections = delta.rejected.iter();
            let rejection = rejections
                .filter(|_| matches!(change, Change::Set { .. }))
                .find(|rejection| *rejection.name == *name);
            let key = (delta.kind, name.to_owned());
            let Some(rejection) = rejection else {
                self.0.remove(&key);
                continue;
            };
            if self.0.len() < MOST || self.0.contains_key(&key) {
                let rejected = Rejected {
                    kind: delta.kind.as_str(),
                    name: name.to_owned(),
                    field: rejection.field.clone(),
                    reason: rejection.reason.clone(),
                };
                self.0.insert(key, rejected);
            }
        }
    }

    /// It is wanted no more.
    pub(super) fn forget(&mut self, kind: Kind, name: &str) {
        self.0.remove(&(kind, name.to_owned()));
    }

    /// What is not held is sent again.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Each of them.
    pub(super) fn list(&self) -> Vec<Rejected> {
        self.0.values().cloned().collect()
    }
}

/// More of them say nothing more.
const MOST: usize = 100;
