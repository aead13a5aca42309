//! The mesh's documents: a copy of the folder in which they are kept, with the addresses of this run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context as _, ensure};

/// A change of one document, as somebody would make it in an editor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edit {
    /// The file.
    pub(crate) file: &'static str,
    /// The policy in it.
    pub(crate) policy: &'static str,
    /// The field that is changed.
    pub(crate) field: &'static str,
    /// Where it is in the policy's `spec`, as a JSON pointer.
    pub(crate) pointer: &'static str,
    /// What is written there before.
    pub(crate) from: &'static str,
    /// What is written there after.
    pub(crate) to: &'static str,
}

impl Edit {
    /// The change that takes this one back.
    pub(crate) const fn back(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            ..self
        }
    }

    /// Makes the change in a folder.
    ///
    /// # Errors
    /// When the file does not say what is to be changed.
    pub(crate) fn make(&self, folder: &Path) -> anyhow::Result<()> {
        let Self {
            file,
            field,
            from,
            to,
            ..
        } = self;
        let path = folder.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (before, after) = (format!("{field}: {from}"), format!("{field}: {to}"));
        ensure!(text.contains(&before), "{}: no {before:?} in it", path.display());
        fs::write(&path, text.replacen(&before, &after, 1))?;
        Ok(())
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            field,
            from,
            to,
            ..
        } = self;
        write!(f, "{file}: {field} {from} → {to}")
    }
}

/// Copies the documents to a new folder, with the addresses of this run in place of those written.
///
/// # Errors
/// When one of those is not in the documents, or a file cannot be read or written.
pub(crate) fn copy(to: &Path, addresses: &[(&str, SocketAddr)]) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    let mut unused: Vec<&str> = addresses.iter().map(|(written, _)| *written).collect();
    for entry in fs::read_dir(kept())? {
        let entry = entry?;
        let mut text = fs::read_to_string(entry.path())?;
        for (written, address) in addresses {
            if text.contains(written) {
                unused.retain(|other| other != written);
                text = text.replace(written, &address.to_string());
            }
        }
        fs::write(to.join(entry.file_name()), text)?;
    }
    ensure!(unused.is_empty(), "not in the documents: {unused:?}");
    Ok(())
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/documents")
}
