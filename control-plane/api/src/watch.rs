//! Files, watched by path: through renames, symlink swaps and writes in place.
//!
//! A thread sleeps until the kernel reports a change, waits until the files are quiet, reads them
//! and passes them on if they differ from what was read before. What they mean, and whether they
//! are any good, is decided elsewhere.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::{Diagnostic, Sources};

mod places;

use places::Places;

/// What was read: every file, or why not.
pub type Reading = Result<Sources, Vec<Diagnostic>>;

/// A watch on files; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    wake: SyncSender<Wake>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Changed,
    Stop,
}

impl Watch {
    /// Watches `paths`, files or folders, of which `first` is what they held at start.
    ///
    /// `changed` gets each reading that differs from the one before, in a thread of the watch.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        paths: Vec<PathBuf>,
        first: Sources,
        changed: impl FnMut(Reading) + Send + 'static,
    ) -> std::io::Result<Self> {
        // Two places: a change that comes while another is being noted adds nothing to it.
        let (wake, woken) = sync_channel(2);
        let changes = wake.clone();
        let thread = std::thread::Builder::new()
            .name("file-watch".into())
            .spawn(move || {
                run(&paths, Ok(first), &changes, &woken, changed);
            })?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Blocks only while two changes are queued, which the thread is about to take.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by the hook; there is nothing to add to it.
            drop(thread.join());
        }
    }
}

fn run(
    paths: &[PathBuf],
    first: Reading,
    changes: &SyncSender<Wake>,
    woken: &Receiver<Wake>,
    mut changed: impl FnMut(Reading),
) {
    let mut last = first;
    let mut unsettled = 0;
    loop {
        // A fresh watcher each time: the folders themselves may have been replaced, and a watch
        // sticks to what it was put on, not to the name. It is armed before the files are read, so
        // that no change falls between the two.
        let watcher = arm(paths, changes);
        let reading = Sources::load(paths);
        if reading != last {
            // Half of a file that is being written in place may be a policy, too: an empty one is.
            // So what was read counts only when nothing changed while and after it was read.
            let ended = wait_for_quiet(woken.recv_timeout(QUIET), woken);
            if ended == Ended::Stop {
                return;
            }
            if ended == Ended::Changed && unsettled < UNSETTLED_MAX {
                unsettled += 1;
                continue;
            }
            unsettled = 0;
            last.clone_from(&reading);
            changed(reading);
            if ended == Ended::Changed {
                // Nobody will say once more what was just heard.
                continue;
            }
        }
        unsettled = 0;
        if wait_for_quiet(woken.recv().map_err(RecvTimeoutError::from), woken) == Ended::Stop {
            return;
        }
        drop(watcher);
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Quiet,
    Changed,
    Stop,
}

/// After a first change, waits until nothing changed for [`QUIET`].
fn wait_for_quiet(first: Result<Wake, RecvTimeoutError>, woken: &Receiver<Wake>) -> Ended {
    let mut wake = first;
    for n in 0..QUIET_TRIES {
        match wake {
            Ok(Wake::Changed) => wake = woken.recv_timeout(QUIET),
            Err(RecvTimeoutError::Timeout) if n == 0 => return Ended::Quiet,
            Err(RecvTimeoutError::Timeout) => return Ended::Changed,
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Ended::Stop,
        }
    }
    Ended::Changed
}

/// Puts watches on every folder whose change may change the files.
fn arm(paths: &[PathBuf], changes: &SyncSender<Wake>) -> Option<RecommendedWatcher> {
    let places = Places::of(paths);
    let folders: Vec<PathBuf> = places.folders().map(PathBuf::from).collect();
    let changes = changes.clone();
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_change(&event, &places)) {
            let _ = changes.try_send(Wake::Changed);
        }
    };
    let mut watcher = match notify::recommended_watcher(on_event) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::error!(%error, "files are not watched");
            return None;
        }
    };
    for folder in folders {
        // It may be gone again: then its parent, which is watched, has changed.
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            tracing::debug!(folder = %folder.display(), %error, "folder cannot be watched");
        }
    }
    Some(watcher)
}

fn is_change(event: &notify::Event, places: &Places) -> bool {
    match event.kind {
        // Reading the files is an event, too.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => {}
    }
    // Events were lost: anything may have happened.
    event.need_rescan() || event.paths.iter().any(|path| places.concerns(path))
}

/// Editors and `kubectl` write in several steps; a person does not notice this.
const QUIET: Duration = Duration::from_millis(30);

/// Files that never rest are read after a third of a second all the same.
const QUIET_TRIES: usize = 10;

/// Readings thrown away because the files changed meanwhile: in force within two seconds.
const UNSETTLED_MAX: usize = 2;

#[cfg(test)]
mod tests;
