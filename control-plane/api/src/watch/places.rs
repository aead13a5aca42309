//! Which folders to watch so that a change of a path is noticed, whatever way it is made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders to watch, and the names in them that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Invariant: canonical, so that one folder under two names is watched once: the kernel
    /// reports each folder under one name only.
    folders: BTreeSet<PathBuf>,
    /// Entries that matter: canonical folder and name.
    names: BTreeSet<PathBuf>,
    /// Folders in which every entry matters.
    whole: BTreeSet<PathBuf>,
}

impl Places {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut places = Self::default();
        for path in paths {
            let Ok(path) = std::path::absolute(path) else {
                continue;
            };
            places.follow(&path, LINKS_MAX);
            let Ok(folder) = path.canonicalize() else { continue };
            let Ok(entries) = folder.read_dir() else { continue };
            // Entries may be links to anywhere.
            for entry in entries.flatten().take(ENTRIES_MAX) {
                if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    places.follow(&entry.path(), LINKS_MAX);
                }
            }
            places.folders.insert(folder.clone());
            places.whole.insert(folder);
        }
        places
    }

    /// Notes where `path` is looked up, link by link.
    fn follow(&mut self, path: &Path, links: usize) {
        let Some(parent) = path.parent() else { return };
        self.note(path);
        // The folder itself may be replaced.
        self.note(parent);
        if links == 0 {
            return;
        }
        if let Ok(target) = parent.read_link() {
            self.follow(&parent.with_file_name("").join(target), links - 1);
        }
        if let Ok(target) = path.read_link() {
            self.follow(&parent.join(target), links - 1);
        }
    }

    /// Notes that the entry `path` matters: in its folder or, when that is not there, the nearest
    /// above it that is.
    fn note(&mut self, path: &Path) {
        let mut path = path;
        while let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            if let Ok(folder) = folder.canonicalize() {
                self.names.insert(folder.join(name));
                self.folders.insert(folder);
                return;
            }
            path = folder;
        }
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// True when a change of `path` may change the files.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.names.contains(path)
            || self.whole.contains(path)
            || path.parent().is_some_and(|folder| self.whole.contains(folder))
    }
}

/// Links of links; Kubernetes makes two.
const LINKS_MAX: usize = 8;

/// Entries of a policy folder that are looked at for links.
const ENTRIES_MAX: usize = 1024;
