//! Who a sidecar is: the workload that it serves, as a SPIFFE ID.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// A workload, which is known by the part of its SPIFFE ID that differs inside a mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its service account; in files, the name of the Backend that it serves.
    pub account: String,
}

impl Workload {
    /// Who the control plane is to its sidecars. Nobody else gets a certificate for this.
    pub fn control_plane() -> Self {
        Self {
            namespace: "jitney".to_owned(),
            account: "control-plane".to_owned(),
        }
    }
}

/// A text that names no workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWorkload {
    /// It has not two parts.
    #[error("expected NAMESPACE/ACCOUNT")]
    Form,
    /// One of them cannot stand in a certificate.
    #[error("expected two names that can be in a SPIFFE ID, such as shop/users")]
    Names,
}

impl FromStr for Workload {
    type Err = BadWorkload;

    /// As [`Display`] writes it.
    fn from_str(text: &str) -> Result<Self, BadWorkload> {
        let (namespace, account) = text.split_once('/').ok_or(BadWorkload::Form)?;
        if !is_segment(namespace) || !is_segment(account) {
            return Err(BadWorkload::Names);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
        })
    }
}

impl Display for Workload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`, the only form of SPIFFE ID that is read here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The mesh: lower-case letters, digits, `.`, `-` and `_`.
    pub trust_domain: String,
    /// The workload in it.
    pub workload: Workload,
}

/// A text that is no SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, expected spiffe://<trust-domain>/ns/<namespace>/sa/<account>")]
pub struct NotAWorkload {
    /// The text.
    pub found: String,
}

impl Display for SpiffeId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Workload { namespace, account } = &self.workload;
        write!(f, "spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
    }
}

impl FromStr for SpiffeId {
    type Err = NotAWorkload;

    fn from_str(text: &str) -> Result<Self, NotAWorkload> {
        let read = || {
            let rest = text.strip_prefix("spiffe://")?;
            let mut parts = rest.split('/');
            let trust_domain = parts.next().filter(|name| is_trust_domain(name))?;
            let ("ns", namespace) = (parts.next()?, parts.next()?) else {
                return None;
            };
            let ("sa", account) = (parts.next()?, parts.next()?) else {
                return None;
            };
            let is_whole = parts.next().is_none() && is_segment(namespace) && is_segment(account);
            is_whole.then(|| Self {
                trust_domain: trust_domain.to_owned(),
                workload: Workload {
                    namespace: namespace.to_owned(),
                    account: account.to_owned(),
                },
            })
        };
        read().ok_or_else(|| NotAWorkload {
            found: text.chars().take(MOST_SHOWN).collect(),
        })
    }
}

/// SPIFFE-ID §2.1.
pub fn is_trust_domain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(allowed)
}

/// SPIFFE-ID §2.2: a path is not normalised, so that a segment of dots is no segment.
pub fn is_segment(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 253 && name.bytes().all(allowed)
}

/// Characters of a text that a message repeats.
const MOST_SHOWN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let text = "spiffe://example.org/ns/shop/sa/users";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.trust_domain, "example.org");
        assert_eq!(id.workload.to_string(), "shop/users");
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn what_is_no_workload_is_not_read() {
        for text in [
            "",
            "https://example.org/ns/shop/sa/users",
            "SPIFFE://example.org/ns/shop/sa/users",
            "spiffe://Example.org/ns/shop/sa/users",
            "spiffe://example.org:8443/ns/shop/sa/users",
            "spiffe://user@example.org/ns/shop/sa/users",
            "spiffe:///ns/shop/sa/users",
            "spiffe://example.org/ns/shop/sa/",
            "spiffe://example.org/ns//sa/users",
            "spiffe://example.org/ns/../sa/users",
            "spiffe://example.org/ns/shop/sa/users/",
            "spiffe://example.org/ns/shop/sa/users?x=1",
            "spiffe://example.org/ns/shop/sa/us%65rs",
            "spiffe://example.org/sa/users/ns/shop",
            "spiffe://example.org/shop/users",
        ] {
            let fault = text.parse::<SpiffeId>().unwrap_err();
            assert!(fault.to_string().contains(&format!("{text:?}")), "{fault}");
        }
    }
}
