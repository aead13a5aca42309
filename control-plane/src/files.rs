//! A folder of files as the source: what is good in it is pushed, as a whole; what is not keeps the
//! last good set in force, and is told by file, line, column and field.
//!
//! What goes is what was deleted: a file, or a document of a file that holds others. A file that held
//! documents and holds none is being written, more likely than not, and is refused until it holds some or
//! is gone; so is a folder without any file, which is what one looks like that is not mounted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::push::{Resources, known_workloads, resources, strays};
use jitney_api::{Diagnostic, Documents, Reading, Resource, Sources, Watch, check_pushed};
use tokio::time::Instant;

pub mod known;

use crate::identity::Folder;
use crate::metrics;
use crate::rollout::Rollouts;
use crate::source::{Standing, Standings};

/// Files that are watched for as long as this lives.
#[derive(Debug)]
pub struct Files {
    _watch: Watch,
}

/// Good files that are not in force yet.
#[derive(Debug)]
pub struct Found {
    paths: Vec<PathBuf>,
    sources: Sources,
    good: Good,
}

/// What files say that have no fault.
#[derive(Debug)]
struct Good {
    resources: Resources,
    standing: Standing,
    filled: Filled,
    counts: Counts,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
struct Counts {
    documents: usize,
    policies: usize,
}

/// The files that hold documents.
type Filled = BTreeSet<Arc<str>>;

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is nothing at the place.
    #[error("--source files:{0}: there is no such file or folder")]
    Nowhere(String),
    /// All faults of the files as they are at first, one a line.
    #[error("{}", lines(.0))]
    Faulty(Vec<Diagnostic>),
    /// They cannot be watched.
    #[error("cannot watch files: {0}")]
    Watch(#[from] std::io::Error),
}

impl Files {
    /// Reads files and folders, each of them before any is in force, so that several may change together.
    ///
    /// # Errors
    /// When the files are faulty, or are not there.
    pub fn read(paths: Vec<PathBuf>) -> Result<Found, FilesError> {
        if let Some(nowhere) = paths.iter().find(|path| !path.exists()) {
            return Err(FilesError::Nowhere(nowhere.display().to_string()));
        }
        let sources = Sources::load(&paths).map_err(FilesError::Faulty)?;
        let good = read(&sources, &Filled::new()).map_err(FilesError::Faulty)?;
        Ok(Found { paths, sources, good })
    }

    /// Has files in force, and watches them from then on.
    ///
    /// # Errors
    /// When they cannot be watched.
    pub fn start(
        found: Found,
        rollouts: &Arc<Rollouts>,
        state: &Folder,
        standing: &Standings,
        counted: metrics::Counts,
    ) -> Result<Self, FilesError> {
        let mut taking = Taking {
            paths: found.paths.clone(),
            rollouts: Arc::clone(rollouts),
            state: state.clone(),
            standing: standing.clone(),
            filled: Filled::new(),
            counted,
        };
        taking.take(found.good, Instant::now());
        let watch = Watch::start(found.paths, found.sources, move |reading| {
            taking.changed(&reading)
        })?;
        Ok(Self { _watch: watch })
    }
}

/// Who takes in what was read.
#[derive(Debug)]
struct Taking {
    paths: Vec<PathBuf>,
    rollouts: Arc<Rollouts>,
    state: Folder,
    standing: Standings,
    filled: Filled,
    counted: metrics::Counts,
}

impl Taking {
    fn changed(&mut self, reading: &Reading) {
        let at = last_change(&self.paths);
        let sources = reading.as_ref().map_err(Clone::clone);
        match sources.and_then(|sources| read(sources, &self.filled)) {
            Ok(good) => {
                // Before anybody can have applied it.
                self.counted.lagged(Instant::now().saturating_duration_since(at));
                self.take(good, at);
            }
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("files refused, the last good ones of all stay: {fault}");
                }
                self.standing.refuse(faults);
            }
        }
    }

    fn take(&mut self, good: Good, at: Instant) {
        let (files, Counts { documents, policies }) = (good.standing.sources.len(), good.counts);
        let before = self.standing.replace(good.standing.clone());
        // What was told of the files before is not told again.
        let strays = good.standing.strays.iter().map(|stray| &stray.warning);
        let is_news = |warning: &&Diagnostic| {
            let strays = before.strays.iter().map(|stray| &stray.warning);
            !before
                .warnings
                .iter()
                .chain(strays)
                .any(|known| known == *warning)
        };
        for warning in good.standing.warnings.iter().chain(strays).filter(is_news) {
            tracing::warn!("{warning}");
        }
        self.filled = good.filled;
        let is_news = self.rollouts.replace(good.resources, at);
        let generation = self.rollouts.generation();
        tracing::info!(files, documents, policies, generation, is_news, "files read");
        if let Err(error) = known::keep(&self.state, &good.standing.workloads) {
            tracing::warn!(%error, "a token for a name that no document knows is made without a word");
        }
    }
}

/// What files push, and how they stand; or all their faults. Those of `filled` held documents when they
/// were in force last.
fn read(sources: &Sources, filled: &Filled) -> Result<Good, Vec<Diagnostic>> {
    let documents = Documents::read(sources);
    let (mut errors, mut warnings): (Vec<_>, Vec<_>) = check_pushed(&documents)
        .into_iter()
        .partition(Diagnostic::is_error);
    errors.extend(emptied(sources, &documents, filled));
    if !errors.is_empty() {
        return Err(errors);
    }
    let resources = resources(&documents);
    warnings.extend(
        resources
            .conflicts
            .iter()
            .map(|conflict| conflict.warning.clone()),
    );
    let files = sources.files.iter();
    let standing = Standing {
        sources: files.map(|source| source.file.to_string()).collect(),
        warnings,
        strays: strays(&documents),
        conflicts: resources.conflicts.clone(),
        workloads: known_workloads(&documents),
        ..Standing::default()
    };
    let all = documents.documents.iter();
    let policies = all
        .clone()
        .filter(|document| matches!(document.resource, Resource::BatchPolicy(_)));
    Ok(Good {
        resources,
        standing,
        counts: Counts {
            documents: documents.documents.len(),
            policies: policies.count(),
        },
        filled: all.map(|document| Arc::clone(&document.file)).collect(),
    })
}

/// The files that have lost all their documents. Where no document is left, that is so of every file: one
/// that came in the place of another is being written, too.
fn emptied(sources: &Sources, documents: &Documents, filled: &Filled) -> Vec<Diagnostic> {
    let nothing_left = documents.is_empty() && !filled.is_empty();
    let is_lost = |file: &Arc<str>| nothing_left || filled.contains(file);
    let files = sources.files.iter().map(|source| &source.file);
    let empty = files.filter(|file| documents.is_without(file) && is_lost(file));
    let fault = |file: &Arc<str>| {
        let message = if filled.contains(file) {
            "is empty; delete the file to remove its documents"
        } else {
            "is empty, and no other file holds a document; documents are not all removed at once"
        };
        Diagnostic::of_file(file, message)
    };
    empty.map(fault).collect()
}

/// When files or folders changed last, as their system noted it. The watch reports later: once they
/// have been quiet.
fn last_change(paths: &[PathBuf]) -> Instant {
    let inside = paths
        .iter()
        .filter_map(|path| fs::read_dir(path).ok())
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let times = inside
        .chain(paths.iter().cloned())
        .filter_map(|path| changed_at(&path));
    let ago = times
        .max()
        .and_then(|last| SystemTime::now().duration_since(last).ok());
    let now = Instant::now();
    // What has changed without a trace, as by a mount, has changed now.
    ago.filter(|ago| *ago < LONGEST_NOTICE)
        .and_then(|ago| now.checked_sub(ago))
        .unwrap_or(now)
}

/// A file that is put in the place of another brings its old content's time along, but not the time
/// of the renaming.
fn changed_at(path: &Path) -> Option<SystemTime> {
    let noted = fs::metadata(path).ok()?;
    let since = Duration::new(
        noted.ctime().try_into().ok()?,
        noted.ctime_nsec().try_into().ok()?,
    );
    UNIX_EPOCH.checked_add(since)
}

/// The longest that the watch takes to report a change.
const LONGEST_NOTICE: Duration = Duration::from_secs(5);

fn lines(faults: &[Diagnostic]) -> String {
    faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use jitney_api::push::Kind;

    use super::*;
    use crate::store::Store;

    const USERS: &str = r#"
kind: Backend
metadata: {name: users, namespace: shop}
spec: {endpoints: ["10.0.0.1:80"]}
---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
"#;

    type Started = (
        tempfile::TempDir,
        Arc<Store>,
        Standings,
        Result<Files, FilesError>,
    );

    fn start(text: &str) -> Started {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("users.yaml"), text).unwrap();
        let store = Arc::new(Store::default());
        let state = Folder::open(&folder.path().join("state")).unwrap();
        let rollouts = Arc::new(Rollouts::open(&state, &store).unwrap());
        let found = Files::read(vec![folder.path().to_owned()]);
        let (standings, counts) = (Standings::default(), metrics::Counts::default());
        let files = found.and_then(|found| Files::start(found, &rollouts, &state, &standings, counts));
        (folder, store, standings, files)
    }

    fn endpoints(store: &Store) -> Vec<String> {
        let snapshot = store.snapshot();
        snapshot
            .all(Kind::Endpoint)
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Writes a file, and waits until what came of it is another standing or another set.
    async fn write(file: &Path, text: &str, standing: &Standings, store: &Store) {
        let (before, mut generation) = (standing.get(), store.subscribe());
        fs::write(file, text).unwrap();
        let noticed = async {
            while standing.get() == before && !generation.has_changed().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, noticed)
            .await
            .expect("the change is noticed");
        generation.mark_unchanged();
    }

    #[tokio::test]
    async fn a_change_is_pushed_and_a_fault_keeps_the_last_good_set() {
        let (folder, store, standing, files) = start(USERS);
        let _watched = files.unwrap();
        assert_eq!(endpoints(&store), ["shop/users/10.0.0.1:80"]);
        assert_eq!(standing.get().sources.len(), 1);
        let file = folder.path().join("users.yaml");
        write(&file, &USERS.replace("10.0.0.1", "10.0.0.2"), &standing, &store).await;
        assert_eq!(endpoints(&store), ["shop/users/10.0.0.2:80"]);
        write(&file, &USERS.replace("keyedGet", "keydGet"), &standing, &store).await;
        let refused = standing.get().refused;
        let told = refused[0].to_string();
        assert!(told.contains("users.yaml:13:13: spec.routes[0].codec"), "{told}");
        assert_eq!(endpoints(&store), ["shop/users/10.0.0.2:80"]);
        write(&file, USERS, &standing, &store).await;
        assert_eq!(standing.get().refused, []);
    }

    const ORDERS: &str = "kind: Backend\nmetadata: {name: orders}\nspec: {endpoints: ['10.0.0.2:80']}\n";

    /// What is wrong with files that held these documents when they were in force last.
    fn told(filled: &[&str], files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(file, text)| jitney_api::Source {
            file: (*file).into(),
            text: (*text).to_owned(),
        });
        let sources = Sources {
            files: files.collect(),
        };
        let filled = filled.iter().map(|file| Arc::from(*file)).collect();
        match read(&sources, &filled) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_file_that_was_emptied_is_refused_and_one_that_was_deleted_is_not() {
        let both = ["users.yaml", "orders.yaml"];
        let emptied = "orders.yaml: is empty; delete the file to remove its documents";
        for empty in ["", "\n  \n", "# later\n", "---\n---\n"] {
            let found = told(&both, &[("users.yaml", USERS), ("orders.yaml", empty)]);
            assert_eq!(found, [emptied], "{empty:?}");
        }
        let nothing = [""; 0];
        assert_eq!(told(&both, &[("users.yaml", USERS)]), nothing);
        let moved = format!("{ORDERS}---{USERS}").replace("name: orders", "name: orders, namespace: shop");
        assert_eq!(told(&both, &[("users.yaml", &moved)]), nothing);
        let new = [("users.yaml", USERS), ("orders.yaml", "")];
        assert_eq!(told(&["users.yaml"], &new), nothing, "it never held any");
    }

    #[test]
    fn nothing_at_all_is_in_no_place_of_something() {
        let empty = [("more.yaml", "")];
        let found = told(&["users.yaml"], &empty);
        assert!(
            found[0].starts_with("more.yaml: is empty, and no other file"),
            "{found:?}"
        );
        assert_eq!(told(&[], &empty), [""; 0], "at first there may be nothing");
    }

    #[tokio::test]
    async fn files_that_are_faulty_at_first_are_refused() {
        let (_folder, store, _, files) = start(&USERS.replace("10.0.0.1:80", "nowhere"));
        let faults = files.unwrap_err().to_string();
        assert!(faults.contains("users.yaml:4:"), "{faults}");
        assert_eq!(store.snapshot().generation(), 0);
    }
}
