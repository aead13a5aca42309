//! Which header fields are part of a key.

use http::{HeaderName, HeaderValue};

use crate::grpc;

/// Whether callers of different identity may share a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// No: every credential is part of the key, the name of a workload that has proven it included.
    #[default]
    Strict,
    /// Yes: the batch travels with the credentials of its first member.
    Shared,
}

/// What may differ between the members of one batch. Everything else must be byte-equal:
///
/// - Left out by default are what identifies one call (`traceparent`, `tracestate`, `b3`, `b3-*`,
///   `x-b3-*`, `x-request-id`, `content-length`, `date`) and what belongs to one connection
///   (`keep-alive`, `proxy-connection`, `transfer-encoding`, and a `connection` that only says
///   `keep-alive` or `close`), and `grpc-timeout`, which is a deadline.
/// - `ignore` leaves out more, `include` puts back what is left out otherwise.
/// - [`Sharing::Shared`] leaves out [`CREDENTIALS`].
///
/// Of a field that is left out, the batch carries what its first member carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    sharing: Sharing,
    include: Box<[HeaderName]>,
    ignore: Box<[HeaderName]>,
}

/// A field that no rule may leave out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRulesError {
    /// Merging across identities is one switch, not a list.
    #[error("{0} is a credential: callers share a batch across identities only with `identity: Shared`")]
    Credential(HeaderName),
    /// It says where a call goes or what its body is.
    #[error("{0} says where a call goes or what its body is, so members cannot differ in it")]
    Essential(HeaderName),
}

impl KeyRules {
    /// Rules that leave out `ignore` and put back `include`.
    ///
    /// # Errors
    /// A name in `ignore` that may not be left out.
    pub fn new(
        sharing: Sharing,
        include: Vec<HeaderName>,
        ignore: Vec<HeaderName>,
    ) -> Result<Self, KeyRulesError> {
        for name in &ignore {
            if sharing == Sharing::Strict && is_credential(name.as_str()) {
                return Err(KeyRulesError::Credential(name.clone()));
            }
            if ESSENTIAL.contains(&name.as_str()) {
                return Err(KeyRulesError::Essential(name.clone()));
            }
        }
        Ok(Self {
            sharing,
            include: include.into(),
            ignore: ignore.into(),
        })
    }

    /// Whether callers of different identity may share a batch.
    pub const fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Fields that are put back into the key.
    pub const fn included(&self) -> &[HeaderName] {
        &self.include
    }

    /// Fields that are left out beyond the defaults.
    pub const fn ignored(&self) -> &[HeaderName] {
        &self.ignore
    }

    /// True when the field is part of the key.
    #[inline]
    pub(super) fn keys(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        if self.include.contains(name) {
            return true;
        }
        let text = name.as_str();
        let left_out = self.ignore.contains(name)
            || is_of_one_call(text)
            || (text == "connection" && says_only_persistence(value))
            || (self.sharing == Sharing::Shared && is_credential(text));
        !left_out
    }
}

fn is_of_one_call(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'b') => name == "b3" || name.starts_with("b3-"),
        Some(b'c') => name == "content-length",
        Some(b'd') => name == "date",
        Some(b'g') => name == grpc::TIMEOUT.as_str(),
        Some(b'k') => name == "keep-alive",
        Some(b'p') => name == "proxy-connection",
        Some(b't') => matches!(name, "traceparent" | "tracestate" | "transfer-encoding"),
        Some(b'x') => name == "x-request-id" || name.starts_with("x-b3-"),
        _ => false,
    }
}

fn says_only_persistence(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// True for a field of [`CREDENTIALS`], at the cost of one comparison for most others.
#[inline]
pub fn is_credential(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'a' | b'c' | b'p' | b'x')) && CREDENTIALS.contains(&name)
}

/// Who has proven by mTLS to be calling, as a SPIFFE ID. Written by the sidecar, whatever a caller wrote there.
pub const CLIENT_ID: &str = "x-jitney-client-id";

/// Fields that prove or carry who is calling. Part of every key unless callers may share.
pub const CREDENTIALS: [&str; 15] = [
    CLIENT_ID,
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-forwarded-client-cert",
];

/// Fields that say where a call goes or what its body is: part of every key.
pub const ESSENTIAL: [&str; 5] = ["host", "content-type", "content-encoding", "connection", "te"];
