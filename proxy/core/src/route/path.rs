//! The path part of a match, with the types of Gateway API and `Template`.

use regex::Regex;

use super::{Captures, Template};

/// What a raw path must look like.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// These bytes.
    Exact(Box<str>),
    /// These segments first. Made by [`PathMatch::prefix`].
    ///
    /// Invariant: without a trailing slash, so that `/a` and `/a/` mean the same.
    PathPrefix(Box<str>),
    /// Segments with variables.
    Template(Template),
    /// The whole path fits. Made by [`full_match`](super::full_match).
    RegularExpression(Regex),
}

impl Default for PathMatch {
    /// Every path, as in Gateway API.
    fn default() -> Self {
        Self::prefix("/")
    }
}

impl PathMatch {
    /// A prefix of whole segments: `/a` fits `/a`, `/a/` and `/a/b`, but not `/ab`.
    pub fn prefix(value: &str) -> Self {
        Self::PathPrefix(value.strip_suffix('/').unwrap_or(value).into())
    }

    /// Whether a raw path looks so.
    pub fn fits(&self, path: &str) -> bool {
        self.captures(path).is_some()
    }

    #[inline]
    pub(super) fn captures<'p, 'u>(&'p self, path: &'u str) -> Option<Captures<'p, 'u>> {
        let fits = match self {
            Self::Exact(value) => &**value == path,
            Self::PathPrefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Template(template) => return template.captures(path),
            Self::RegularExpression(regex) => regex.is_match(path),
        };
        fits.then(Captures::new)
    }
}
