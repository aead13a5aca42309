//! Which tokens were used, and for which key: kept in files, so that neither a restart nor a replica
//! lets one be used twice.
//!
//! The same token for the same key is answered again, because the first answer may have been lost on
//! its way. Whoever reads a token later, in a log or a process list, has another key.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::authority::KeyHash;
use super::folder::{Folder, FolderError};
use super::tokens::{Claims, hex, random};

/// Tokens that were used and have not expired.
#[derive(Debug)]
pub struct Used {
    folder: Folder,
    most: usize,
    /// About how many there are: replicas note theirs in the same folder.
    count: AtomicUsize,
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UsedError {
    /// It was used for another key.
    #[error("token: used before, for another key")]
    Replayed,
    /// So many were used lately that no more can be remembered.
    #[error("token: too many were used lately, try again later")]
    Busy,
    /// It cannot be noted, and so not be taken.
    #[error("token: cannot be noted as used: {0}")]
    Unnoted(#[from] io::Error),
}

/// What is noted of a token.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    expires: u64,
    key: String,
}

impl Used {
    /// What is noted in a state folder.
    ///
    /// # Errors
    /// When nothing can be noted there.
    pub fn open(state: &Folder, now: SystemTime) -> Result<Self, FolderError> {
        Self::with_bound(state, MOST_USED, now)
    }

    fn with_bound(state: &Folder, most: usize, now: SystemTime) -> Result<Self, FolderError> {
        let used = Self {
            folder: state.inside("used")?,
            most,
            count: AtomicUsize::new(0),
        };
        used.forget_expired(now);
        Ok(used)
    }

    /// Notes that a token is used for a key. Blocks for as long as a small file is written.
    ///
    /// # Errors
    /// When it was used for another key, or cannot be noted.
    pub fn note(&self, claims: &Claims, key: &KeyHash, now: SystemTime) -> Result<(), UsedError> {
        let path = self.folder.path(&hex(&claims.number));
        let note = Note {
            expires: seconds(claims.expires),
            key: hex(key),
        };
        if let Some(before) = read(&path)? {
            return before.allows(&note);
        }
        if self.count.load(Ordering::Relaxed) >= self.most {
            self.forget_expired(now);
        }
        // To forget one that has not expired would be to let it be used again.
        if self.count.load(Ordering::Relaxed) >= self.most {
            return Err(UsedError::Busy);
        }
        // A file that is there is there with its content: it is written beside, and linked.
        let beside = self.folder.path(&format!(".{}", hex(&random::<16>())));
        fs::write(&beside, note.text())?;
        let linked = fs::hard_link(&beside, &path);
        // If it stays, it is counted as a token until it expires.
        drop(fs::remove_file(&beside));
        match linked {
            Ok(()) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // Somebody was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                read(&path)?.ok_or(UsedError::Busy)?.allows(&note)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets what has expired, and counts the rest. What cannot be read stays: to keep a token
    /// longer harms nobody.
    pub fn forget_expired(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(self.folder.path("")) else {
            return;
        };
        let mut left = 0;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let note = read(&path).ok().flatten();
            let expired = note.is_some_and(|note| note.expires <= seconds(now));
            if !expired || fs::remove_file(&path).is_err() {
                left += 1;
            }
        }
        self.count.store(left, Ordering::Relaxed);
    }
}

impl Note {
    fn text(&self) -> String {
        format!("{}\n{}\n", self.expires, self.key)
    }

    fn allows(&self, asked: &Self) -> Result<(), UsedError> {
        if self.key == asked.key {
            Ok(())
        } else {
            Err(UsedError::Replayed)
        }
    }
}

/// What a file notes; a file that was cut off by a loss of power allows no key.
fn read(path: &Path) -> io::Result<Option<Note>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines();
    let expires = lines.next().and_then(|line| line.parse().ok());
    Ok(Some(Note {
        expires: expires.unwrap_or(u64::MAX),
        key: lines.next().unwrap_or_default().to_owned(),
    }))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tokens remembered as used: as many sidecars can come within the lifetime of a token.
const MOST_USED: usize = 100_000;

/// How often what has expired is forgotten.
pub const FORGET_EVERY: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use jitney_api::Workload;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn claims(number: u8) -> Claims {
        Claims {
            workload: Workload {
                namespace: "shop".into(),
                account: "users".into(),
            },
            number: [number; 16],
            expires: now() + Duration::from_secs(3600),
        }
    }

    fn open(path: &Path, most: usize, now: SystemTime) -> Used {
        Used::with_bound(&Folder::open(path).unwrap(), most, now).unwrap()
    }

    #[test]
    fn a_token_is_good_for_one_key_whoever_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let one = open(folder.path(), 9, now());
        one.note(&claims(1), &[1; 32], now()).unwrap();
        one.note(&claims(1), &[1; 32], now()).unwrap();
        let replayed = one.note(&claims(1), &[2; 32], now());
        assert!(matches!(replayed, Err(UsedError::Replayed)), "{replayed:?}");
        let replica = open(folder.path(), 9, now());
        replica.note(&claims(1), &[1; 32], now()).unwrap();
        let replayed = replica.note(&claims(1), &[2; 32], now());
        assert!(matches!(replayed, Err(UsedError::Replayed)), "{replayed:?}");
        replica.note(&claims(2), &[2; 32], now()).unwrap();
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let used = open(folder.path(), 2, now());
        for number in [1, 2] {
            used.note(&claims(number), &[1; 32], now()).unwrap();
        }
        let busy = used.note(&claims(3), &[1; 32], now());
        assert!(matches!(busy, Err(UsedError::Busy)), "{busy:?}");
        used.note(&claims(2), &[1; 32], now()).unwrap();
        let later = now() + Duration::from_secs(3600);
        used.note(&claims(3), &[1; 32], later).unwrap();
        let left = fs::read_dir(folder.path().join("used")).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn a_file_that_was_cut_off_allows_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let used = open(folder.path(), 9, now());
        fs::write(used.folder.path(&hex(&[1; 16])), "").unwrap();
        let replayed = used.note(&claims(1), &[1; 32], now());
        assert!(matches!(replayed, Err(UsedError::Replayed)), "{replayed:?}");
    }

    #[test]
    fn of_many_keys_at_once_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let used = open(folder.path(), 99, now());
        let taken = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|key| {
                    let used = &used;
                    scope.spawn(move || used.note(&claims(1), &[key; 32], now()).is_ok())
                })
                .collect();
            tries
                .into_iter()
                .map(|one| one.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(taken.into_iter().filter(|taken| *taken).count(), 1);
    }
}
