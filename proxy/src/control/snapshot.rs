//! The last good set on disk, so that a sidecar that restarts serves while the control plane is away.
//!
//! One file, named by the hash of what it holds, beside which another is written and then takes its place:
//! what is read is always whole. Keys and tokens are not in it; who the sidecar is lies beside it
//! (`identity/kept.rs`).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jitney_api::push::Version;
use jitney_api::push::config::Snapshot;
use prost::Message as _;

/// The folder with the file.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, if it is not there, for nobody but this user.
    pub(super) fn make(&self) -> io::Result<()> {
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(_) if self.folder.is_dir() => Ok(()),
            made => made,
        }
    }

    /// Replaces what is kept. Returns when it is on the disk.
    pub(super) fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        self.make()?;
        let content = snapshot.encode_to_vec();
        let path = self.replace(&format!("{}{SUFFIX}", Version::of(&content)), &content)?;
        for other in self.files()?.into_iter().filter(|other| *other != path) {
            fs::remove_file(other)?;
        }
        self.sync()
    }

    /// Has a file of this name hold this and nothing else, for nobody but this user to read. It is on the disk
    /// after [`Disk::sync`].
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        let partial = self.folder.join(format!(".{name}.{}", std::process::id()));
        // Of a process with the same number. Who may read a file is settled when it is made.
        drop(fs::remove_file(&partial));
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial);
        let written = made.and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        });
        if written.is_err() {
            // The disk is full, most likely, and this is no use to anybody.
            drop(fs::remove_file(&partial));
        }
        written.map(|()| path)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    /// Removes what a process has left behind that ended while it wrote. One that writes now, as the one before
    /// this may still do, is not disturbed.
    pub(super) fn sweep(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let changed = fs::metadata(&path).and_then(|about| about.modified());
            let age = changed.map(|changed| now.duration_since(changed).unwrap_or_default());
            if is_partial(&path) && age.is_ok_and(|age| age > LEFT_BEHIND) {
                // What stays is tried again.
                drop(fs::remove_file(path));
            }
        }
    }

    /// What was kept last; `None`: nothing, or nothing that is whole.
    pub(super) fn load(&self) -> Option<Snapshot> {
        let mut files = self.files().ok()?;
        let written = |path: &PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
        files.sort_by_key(written);
        files.iter().rev().find_map(|path| {
            let content = fs::read(path).ok()?;
            let named = format!("{}{SUFFIX}", Version::of(&content));
            if path.file_name().is_none_or(|name| *name != *named) {
                tracing::warn!(file = %path.display(), "a snapshot is not what it was written as, and is left out");
                return None;
            }
            Snapshot::decode(content.as_slice()).ok()
        })
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder)?;
        let files = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            (name.ends_with(SUFFIX) && !name.starts_with('.')).then_some(path)
        });
        Ok(files.collect())
    }
}

/// Whether it is a file that was being written: hidden, with the number of a process at its end.
fn is_partial(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.and_then(|name| name.strip_prefix('.')?.rsplit_once('.'));
    name.is_some_and(|(name, process)| {
        (name.ends_with(SUFFIX) || name == IDENTITY) && process.parse::<u32>().is_ok()
    })
}

const SUFFIX: &str = ".snapshot";

/// The file that says who the sidecar is.
pub(super) const IDENTITY: &str = "identity.pem";

/// When nobody writes a file any more.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(workload: &str) -> Snapshot {
        Snapshot {
            workload: workload.to_owned(),
            resources: Vec::new(),
        }
    }

    #[test]
    fn what_was_kept_last_is_brought_back_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().join("made"));
        assert_eq!(disk.load(), None);
        for workload in ["shop/users", "shop/orders", "shop/orders"] {
            disk.save(&snapshot(workload)).unwrap();
            assert_eq!(disk.load(), Some(snapshot(workload)));
        }
        assert_eq!(fs::read_dir(folder.path().join("made")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_whole_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_owned());
        disk.save(&snapshot("shop/users")).unwrap();
        let file = disk.files().unwrap().remove(0);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(disk.load(), None);
        fs::write(&file, whole).unwrap();
        // Of a process that ended while it wrote.
        let half = folder.path().join(".half.snapshot.7");
        fs::write(&half, b"half").unwrap();
        let half_key = folder.path().join(".identity.pem.7");
        fs::write(&half_key, b"half").unwrap();
        fs::write(folder.path().join(".gitignore"), b"").unwrap();
        assert_eq!(disk.load(), Some(snapshot("shop/users")));
        disk.sweep(SystemTime::now());
        assert!(half.exists(), "somebody may be writing it");
        disk.sweep(SystemTime::now() + 2 * LEFT_BEHIND);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert!(!half.exists() && !half_key.exists() && left == 2, "{left}");
        assert_eq!(disk.load(), Some(snapshot("shop/users")));
    }
}
