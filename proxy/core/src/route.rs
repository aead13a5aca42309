//! Routes: which calls a rule is for. Matching looks at raw bytes, normalises nothing and
//! allocates nothing.

mod path;
mod template;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, Uri};
use regex::Regex;
use smallvec::SmallVec;

use crate::batch::Limits;
use crate::codec::{AnyCodec, Codec};
use crate::key::KeyRules;
use crate::policy::{Mode, OnFailure, Timeouts};

pub use path::PathMatch;
pub use template::{Template, TemplateError};

/// Raw values of a template's variables, in template order.
pub type Captures<'p, 'u> = SmallVec<[(&'p str, &'u str); 2]>;

/// What a route may look at in a call.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method as received.
    pub method: &'a Method,
    /// The target as received.
    pub uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// A route that fits a call.
#[derive(Clone, Debug)]
pub struct Matched<'p, 'u> {
    /// The route.
    pub route: &'p Arc<Route>,
    /// The raw values of its template's variables; empty for other path types.
    pub captures: Captures<'p, 'u>,
}

/// A route's index within its [`Policy`](crate::policy::Policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// One rule, with everything that a call on it needs. Validated where it is made.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its index within the policy of its generation.
    pub id: RouteId,
    /// `policy/route`, unique within a policy: the label of metrics and logs.
    pub name: Arc<str>,
    /// Name of the `BatchPolicy` it comes from.
    pub policy: Arc<str>,
    /// A content hash of that document.
    pub generation: u64,
    /// Alternatives; a call needs one of them.
    pub matches: Vec<RouteMatch>,
    /// How members merge.
    pub codec: AnyCodec,
    /// Whether they do.
    pub mode: Mode,
    /// The caps of a batch and its queue, those of the codec's convention included.
    pub limits: Arc<Limits>,
    /// What may differ between members of one batch.
    pub key: KeyRules,
    /// What follows a failed batch.
    pub on_failure: OnFailure,
    /// How long a call may take.
    pub timeouts: Timeouts,
    /// The field that carries a call's priority class; used with `order: Priority` only.
    pub priority_header: Option<HeaderName>,
}

impl Route {
    /// The captures of the first alternative that fits `head`; `None`: none does.
    #[inline]
    pub fn captures<'p, 'u>(&'p self, head: &Head<'u>) -> Option<Captures<'p, 'u>> {
        self.matches
            .iter()
            .find_map(|alternative| alternative.captures(head))
    }

    /// True when a call of so many items and bytes, those included that a merged body has once,
    /// is within the caps of one batch. One that is not travels alone.
    pub fn fits(&self, items: usize, bytes: usize) -> bool {
        let most = self
            .codec
            .max_bytes()
            .unwrap_or(usize::MAX)
            .min(self.limits.max_bytes);
        items <= self.limits.max_size && bytes <= most
    }
}

/// One alternative of a route: all that is named must fit.
#[derive(Clone, Debug, Default)]
pub struct RouteMatch {
    /// The method; `None`: any.
    pub method: Option<Method>,
    /// The path.
    pub path: PathMatch,
    /// Header fields, all of which must fit.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of which must fit.
    pub query: Vec<QueryMatch>,
}

impl RouteMatch {
    /// Whether a call is one of these.
    #[inline]
    pub fn fits(&self, head: &Head<'_>) -> bool {
        self.captures(head).is_some()
    }

    #[inline]
    fn captures<'p, 'u>(&'p self, head: &Head<'u>) -> Option<Captures<'p, 'u>> {
        if self.method.as_ref().is_some_and(|method| method != head.method) {
            return None;
        }
        let captures = self.path.captures(head.uri.path())?;
        let fits = self.headers.iter().all(|field| field.fits(head.headers))
            && self
                .query
                .iter()
                .all(|parameter| parameter.fits(head.uri.query().unwrap_or_default()));
        fits.then_some(captures)
    }
}

/// What the value of a field or parameter must be.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// These bytes.
    Exact(Box<str>),
    /// The whole value fits. Made by [`full_match`].
    RegularExpression(Regex),
    /// Anything, also nothing.
    Present,
}

impl ValueMatch {
    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::RegularExpression(regex) => {
                std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text))
            }
            Self::Present => true,
        }
    }
}

/// A header field that must fit. A repeated field fits when one of its values does.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

impl HeaderMatch {
    fn fits(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(&self.name)
            .iter()
            .any(|value| self.value.fits(value.as_bytes()))
    }
}

/// A query parameter that must fit, raw. Of a repeated one the first counts.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Its name as it stands in the query, percent-encoding included.
    pub name: Box<str>,
    /// Its value, likewise.
    pub value: ValueMatch,
}

impl QueryMatch {
    fn fits(&self, query: &str) -> bool {
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| *name == &*self.name)
            .is_some_and(|(_, value)| self.value.fits(value.as_bytes()))
    }
}

/// Compiles an expression that must fit a whole value, within a bound on memory.
///
/// # Errors
/// What is wrong with the expression, or that it is too large once compiled.
pub fn full_match(expression: &str) -> Result<Regex, regex::Error> {
    // Compiled on its own first: `a)|(b` is no expression, but would be one inside the group below.
    regex::RegexBuilder::new(expression)
        .size_limit(REGEX_BYTES)
        .build()?;
    regex::RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(REGEX_BYTES)
        .dfa_size_limit(REGEX_BYTES)
        .build()
}

/// Bytes that one compiled expression may take: far above what paths and versions need.
const REGEX_BYTES: usize = 1 << 20;

#[cfg(test)]
pub(crate) mod tests;
