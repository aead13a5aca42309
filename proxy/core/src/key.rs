//! Who may share a batch: everything that must be byte-equal, as one byte string that is
//! compared whole.
//!
//! Each part is written behind its length, so no two different calls can give the same string.

mod bypass;
mod describe;
mod fields;

use http::{HeaderMap, HeaderName, Version};
use smallvec::SmallVec;

use crate::batch::Order;
use crate::route::{Head, Route};

pub use bypass::head_bypass;
pub use describe::{Description, describe};
pub use fields::{CLIENT_ID, CREDENTIALS, ESSENTIAL, KeyRules, KeyRulesError, Sharing, is_credential};

/// A key, in a buffer that is cleared and used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuf(Vec<u8>);

impl KeyBuf {
    /// An empty buffer. It allocates with its first key and keeps what it grew to.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The key that was written last.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn part(&mut self, bytes: &[u8]) {
        // Bodies are bounded far below 4 GiB before they come here, heads further below.
        let length = u32::try_from(bytes.len()).unwrap_or(ABSENT - 1);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.part(bytes),
            None => self.0.extend_from_slice(&ABSENT.to_le_bytes()),
        }
    }
}

/// Writes the key of a call: see [`KeyRules`] for what may differ between members.
///
/// `version` is the one that the call came in with, `captures` are those of the route's match, `invariants`
/// what the codec adds.
pub fn write_key(
    buf: &mut KeyBuf,
    route: &Route,
    head: &Head<'_>,
    captures: &[(&str, &str)],
    version: Version,
    invariants: &[u8],
    priority: u8,
) {
    buf.0.clear();
    buf.part(route.name.as_bytes());
    buf.0.extend_from_slice(&route.generation.to_le_bytes());
    buf.0.push(u8::from(version >= Version::HTTP_2));
    buf.0.push(priority);
    buf.part(head.method.as_str().as_bytes());
    buf.optional(head.uri.scheme_str().map(str::as_bytes));
    buf.optional(
        head.uri
            .authority()
            .map(|authority| authority.as_str().as_bytes()),
    );
    let (before, behind) = split_path(route, head.uri.path(), captures);
    buf.part(before.as_bytes());
    buf.optional(behind.map(str::as_bytes));
    buf.optional(head.uri.query().map(str::as_bytes));
    buf.part(invariants);
    write_fields(buf, &route.key, head.headers);
}

/// The path less the item's own part, in two pieces; or whole.
fn split_path<'a>(route: &Route, path: &'a str, captures: &[(&str, &str)]) -> (&'a str, Option<&'a str>) {
    let item = route.codec.item_variable();
    let Some((_, value)) = captures.iter().find(|(name, _)| Some(*name) == item) else {
        return (path, None);
    };
    // A capture is a slice of the path. Should it ever not be, the whole path is keyed, which is
    // merely careful.
    let start = value.as_ptr().addr().wrapping_sub(path.as_ptr().addr());
    match (path.get(..start), path.get(start.saturating_add(value.len())..)) {
        (Some(before), Some(behind)) => (before, Some(behind)),
        _ => (path, None),
    }
}

/// Fields by name in one canonical order; values of one name in the order they came in.
fn write_fields(buf: &mut KeyBuf, rules: &KeyRules, headers: &HeaderMap) {
    let mut keyed = headers
        .iter()
        .filter(|(name, value)| rules.keys(name, value))
        .map(|(name, value)| (rank(name), name.as_str(), value.as_bytes()))
        .collect::<SmallVec<[_; 24]>>();
    // Stable, so that values of one name keep their order.
    keyed.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| one.1.cmp(other.1)));
    for (_, name, value) in &keyed {
        buf.part(name.as_bytes());
        buf.part(value);
    }
}

/// A number that tells most names apart, so that most comparisons are of numbers. Names differ
/// more at their ends than at their beginnings.
fn rank(name: &HeaderName) -> u64 {
    let bytes = name.as_str().as_bytes();
    match bytes.last_chunk() {
        Some(end) => u64::from_le_bytes(*end),
        None => bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
    }
}

/// The priority class of a call on a route with `order: Priority`: 0 is the most urgent, 7 the
/// least. [`DEFAULT_PRIORITY`] on other routes and where the field does not say.
///
/// The field is that of RFC 9218 (`u=1, i`); a lone digit will do.
pub fn priority(route: &Route, headers: &HeaderMap) -> u8 {
    if route.limits.order != Order::Priority {
        return DEFAULT_PRIORITY;
    }
    let field = match &route.priority_header {
        Some(name) => headers.get(name),
        None => headers.get("priority"),
    };
    let Some(text) = field.and_then(|value| value.to_str().ok()) else {
        return DEFAULT_PRIORITY;
    };
    text.split(',')
        .map(str::trim)
        .find_map(
            |member| match member.strip_prefix("u=").unwrap_or(member).as_bytes() {
                [digit @ b'0'..=b'7'] => Some(digit - b'0'),
                _ => None,
            },
        )
        .unwrap_or(DEFAULT_PRIORITY)
}

/// A number for the caller's identity, for fairness between tenants: the workload that it has proven to be,
/// whatever credentials it shows beside, or its credentials. Different callers may share a number; nothing else
/// depends on it. Who may invent credentials has more turns with more of them, in a queue that is bounded.
pub fn tenant(headers: &HeaderMap) -> u64 {
    use std::hash::{BuildHasher, Hasher};

    let seeded = foldhash::fast::FixedState::with_seed(0);
    let mut hasher = seeded.build_hasher();
    for (name, value) in headers {
        if name == CLIENT_ID {
            hasher = seeded.build_hasher();
            hasher.write(value.as_bytes());
            break;
        }
        if is_credential(name.as_str()) {
            hasher.write(value.as_bytes());
        }
    }
    hasher.finish()
}

/// The class of a call that names none (RFC 9218 section 4.1).
pub const DEFAULT_PRIORITY: u8 = 3;

/// The length of a part that is not there.
const ABSENT: u32 = u32::MAX;

#[cfg(test)]
mod tests;
