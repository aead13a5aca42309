//! The workloads that documents know, kept in the state folder: whoever makes a token reads no documents, and
//! is to hear of a name that is in none of them.

use std::collections::BTreeSet;

use jitney_api::Workload;

use crate::identity::{Folder, FolderError, Readable};

/// Keeps them in the place of those before.
///
/// # Errors
/// When the folder cannot be written.
pub fn keep(state: &Folder, workloads: &BTreeSet<Workload>) -> Result<(), FolderError> {
    let text: String = workloads.iter().map(|workload| format!("{workload}\n")).collect();
    if state.read(FILE)?.as_deref() == Some(&*text) {
        return Ok(());
    }
    state.lock()?.write(FILE, &text, Readable::ByOwner)
}

/// Those that were kept last; `None` where no control plane has run.
///
/// # Errors
/// When the folder cannot be read.
pub fn kept(state: &Folder) -> Result<Option<BTreeSet<Workload>>, FolderError> {
    let text = state.read(FILE)?;
    Ok(text.map(|text| text.lines().filter_map(|line| line.parse().ok()).collect()))
}

const FILE: &str = "workloads";
