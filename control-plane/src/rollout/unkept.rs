//! What could not be kept on disk: told while that is so, and tried again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use jitney_api::push::Version;
use parking_lot::Mutex;

/// Something that is to be on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// What every policy is.
    Whole,
    /// What a policy was before what is staged of it.
    Baseline(Arc<str>),
    /// That a policy's change has stopped.
    Stop(Arc<str>),
    /// That what had stopped has not any more.
    NoStop(Arc<str>, Version),
}

/// What is not on disk, and why.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<BTreeMap<Item, String>>);

impl Unkept {
    /// Notes what became of an item. Logged when that is news.
    pub(super) fn note<E: Display>(&self, item: Item, kept: Result<(), E>) {
        let mut unkept = self.0.lock();
        match kept {
            Ok(()) => {
                if unkept.remove(&item).is_some() {
                    tracing::info!("kept for a restart at last: {}", item.text());
                }
            }
            Err(error) => {
                let error = error.to_string();
                if unkept.get(&item) != Some(&error) {
                    tracing::error!(error, "not kept for a restart: {}", item.text());
                }
                unkept.insert(item, error);
            }
        }
    }

    /// Every item that is not on disk.
    pub(super) fn items(&self) -> Vec<Item> {
        self.0.lock().keys().cloned().collect()
    }

    /// Whether this one is among them.
    pub(super) fn has(&self, item: &Item) -> bool {
        self.0.lock().contains_key(item)
    }

    /// A line each.
    pub(super) fn texts(&self) -> Vec<String> {
        let unkept = self.0.lock();
        let text =
            |(item, error): (&Item, &String)| format!("not kept for a restart: {}: {error}", item.text());
        unkept.iter().map(text).collect()
    }
}

impl Item {
    fn text(&self) -> String {
        match self {
            Self::Whole => "what every policy is".to_owned(),
            Self::Baseline(policy) => format!("what {policy} was before its change"),
            Self::Stop(policy) => format!("that the change of {policy} has stopped"),
            Self::NoStop(policy, _) => format!("that {policy} has changed since it stopped"),
        }
    }
}
