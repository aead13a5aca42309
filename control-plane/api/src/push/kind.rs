//! The types of resource, in the order in which they may be sent.

use std::fmt::{self, Display, Formatter};

/// A type of resource. The order is the one in which they are sent: what others refer to is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who signs for a trust domain.
    TrustBundle,
    /// What changes in a sidecar while it runs.
    Runtime,
    /// What is beside one sidecar.
    Sidecar,
    /// A backend without its endpoints.
    Backend,
    /// One address of a backend.
    Endpoint,
    /// One route of a policy.
    Route,
    /// A policy without its routes.
    Policy,
}

impl Kind {
    /// Every type, in the order in which they are sent.
    pub const ALL: [Self; 7] = [
        Self::TrustBundle,
        Self::Runtime,
        Self::Sidecar,
        Self::Backend,
        Self::Endpoint,
        Self::Route,
        Self::Policy,
    ];

    /// The type's URL, as it stands in every message.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => "type.googleapis.com/jitney.config.v1.TrustBundle",
            Self::Runtime => "type.googleapis.com/jitney.config.v1.Runtime",
            Self::Sidecar => "type.googleapis.com/jitney.config.v1.Sidecar",
            Self::Backend => "type.googleapis.com/jitney.config.v1.Backend",
            Self::Endpoint => "type.googleapis.com/jitney.config.v1.Endpoint",
            Self::Route => "type.googleapis.com/jitney.config.v1.Route",
            Self::Policy => "type.googleapis.com/jitney.config.v1.Policy",
        }
    }

    /// The type of a URL; `None` for types of others.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The type as a metric label and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrustBundle => "trust_bundle",
            Self::Runtime => "runtime",
            Self::Sidecar => "sidecar",
            Self::Backend => "backend",
            Self::Endpoint => "endpoint",
            Self::Route => "route",
            Self::Policy => "policy",
        }
    }

    /// The policy that a resource of this type is a part of, by its name; `None` for what is none of one.
    pub fn policy_of(self, name: &str) -> Option<&str> {
        match self {
            Self::Policy => Some(name),
            Self::Route => name.rsplit_once('/').map(|(policy, _)| policy),
            Self::TrustBundle | Self::Runtime | Self::Sidecar | Self::Backend | Self::Endpoint => None,
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
