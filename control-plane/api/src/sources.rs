//! Policy files on disk: single files and folders of them, within bounds.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Diagnostic;

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file as it was named.
    pub file: Arc<str>,
    /// What it holds.
    pub text: String,
}

/// The texts of all files, in the order in which their documents take precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The files.
    pub files: Vec<Source>,
}

impl Sources {
    /// Reads files, and of folders the files named `*.yaml`, `*.yml` or `*.json`, by name. Names
    /// that begin with a dot are left out, and with them what Kubernetes keeps beside a mounted
    /// ConfigMap. Folders inside folders are not entered.
    ///
    /// # Errors
    /// Every file that cannot be read, is no UTF-8 text, or exceeds [`MAX_FILE_BYTES`].
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Vec<Diagnostic>> {
        let mut sources = Self::default();
        let mut faults = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            match files_of(path) {
                Ok(files) => {
                    for file in files {
                        read(&file)
                            .map_or_else(|fault| faults.push(fault), |source| sources.files.push(source));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(first_too_many) = sources.files.get(MAX_FILES) {
            let message = format!(
                "found {} files, expected at most {MAX_FILES}",
                sources.files.len()
            );
            faults.push(Diagnostic::of_file(&first_too_many.file, message));
        }
        if faults.is_empty() {
            Ok(sources)
        } else {
            Err(faults)
        }
    }

    /// A single text, for tests and for policies that do not come from disk.
    pub fn inline(file: &str, text: &str) -> Self {
        Self {
            files: vec![Source {
                file: file.into(),
                text: text.to_owned(),
            }],
        }
    }
}

fn name_of(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

/// The file itself, or those of the folder by name.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fault =
        |error: &std::io::Error| Diagnostic::of_file(&name_of(path), format!("cannot be listed: {error}"));
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| fault(&error))? {
        let file = entry.map_err(|error| fault(&error))?.path();
        let hidden = file
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ours = file
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|ours| extension == *ours));
        // A link to nothing is a file that somebody meant to be there.
        let dangling = || file.is_symlink() && !file.exists();
        if ours && !hidden && (file.is_file() || dangling()) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let message = "found no file named *.yaml, *.yml or *.json in this folder";
        return Err(Diagnostic::of_file(&name_of(path), message));
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Source, Diagnostic> {
    let file = name_of(path);
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    let opened = fs::File::open(path).and_then(|opened| opened.take(limit).read_to_end(&mut bytes));
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let link = fs::read_link(path).ok();
            let message = link.map_or_else(
                || "no such file".to_owned(),
                |to| format!("a link to {}, where there is no such file", to.display()),
            );
            return Err(Diagnostic::of_file(&file, message));
        }
        Err(error) => return Err(Diagnostic::of_file(&file, format!("cannot be read: {error}"))),
        Ok(_) => {}
    }
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("found more than {MAX_FILE_BYTES} bytes, expected at most so many");
        return Err(Diagnostic::of_file(&file, message));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { file, text }),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            let line = before.rsplit('\n').next().unwrap_or_default();
            Err(Diagnostic {
                line: before.matches('\n').count() as u64 + 1,
                column: line.chars().count() as u64 + 1,
                ..Diagnostic::of_file(&file, "found bytes that are no UTF-8 text")
            })
        }
    }
}

/// Bytes that one file may hold. The largest policy set that Kubernetes stores in one object is
/// 1.5 MiB.
pub const MAX_FILE_BYTES: usize = 2 << 20;

const MAX_FILES: usize = 1000;

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

#[cfg(test)]
mod tests;
