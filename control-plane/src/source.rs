//! How a source stands: what of it is in force, and what is wrong with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jitney_api::push::{Conflict, Kind, Stray};
use jitney_api::{Diagnostic, Workload};
use parking_lot::Mutex;

/// What became of a source's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The files that the set in force came from, or what else is the source.
    pub sources: Vec<String>,
    /// What is odd about its documents.
    pub warnings: Vec<Diagnostic>,
    /// What is for nobody whom the documents know.
    pub strays: Vec<Stray>,
    /// Policies that are not in force for all that they are for.
    pub conflicts: Vec<Conflict>,
    /// The workloads that are known.
    pub workloads: BTreeSet<Workload>,
    /// Those whose pods have sidecars, whichever replica these are connected to; `None` where nobody knows.
    pub of_pods: Option<BTreeSet<Workload>>,
    /// Of policies and Runtimes that are objects of a cluster, the generation that is in force, as its API server counts.
    pub generations: BTreeMap<(Kind, String), u64>,
    /// What is not in force as it is now; empty when all is.
    pub refused: Vec<Diagnostic>,
    /// Whether the faults of one document keep back only that one. Files change as a whole.
    pub is_by_document: bool,
}

impl Standing {
    /// What is not in force, in a sentence.
    pub fn refusal(&self) -> Option<String> {
        let refused = self.refused.len();
        match (refused, self.is_by_document) {
            (0, _) => None,
            (_, false) => Some(format!(
                "the files as they are now are not in force, for {refused} of their parts are refused: what was good last stays, and no \
                 change of any file comes into force before these are mended"
            )),
            (_, true) => Some(format!(
                "{refused} parts of documents are refused: of each of these documents stays what was good last, if there was something"
            )),
        }
    }
}

/// A [`Standing`] that the source writes and others read.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Standing>>);

impl Standings {
    /// As it is now.
    pub fn get(&self) -> Standing {
        self.0.lock().clone()
    }

    /// Another one; gives the one before.
    pub fn replace(&self, standing: Standing) -> Standing {
        std::mem::replace(&mut *self.0.lock(), standing)
    }

    /// What is in force stays, and what is there now is not.
    pub fn refuse(&self, faults: Vec<Diagnostic>) {
        self.0.lock().refused = faults;
    }
}
