//! One fault of a file: where it is, what was found and what was expected.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// Whether a fault keeps the file from being used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It does.
    #[default]
    Error,
    /// It does not, but what it says has no effect.
    Warning,
}

/// One fault of a file. Displays as `file:line:column: field: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it keeps the file from being used.
    pub severity: Severity,
    /// The file as it was named.
    pub file: Arc<str>,
    /// Line, from 1; 0 when the fault has no place in the file.
    pub line: u64,
    /// Column in characters, from 1; 0 likewise.
    pub column: u64,
    /// The field, such as `spec.routes[0].codec`; empty when the fault is the file's.
    pub field: String,
    /// What was found and what was expected.
    pub message: String,
}

impl Diagnostic {
    /// Whether it keeps the file from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// A fault of the file as a whole.
    pub fn of_file(file: &Arc<str>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: Arc::clone(file),
            line: 0,
            column: 0,
            field: String::new(),
            message: message.into(),
        }
    }
}

impl Display for Diagnostic {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str(": warning")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The name among `known` that `found` was most likely meant to be.
pub(crate) fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_ascii_lowercase();
    let distances = known
        .into_iter()
        .map(|name| (distance(&found, &name.to_ascii_lowercase()), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may be wrong; beyond that a suggestion is a guess.
    (distance <= 1.max(found.len().max(name.len()) / 3)).then_some(name)
}

/// Edits between two words: insert, remove or replace one letter (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other = other.chars().collect::<Vec<_>>();
    let mut row = (0..=other.len()).collect::<Vec<_>>();
    for (above, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (column, candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *candidate);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
