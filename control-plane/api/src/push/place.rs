//! What policies can have, and no two of them at once.

use std::fmt::{self, Display, Formatter};

use crate::gateway::RouteKind;

/// A backend, or the calls to it that belong to one rule of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The backend's short name.
    pub backend: String,
    /// `None`: all of its calls that nobody has by a rule.
    pub rule: Option<RuleRef>,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The route's kind.
    pub kind: RouteKind,
    /// The route's name.
    pub route: String,
    /// The rule's place in it.
    pub index: usize,
    /// Its name, or its place again.
    pub called: String,
}

impl Place {
    /// A backend as a whole.
    pub fn whole(backend: impl Into<String>) -> Self {
        Self {
            backend: backend.into(),
            rule: None,
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.backend)?;
        match &self.rule {
            None => Ok(()),
            Some(rule) => write!(f, " ({} {}, rule {})", rule.kind, rule.route, rule.called),
        }
    }
}
