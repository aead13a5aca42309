//! Backends and their endpoints.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::claims::{self, Claim, with_claimants};
use super::{Fault, Taken, unreadable};
use crate::push::config;
use crate::push::reversible::Reversible;
use crate::{BackendSpec, BadWorkload, Endpoint, Workload};

/// The backends that a sidecar has calls for.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    backends: Reversible<String, Known>,
    /// By their full names, so that a backend's are together.
    endpoints: Reversible<String, Reached>,
    /// Each policy with the backends whose callers run it.
    callers: Reversible<(String, String), ()>,
}

/// A backend without its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    spec: BackendSpec,
    addresses: Vec<SocketAddr>,
    is_service: bool,
    policies: Vec<String>,
    claims: Vec<Claim>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// How it is spoken to; the addresses in it are not filled in.
    pub spec: BackendSpec,
    /// Its addresses; none where nothing serves it at the moment.
    pub endpoints: Vec<Reached>,
    /// What callers may connect to in place of one of these.
    pub addresses: Vec<SocketAddr>,
    /// Whoever connects to one of its endpoints has not named it: it is a Service, and anybody may say of any address
    /// that it is an endpoint of theirs.
    pub is_service: bool,
    /// The policies that its callers' sidecars run.
    pub policies: Vec<String>,
    /// Calls that these are not for.
    pub claims: Vec<Claim>,
}

/// An address, and who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The address.
    pub endpoint: Endpoint,
    /// Whose sidecar answers; `None`: nobody of the mesh.
    pub workload: Option<Workload>,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
}

impl Known {
    /// Every policy that its callers run, for some of their calls at least.
    fn run(&self) -> Vec<&str> {
        with_claimants(self.policies.iter().map(String::as_str), &self.claims)
    }
}

impl Destinations {
    pub(super) fn mark(&mut self) {
        self.backends.mark();
        self.endpoints.mark();
        self.callers.mark();
    }

    pub(super) fn go_back(&mut self) {
        self.backends.go_back();
        self.endpoints.go_back();
        self.callers.go_back();
    }

    pub(super) fn set(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        let message = config::Backend::decode(content).map_err(|error| unreadable(&error))?;
        let mut spec: Value = serde_json::from_slice(&message.spec).map_err(|error| unreadable(&error))?;
        if let Some(fields) = spec.as_object_mut() {
            fields.insert("endpoints".into(), json!([]));
        }
        let spec = serde_json::from_value(spec).map_err(|error| unreadable(&error))?;
        let addresses = message.addresses.iter().map(|text| {
            text.parse().map_err(|_| Fault {
                field: "addresses".into(),
                reason: format!("found {text:?}, expected ip:port"),
                missing: None,
                is_beyond: false,
            })
        });
        let backend = Known {
            spec,
            addresses: addresses.collect::<Result<_, _>>()?,
            is_service: message.is_service,
            policies: message.policies,
            claims: claims::read(message.claims, "claims")?,
        };
        self.run_by_nobody(name);
        for policy in backend.run() {
            self.callers.set((policy.to_owned(), name.to_owned()), ());
        }
        Ok(Taken::of(self.backends.set(name.to_owned(), backend)))
    }

    pub(super) fn set_endpoint(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        let message = config::Endpoint::decode(content).map_err(|error| unreadable(&error))?;
        let endpoint: Endpoint = message.address.parse().map_err(|error| Fault {
            field: "address".into(),
            reason: format!("found {:?}: {error}", message.address),
            missing: None,
            is_beyond: false,
        })?;
        let workload = Some(message.workload).filter(|workload| !workload.is_empty());
        let workload = workload.map(|workload| {
            workload.parse().map_err(|error: BadWorkload| Fault {
                is_beyond: false,
                field: "workload".into(),
                reason: format!("found {workload:?}: {error}"),
                missing: None,
            })
        });
        let reached = Reached {
            endpoint,
            workload: workload.transpose()?,
            zone: Some(message.zone).filter(|zone| !zone.is_empty()).map(Into::into),
        };
        Ok(Taken::of(self.endpoints.set(name.to_owned(), reached)))
    }

    pub(super) fn remove(&mut self, name: &str) -> Taken {
        self.run_by_nobody(name);
        Taken::of(self.backends.remove(name))
    }

    pub(super) fn remove_endpoint(&mut self, name: &str) -> Taken {
        Taken::of(self.endpoints.remove(name))
    }

    /// Callers of this backend run no policy for it.
    fn run_by_nobody(&mut self, name: &str) {
        let known = self.backends.get(name);
        for policy in known.map_or_else(Vec::new, Known::run) {
            self.callers.remove(&(policy.to_owned(), name.to_owned()));
        }
    }

    /// The backends whose callers run this policy.
    pub(super) fn callers(&self, policy: &str) -> impl Iterator<Item = &str> {
        let first = (policy.to_owned(), String::new());
        let from = self.callers.range(first..);
        let of_policy = from.take_while(move |((of, _), ())| of == policy);
        of_policy.map(|((_, backend), ())| backend.as_str())
    }

    /// Whether something is known of a backend.
    pub(super) fn is_known(&self, backend: &str) -> bool {
        self.backends.contains_key(backend)
    }

    /// Policies of which that may be another thing than at the mark.
    pub(super) fn changed_for_callers(&self) -> impl Iterator<Item = &str> {
        self.callers.changed().map(|((policy, _), _)| policy.as_str())
    }

    /// Backends whose callers run other policies than at the mark.
    pub(super) fn changed_policies(&self) -> impl Iterator<Item = &str> {
        let changed = self.backends.changed();
        let changed =
            changed.filter(|(name, before)| before.map_or_else(Vec::new, Known::run) != self.policies(name));
        changed.map(|(name, _)| name.as_str())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.backends.keys().map(String::as_str)
    }

    /// Every policy that some of a backend's calls are for.
    pub(super) fn policies(&self, backend: &str) -> Vec<&str> {
        self.backends.get(backend).map_or_else(Vec::new, Known::run)
    }

    pub(super) fn get(&self, backend: &str) -> Option<Destination> {
        let Known {
            spec,
            addresses,
            is_service,
            policies,
            claims,
        } = self.backends.get(backend)?;
        let prefix = format!("{backend}/");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let below = self.endpoints.range::<str, _>(from);
        let endpoints = below.take_while(|(name, _)| name.starts_with(&prefix));
        Some(Destination {
            spec: spec.clone(),
            endpoints: endpoints.map(|(_, reached)| reached.clone()).collect(),
            addresses: addresses.clone(),
            is_service: *is_service,
            policies: policies.clone(),
            claims: claims.clone(),
        })
    }
}
