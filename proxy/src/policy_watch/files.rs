//! Reads policy files, within bounds.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A policy file and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its path, as it was given or below the folder that was given.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Why a path could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The form of every diagnostic: the whole file is meant.
        write!(f, "{}:1:1: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for Fault {}

/// Reads files, and the `.yaml`, `.yml` and `.json` files of folders (not of folders in them) in
/// the order of their names.
///
/// # Errors
/// The first path that cannot be read, or that is larger than a policy may be.
pub fn read(paths: &[PathBuf]) -> Result<Vec<PolicyFile>, Fault> {
    let mut files = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).map_err(|error| fault(path, &error))?;
        if kind.is_dir() {
            for file in listed(path).map_err(|error| fault(path, &error))? {
                files.push(read_one(file)?);
            }
        } else {
            files.push(read_one(path.clone())?);
        }
        if files.len() > FILES_MAX {
            let message = format!("more than {FILES_MAX} policy files");
            return Err(Fault {
                path: path.clone(),
                message,
            });
        }
    }
    Ok(files)
}

fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in folder.read_dir()?.take(ENTRIES_MAX) {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_policy = path
            .extension()
            .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|e| end == *e));
        // Asked of what a link leads to.
        if !is_hidden && is_policy && fs::metadata(&path).is_ok_and(|kind| kind.is_file()) {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

fn read_one(path: PathBuf) -> Result<PolicyFile, Fault> {
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(|error| fault(&path, &error))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fault(&path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault {
            path,
            message: format!("larger than {FILE_BYTES_MAX} bytes"),
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(PolicyFile { path, text }),
        Err(error) => Err(Fault {
            path,
            message: format!("not UTF-8: {}", error.utf8_error()),
        }),
    }
}

fn fault(path: &Path, error: &io::Error) -> Fault {
    Fault {
        path: path.to_owned(),
        message: format!("cannot be read: {error}"),
    }
}

/// The most that Kubernetes stores in one object is 1.5 MiB; a policy has some kilobytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Files over all paths.
const FILES_MAX: usize = 1024;

/// Entries of one folder that are looked at.
const ENTRIES_MAX: usize = 16 * 1024;
