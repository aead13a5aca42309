//! Which names are subscribed to.

use std::collections::BTreeSet;

/// Names, collections and perhaps everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    exact: BTreeSet<String>,
    /// Prefixes that end in `/`.
    below: BTreeSet<String>,
    all: bool,
}

/// What a name in a subscription stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern<'a> {
    /// One resource.
    Exact(&'a str),
    /// Every resource whose name begins so.
    Below(&'a str),
    /// Everything that the node is to have.
    All,
}

impl<'a> Pattern<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        match name.strip_suffix('*') {
            Some("") => Self::All,
            Some(prefix) if prefix.ends_with('/') => Self::Below(prefix),
            _ => Self::Exact(name),
        }
    }
}

impl Names {
    pub(super) fn insert(&mut self, pattern: Pattern<'_>) {
        match pattern {
            Pattern::Exact(name) => {
                self.exact.insert(name.to_owned());
            }
            Pattern::Below(prefix) => {
                self.below.insert(prefix.to_owned());
            }
            Pattern::All => self.all = true,
        }
    }

    pub(super) fn remove(&mut self, pattern: Pattern<'_>) {
        match pattern {
            Pattern::Exact(name) => {
                self.exact.remove(name);
            }
            Pattern::Below(prefix) => {
                self.below.remove(prefix);
            }
            Pattern::All => self.all = false,
        }
    }

    /// Whether a name may be wanted: of everything, only the control plane knows what it is.
    pub(super) fn cover(&self, name: &str) -> bool {
        self.all || self.pick(name)
    }

    /// Whether everything that the node is to have is wanted.
    pub(super) const fn all(&self) -> bool {
        self.all
    }

    /// Whether a name is wanted by itself, or as one of a collection.
    pub(super) fn pick(&self, name: &str) -> bool {
        self.exact.contains(name) || self.collects(name)
    }

    /// Whether a collection has the name. Walks the name's own parts, not the collections.
    fn collects(&self, name: &str) -> bool {
        !self.below.is_empty()
            && name
                .match_indices('/')
                .any(|(at, _)| self.below.contains(&name[..=at]))
    }

    /// Whether the name itself is subscribed to, so that its absence is news.
    pub(super) fn names(&self, name: &str) -> bool {
        self.exact.contains(name)
    }

    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.below.len() + usize::from(self.all)
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = Pattern<'_>> {
        let all = self.all.then_some(Pattern::All);
        let below = self.below.iter().map(|prefix| Pattern::Below(prefix));
        let exact = self.exact.iter().map(|name| Pattern::Exact(name));
        all.into_iter().chain(below).chain(exact)
    }

    /// As they stand in a request.
    pub(super) fn iter(&self) -> impl Iterator<Item = String> {
        let all = self.all.then(|| "*".to_owned());
        let below = self.below.iter().map(|prefix| format!("{prefix}*"));
        all.into_iter().chain(below).chain(self.exact.iter().cloned())
    }
}
