//! The folder with what has to outlive a control plane: its keys, and what it remembers of tokens, of
//! certificates and of rollouts.
//!
//! Replicas may share it. A file is replaced as a whole, by rename, so that nobody reads half of one;
//! only who holds the folder's lock can write.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::tokens::{hex, random};

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
    folder: Folder,
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

    /// A name that nobody else uses, for a file.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn unused_name() -> String {
        hex(&random::<8>())
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

    /// The names of what is in it, but for the lock and for what begins with a dot: that is not written to
    /// its end.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, FolderError> {
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter(|name| !name.starts_with('.') && name != LOCK)
            .collect())
    }

    /// Whether there is a folder of this name inside it, with something in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn holds(&self, name: &str) -> Result<bool, FolderError> {
        let inside = Self {
            path: self.path(name),
        };
        if !inside.path.is_dir() {
            return Ok(false);
        }
        Ok(!inside.names()?.is_empty())
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

    /// Waits until nobody else changes the folder, for two seconds at most: whoever holds the lock writes a
    /// few files and is done. Blocks, so that it is not for threads that serve others.
    ///
    /// # Errors
    /// When it cannot be locked, or somebody keeps it for so long.
    pub fn lock(&self) -> Result<Lock, FolderError> {
        let path = self.path(LOCK);
        let mut options = OpenOptions::new();
        let opened = options.create(true).append(true).mode(0o600).open(&path);
        let locked = opened.and_then(|file| locked(&file).map(|()| file));
        let file = locked.map_err(failed("lock", &path))?;
        Ok(Lock {
            folder: self.clone(),
            _file: file,
        })
    }

    /// Removes what a process has left behind that ended while it wrote a file, an hour ago or more.
    ///
    /// # Errors
    /// When the folder cannot be locked or listed.
    pub fn sweep(&self, now: SystemTime) -> Result<(), FolderError> {
        let _lock = self.lock()?;
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        for entry in entries.filter_map(Result::ok) {
            if is_left_behind(&entry, now) {
                // What stays is tried again.
                drop(fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }
}

impl Lock {
    /// Puts a file in the place of what was there.
    ///
    /// # Errors
    /// When it cannot be written. What was there is still there then.
    pub fn write(&self, name: &str, text: &str, readable: Readable) -> Result<(), FolderError> {
        // Process ids are the same in many containers.
        let beside = self.folder.path(&format!(".{name}.{}", Folder::unused_name()));
        let mode = match readable {
            Readable::ByOwner => 0o600,
            Readable::ByAll => 0o644,
        };
        let path = self.folder.path(name);
        let written = write_whole(&beside, text, mode).and_then(|()| fs::rename(&beside, &path));
        if written.is_err() {
            // Whether it can be removed or not, the error that is told is the first.
            drop(fs::remove_file(&beside));
        }
        // The rename itself is on disk only when the folder is.
        written
            .and_then(|()| File::open(&self.folder.path)?.sync_all())
            .map_err(failed("write", &path))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |cause| FolderError { action, path, cause }
}

/// Locks a file, or gives up. The pauses are counted, so that no clock is needed.
fn locked(file: &File) -> io::Result<()> {
    let (mut pause, mut waited) = (Duration::from_millis(1), Duration::ZERO);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if waited >= LOCK_WAIT => {
                let told = format!("somebody else has held it for {} s", LOCK_WAIT.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, told));
            }
            Err(TryLockError::WouldBlock) => {
                std::thread::park_timeout(pause);
                waited += pause;
                pause = (pause * 2).min(LOCK_PAUSE);
            }
        }
    }
}

/// Whether it is a file that was being written, and so long ago that it is no more.
fn is_left_behind(entry: &DirEntry, now: SystemTime) -> bool {
    let name = entry.file_name();
    let beside = name.to_str().and_then(|name| name.strip_prefix('.'));
    let suffix = beside.and_then(|name| Some(name.rsplit_once('.')?.1));
    let is_beside = suffix.is_some_and(|suffix| suffix.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let changed = entry.metadata().and_then(|file| file.modified());
    let age = changed.map(|changed| now.duration_since(changed).unwrap_or_default());
    is_beside && age.is_ok_and(|age| age > LEFT_BEHIND)
}

/// Writes a file that is not there yet, and has it on disk.
fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Its name in each folder.
const LOCK: &str = "lock";
/// How long somebody else may hold it: a few files are on disk sooner, unless something is wrong.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(2);
/// The longest pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// When nobody writes a file any more.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn write(folder: &Folder, name: &str, text: &str, readable: Readable) -> Result<(), FolderError> {
        folder.lock().unwrap().write(name, text, readable)
    }

    #[test]
    fn keys_are_for_the_owner_alone() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(&outer.path().join("a/state")).unwrap();
        assert_eq!(mode(&folder.path("")), 0o700);
        write(&folder, "key", "secret", Readable::ByOwner).unwrap();
        write(&folder, "roots", "public", Readable::ByAll).unwrap();
        assert_eq!(
            (mode(&folder.path("key")), mode(&folder.path("roots"))),
            (0o600, 0o644)
        );
        write(&folder, "key", "another", Readable::ByOwner).unwrap();
        assert_eq!(folder.read("key").unwrap().unwrap(), "another");
        assert_eq!(folder.read("nothing").unwrap(), None);
        let left = fs::read_dir(folder.path("")).unwrap().count();
        assert_eq!(left, 3, "nothing is left beside them and the lock");
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
            write(&folder, "key", "", Readable::ByOwner).unwrap_err(),
        ] {
            let shown = folder.path("key").display().to_string();
            assert!(error.to_string().contains(&shown), "{error}");
        }
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_at_a_time_may_change_it_and_nobody_waits_for_ever() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        let lock = folder.lock().unwrap();
        let told = folder.lock().unwrap_err().to_string();
        let expected = format!("cannot lock {}: ", folder.path("lock").display());
        assert!(told.starts_with(&expected), "{told}");
        assert!(told.ends_with("somebody else has held it for 2 s"), "{told}");
        drop(lock);
        drop(folder.lock().unwrap());
    }

    #[test]
    fn who_waits_for_the_lock_gets_it() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        let lock = folder.lock().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| folder.lock().map(drop));
            drop(lock);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_a_crash_left_behind_is_removed_after_an_hour() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        let left = [".authority.json.17", ".roots.pem.0123456789abcdef"];
        let others = [".gitignore", "roots.pem"];
        for name in left.into_iter().chain(others) {
            fs::write(folder.path(name), "").unwrap();
        }
        let are_there = |names: [&str; 2]| names.map(|name| folder.path(name).exists());
        folder.sweep(SystemTime::now()).unwrap();
        assert_eq!(are_there(left), [true, true], "somebody may be writing them");
        folder.sweep(SystemTime::now() + 2 * LEFT_BEHIND).unwrap();
        assert_eq!((are_there(left), are_there(others)), ([false; 2], [true; 2]));
    }
}
