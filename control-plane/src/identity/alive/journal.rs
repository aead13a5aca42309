//! The file of the journal: which of its lines were read, and new ones at its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use super::known::Known;

/// The file, as far as it was read.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    inode: u64,
    read: u64,
}

impl Journal {
    /// The file, and its first line.
    pub(super) fn open(path: &std::path::Path) -> io::Result<(Self, Known)> {
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        let inode = file.metadata()?.ino();
        let mut first = [0; FIRST_MAX];
        let read = file.read(&mut first)?;
        let line = first[..read].split(|byte| *byte == b'\n').next();
        let line = line.filter(|line| line.len() < read).unwrap_or_default();
        let known = std::str::from_utf8(line).ok().and_then(Known::of);
        let known = known.ok_or_else(|| invalid(
                "line 1: expected jitney-certificates 1 and a time; restore it from a copy, or remove it: for a day it is \
                 then waited for certificates that nobody has noted before a root is exchanged",
            ))?;
        let read = line.len() as u64 + 1;
        Ok((Self { file, inode, read }, known))
    }

    /// Whether it is still the file of this path. As long as it is open, no other has its inode.
    pub(super) fn is_at(&self, path: &std::path::Path) -> io::Result<bool> {
        let present = std::fs::metadata(path)?;
        Ok(present.ino() == self.inode && present.len() >= self.read)
    }

    /// Whether there is more than whole lines, all of which were read.
    pub(super) fn is_torn(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() > self.read)
    }

    /// Whole lines that were not read yet; empty when there are none.
    pub(super) fn rest(&mut self) -> io::Result<String> {
        if self.file.metadata()?.len() == self.read {
            return Ok(String::new());
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut rest = Vec::new();
        (&self.file).take(READ_MAX).read_to_end(&mut rest)?;
        let whole = rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        rest.truncate(whole);
        self.read += whole as u64;
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    /// Adds lines. Whoever does holds the folder's lock, so that what comes after the last whole line was
    /// left by a process that has ended in the middle of it, and has handed nothing out.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        if self.is_torn()? {
            self.file.set_len(self.read)?;
        }
        self.file.write_all(text.as_bytes())?;
        self.read += text.len() as u64;
        Ok(())
    }
}

fn invalid(told: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, told)
}

/// More than the first line has.
const FIRST_MAX: usize = 64;
/// Bytes that are read at once: thousands of lines.
const READ_MAX: u64 = 1 << 20;
