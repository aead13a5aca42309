//! The folder with what has to outlive a control plane: its keys, and what it remembers of tokens and of
//! rollouts.
//!
//! Replicas may share it. A file is replaced as a whole, by rename, so that nobody reads half of one;
//! who changes what it has read holds the lock meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A folder that only its owner may enter.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// The owner alone: it holds a key.
    ByOwner,
    /// Everyone who may enter the folder.
    ByAll,
}

/// Held by who changes the folder; nobody else does as long as this lives.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: File,
}

/// What the folder did not let us do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}", path.display())]
pub struct FolderError {
    action: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl Folder {
    /// The folder of this path, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = Self {
            path: path.to_owned(),
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed("make", path))?;
        Ok(folder)
    }

    /// A folder inside it, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn inside(&self, name: &str) -> Result<Self, FolderError> {
        Self::open(&self.path(name))
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What a file holds; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, FolderError> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.path(name))(error)),
        }
    }

    /// The names of what is in it, but for what begins with a dot: that is not written to its end.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, FolderError> {
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), FolderError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &self.path(name))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Puts a file in the place of what was there.
    ///
    /// # Errors
    /// When it cannot be written. What was there is still there then.
    pub fn write(&self, name: &str, text: &str, readable: Readable) -> Result<(), FolderError> {
        let beside = self.path(&format!(".{name}.{}", std::process::id()));
        let mode = match readable {
            Readable::ByOwner => 0o600,
            Readable::ByAll => 0o644,
        };
        let written = write_whole(&beside, text, mode).and_then(|()| fs::rename(&beside, self.path(name)));
        if written.is_err() {
            // Whether it can be removed or not, the error that is told is the first.
            drop(fs::remove_file(&beside));
        }
        // The rename itself is on disk only when the folder is.
        written
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(failed("write", &self.path(name)))
    }

    /// Waits until nobody else changes the folder, which takes as long as a few files are written.
    ///
    /// # Errors
    /// When it cannot be locked.
    pub fn lock(&self) -> Result<Lock, FolderError> {
        let path = self.path("lock");
        let mut options = OpenOptions::new();
        let opened = options.create(true).append(true).mode(0o600).open(&path);
        let locked = opened.and_then(|file| file.lock().map(|()| Lock { _file: file }));
        locked.map_err(failed("lock", &path))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |cause| FolderError { action, path, cause }
}

/// Writes a file that is not there yet, or was left behind, and has it on disk.
fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_the_owner_alone() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(&outer.path().join("a/state")).unwrap();
        assert_eq!(mode(&folder.path("")), 0o700);
        folder.write("key", "secret", Readable::ByOwner).unwrap();
        folder.write("roots", "public", Readable::ByAll).unwrap();
        assert_eq!(
            (mode(&folder.path("key")), mode(&folder.path("roots"))),
            (0o600, 0o644)
        );
        folder.write("key", "another", Readable::ByOwner).unwrap();
        assert_eq!(folder.read("key").unwrap().unwrap(), "another");
        assert_eq!(folder.read("nothing").unwrap(), None);
        let left = fs::read_dir(folder.path("")).unwrap().count();
        assert_eq!(left, 2, "nothing is left beside them");
        for _ in 0..2 {
            folder.remove("key").unwrap();
            assert_eq!(folder.names().unwrap(), ["roots"]);
        }
    }

    #[test]
    fn what_fails_names_the_file() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        fs::create_dir(folder.path("key")).unwrap();
        for error in [
            folder.read("key").unwrap_err(),
            folder.write("key", "", Readable::ByOwner).unwrap_err(),
        ] {
            let shown = folder.path("key").display().to_string();
            assert!(error.to_string().contains(&shown), "{error}");
        }
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_at_a_time_may_change_it() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        let lock = folder.lock().unwrap();
        let another = File::open(folder.path("lock")).unwrap();
        assert!(another.try_lock().is_err());
        drop(lock);
        assert!(another.try_lock().is_ok());
    }
}
