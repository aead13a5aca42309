//! What a listener adds to the heads of requests, and what it takes away.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of fields that tell a service of its caller. By default a request passes as it came, but for
/// `x-jitney-*` other than `x-jitney-batch` and `x-jitney-batch-size`: those are this mesh's own, and removed always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderRules {
    /// Fields that say where a request came from.
    #[serde(default)]
    pub forwarded: Forwarded,
    /// `x-request-id`, by which the logs of several services are put together.
    #[serde(default)]
    pub request_id: RequestId,
    /// The name under which this listener enters itself in `Via` (RFC 9110 section 7.6.3). A request that has it five
    /// times goes round in a loop, and gets a 508. Default: none; requests get no `Via`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Pseudonym>,
}

/// What becomes of `X-Forwarded-*` and `Forwarded` (RFC 7239).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Forwarded {
    /// They pass as they came.
    #[default]
    Keep,
    /// The caller's address is added to `X-Forwarded-For`, and to `Forwarded` where the request has one;
    /// `X-Forwarded-Proto` and `X-Forwarded-Host` are set where they are missing. For callers that are proxies.
    Append,
    /// Whatever came is removed, `X-Real-IP` and `X-Forwarded-Client-Cert` included; `X-Forwarded-For`, `-Proto` and
    /// `-Host` say what this listener saw. For callers that are strangers.
    Replace,
    /// Whatever came is removed, as with `Replace`, and nothing is set.
    Remove,
}

/// What becomes of `x-request-id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestId {
    /// It passes as it came, or not at all.
    #[default]
    Keep,
    /// A request without one gets a UUID.
    Make,
}

/// A name in `Via`: a token of at most 64 characters (RFC 9110 section 5.6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Pseudonym(Box<str>);

/// What is wrong with a name for `Via`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, expected at most 64 letters, digits or any of !#$%&'*+-.^_`|~")]
pub struct NotAPseudonym(String);

const LONGEST: usize = 64;

impl HeaderRules {
    /// True when heads pass as they come. Then a document says nothing of it, which older sidecars read, too.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Pseudonym {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pseudonym {
    type Err = NotAPseudonym;

    fn from_str(text: &str) -> Result<Self, NotAPseudonym> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(is_token) {
            return Err(NotAPseudonym(text.chars().take(LONGEST).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Pseudonym {
    type Error = NotAPseudonym;

    fn try_from(text: String) -> Result<Self, NotAPseudonym> {
        text.parse()
    }
}

impl From<Pseudonym> for String {
    fn from(name: Pseudonym) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_a_token() {
        for good in ["jitney", "edge-1.example", "a".repeat(64).as_str()] {
            assert!(good.parse::<Pseudonym>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a\r\nb", "host:80", "a".repeat(65).as_str()] {
            assert!(bad.parse::<Pseudonym>().is_err(), "{bad:?}");
        }
    }
}
