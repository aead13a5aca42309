//! What is logged, as it is written.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// A text that says what is to be logged: a level, or levels by target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(Vec<(Option<String>, &'static str)>);

/// A text that is not a [`LogLevel`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a log level: expected off, error, warn, info, debug or trace, or TARGET=LEVEL, comma separated"
)]
pub struct BadLevel(String);

impl LogLevel {
    /// Each target with its level; without a target, the level of all others.
    pub fn parts(&self) -> impl Iterator<Item = (Option<&str>, &'static str)> {
        self.0.iter().map(|(target, level)| (target.as_deref(), *level))
    }
}

impl FromStr for LogLevel {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        // A lone word must not pass for a target to be logged in full: it may be a misspelt level.
        let part = |part: &str| match part.trim().split_once('=') {
            None => Some((None, level(part)?)),
            Some((target, word)) if is_target(target) => Some((Some(target.to_owned()), level(word)?)),
            Some(_) => None,
        };
        let parts = text.trim().split(',');
        parts
            .map(|word| part(word).ok_or_else(|| BadLevel(word.chars().take(64).collect())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Display for LogLevel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, (target, level)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match target {
                Some(target) => write!(f, "{comma}{target}={level}")?,
                None => write!(f, "{comma}{level}")?,
            }
        }
        Ok(())
    }
}

fn level(word: &str) -> Option<&'static str> {
    let word = word.trim().to_ascii_lowercase();
    LEVELS.into_iter().find(|level| **level == word)
}

fn is_target(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
    (1..=64).contains(&word.len()) && word.bytes().all(allowed)
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
