//! Policies and their routes. A policy comes as one resource and its routes as others; each is tried
//! when it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::ports::{self, Ports};
use super::{Fault, OwnLimits, Taken, unreadable};
use crate::compile::named;
use crate::push::config;
use crate::{CompiledPolicy, Diagnostic, Documents, Placement, Traffic, compile_for_upstream};

/// The policies that a sidecar holds, each in its last good version.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    limits: OwnLimits,
    policies: BTreeMap<String, Policy>,
    routes: BTreeMap<String, Value>,
    /// Routes that have no good version, and what is wrong with the last: where and why.
    rejected: BTreeMap<String, (String, String)>,
    /// Policies that were rejected for want of these routes.
    waiting: BTreeMap<String, BTreeSet<String>>,
    /// Where this sidecar is told what it is beside, by the resource that says so.
    beside: BTreeMap<String, Ports>,
    /// What [`Policies::inbound`] gave last: most of what is pushed changes no policy.
    inbound: OnceLock<Inbound>,
}

/// What a callee's sidecar runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    /// For whatever comes in.
    pub(super) policy: CompiledPolicy,
    /// For what comes in on these ports, in the place of that.
    pub(super) by_port: Vec<InboundPort>,
}

/// What is run for what comes in on one port.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// The port.
    pub number: u16,
    /// Nobody looks at what is spoken there.
    pub is_opaque: bool,
    /// The policy.
    pub compiled: CompiledPolicy,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    spec: Value,
    routes: Vec<String>,
}

impl Policies {
    pub(super) fn new(limits: OwnLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(super) fn set(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        self.forget();
        self.set_policy(name, content).map(Taken::of)
    }

    pub(super) fn remove(&mut self, name: &str) -> Taken {
        self.forget();
        self.waiting.remove(name);
        Taken::of(self.policies.remove(name).is_some())
    }

    pub(super) fn set_route(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        self.forget();
        let changed = self.try_route(name, content);
        let fault = changed.as_ref().err().filter(|_| !self.routes.contains_key(name));
        match fault.map(|fault| (fault.field.clone(), fault.reason.clone())) {
            Some(fault) => self.rejected.insert(name.to_owned(), fault),
            None => self.rejected.remove(name),
        };
        let changed = changed?;
        let again = self.no_longer_missing(name);
        Ok(Taken { changed, again })
    }

    /// The policies that named it are gone, or came in a version that does not, before.
    pub(super) fn remove_route(&mut self, name: &str) -> Taken {
        self.forget();
        self.routes.remove(name);
        self.rejected.remove(name);
        Taken::default()
    }

    /// This sidecar is told what it is beside.
    pub(super) fn set_beside(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        let ports = ports::read(content)?;
        let is_known = self.beside.get(name) == Some(&ports);
        if !is_known {
            self.forget();
            self.beside.insert(name.to_owned(), ports);
        }
        Ok(Taken::of(!is_known))
    }

    pub(super) fn remove_beside(&mut self, name: &str) -> Taken {
        self.forget();
        Taken::of(self.beside.remove(name).is_some())
    }

    /// What a callee's sidecar runs: every policy that it was sent unasked; where it is told what it is
    /// beside, each for those ports only.
    pub(super) fn inbound(&self) -> &Inbound {
        self.inbound.get_or_init(|| self.compile_inbound())
    }

    fn compile_inbound(&self) -> Inbound {
        let inbound: Vec<&str> = self.inbound_names().collect();
        if self.beside.is_empty() {
            return Inbound {
                policy: self.of(inbound),
                by_port: Vec::new(),
            };
        }
        let ports = self.beside.values().flatten();
        let by_port = ports.map(|(number, port)| {
            let names = port.policies.iter().map(String::as_str);
            InboundPort {
                number: *number,
                is_opaque: port.is_opaque,
                // Others are not known yet, or not for callees.
                compiled: self.of(names.filter(|name| inbound.contains(name))),
            }
        });
        Inbound {
            policy: CompiledPolicy::default(),
            by_port: by_port.collect(),
        }
    }

    fn forget(&mut self) {
        self.inbound.take();
    }

    /// The names of those policies.
    pub(super) fn inbound_names(&self) -> impl Iterator<Item = &str> {
        let mut inbound = self.policies.iter();
        let next = move || inbound.find(|(_, policy)| policy.placement() == Placement::Inbound);
        std::iter::from_fn(next).map(|(name, _)| name.as_str())
    }

    /// Full names of the backends that a policy has calls be sent to besides its targets.
    pub(super) fn named(&self, policy: &str) -> Vec<String> {
        let traffic = self
            .policies
            .get(policy)
            .and_then(|found| found.spec.get("traffic"));
        let traffic = traffic.and_then(|traffic| serde_json::from_value::<Traffic>(traffic.clone()).ok());
        let namespace = policy.split_once('/').map_or("", |(namespace, _)| namespace);
        let named = traffic.iter().flat_map(named);
        named.map(|(_, name)| format!("{namespace}/{name}")).collect()
    }

    /// What a caller's sidecar runs towards one backend: the policies of these names.
    pub(super) fn outbound(&self, names: &[String]) -> CompiledPolicy {
        self.of(names.iter().map(String::as_str))
    }

    fn of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> CompiledPolicy {
        let named = names.into_iter();
        self.compile(named.filter_map(|name| self.policies.get_key_value(name)))
    }

    /// A document for each policy, in the order of their names.
    pub(super) fn documents(&self) -> Documents {
        self.documents_of(self.policies.iter())
    }

    fn documents_of<'a>(&'a self, policies: impl Iterator<Item = (&'a String, &'a Policy)>) -> Documents {
        let documents = policies.filter_map(|(name, policy)| {
            let document = self.document(name, policy).ok()?;
            Some((file(name), document))
        });
        Documents::of_json(documents)
    }

    /// Each was tried alone, and two that were tried stay good together.
    fn compile<'a>(&'a self, policies: impl Iterator<Item = (&'a String, &'a Policy)>) -> CompiledPolicy {
        compile_for_upstream(&self.documents_of(policies)).unwrap_or_else(|faults| {
            tracing::error!(
                ?faults,
                "policies that are good alone are not together: none is in force"
            );
            CompiledPolicy::default()
        })
    }

    fn set_policy(&mut self, name: &str, content: Bytes) -> Result<bool, Fault> {
        self.waiting.remove(name);
        let message = config::Policy::decode(content).map_err(|error| unreadable(&error))?;
        let policy = Policy {
            spec: serde_json::from_slice(&message.spec).map_err(|error| unreadable(&error))?,
            routes: message.routes,
        };
        if self.policies.get(name) == Some(&policy) {
            return Ok(false);
        }
        if let Err(fault) = self.check(name, &policy) {
            if let Some(route) = &fault.missing {
                let waits = self.waiting.entry(name.to_owned()).or_default();
                waits.insert(route.clone());
            }
            return Err(fault);
        }
        self.policies.insert(name.to_owned(), policy);
        Ok(true)
    }

    fn try_route(&mut self, name: &str, content: Bytes) -> Result<bool, Fault> {
        let message = config::Route::decode(content).map_err(|error| unreadable(&error))?;
        let route: Value = serde_json::from_slice(&message.spec).map_err(|error| unreadable(&error))?;
        if self.routes.get(name) == Some(&route) {
            return Ok(false);
        }
        let last_good = self.routes.insert(name.to_owned(), route);
        let checked = self.check_route(name);
        if checked.is_err() {
            match last_good {
                Some(route) => self.routes.insert(name.to_owned(), route),
                None => self.routes.remove(name),
            };
        }
        checked
    }

    /// A route is tried alone, for it may have come before its policy, and in each policy that has
    /// it. True when there is one.
    fn check_route(&self, name: &str) -> Result<bool, Fault> {
        let alone = Policy {
            spec: json!({}),
            routes: vec![name.to_owned()],
        };
        self.check("default/route", &alone).map_err(|fault| Fault {
            field: fault
                .field
                .trim_start_matches("spec.routes[0]")
                .trim_start_matches('.')
                .into(),
            ..fault
        })?;
        let mut used = false;
        for (policy, with) in &self.policies {
            if with.routes.iter().any(|route| route == name) {
                used = true;
                self.check(policy, with).map_err(|fault| Fault {
                    reason: format!("in {policy}, {}: {}", fault.field, fault.reason),
                    field: String::new(),
                    ..fault
                })?;
            }
        }
        Ok(used)
    }

    fn no_longer_missing(&mut self, route: &str) -> Vec<String> {
        let waiting = self.waiting.extract_if(.., |_, routes| routes.contains(route));
        waiting.map(|(policy, _)| policy).collect()
    }

    /// Whether a policy can run here.
    fn check(&self, name: &str, policy: &Policy) -> Result<(), Fault> {
        let document = self.document(name, policy)?;
        match compile_for_upstream(&Documents::of_json([(file(name), document)])) {
            Ok(compiled) => self.limits.check(&compiled.policy),
            Err(found) => {
                let first = found.into_iter().find(Diagnostic::is_error);
                first.map_or(Ok(()), |fault| Err(fault.into()))
            }
        }
    }
}

impl Policies {
    /// A policy's document as somebody would have written it; or what it lacks.
    fn document(&self, name: &str, policy: &Policy) -> Result<Value, Fault> {
        let rules = policy.routes.iter().enumerate();
        let rules = rules.map(|(index, route)| {
            let found = self.routes.get(route).cloned();
            found.ok_or_else(|| self.missing(index, route))
        });
        let rules = rules.collect::<Result<Vec<Value>, Fault>>()?;
        let mut spec = policy.spec.clone();
        let fields = spec.as_object_mut();
        let fields = fields.ok_or_else(|| unreadable(&"spec: found no map of fields"))?;
        fields.insert("routes".into(), Value::Array(rules));
        let (namespace, short) = name.split_once('/').unwrap_or(("", name));
        let metadata = json!({"name": short, "namespace": namespace});
        Ok(json!({"kind": "BatchPolicy", "metadata": metadata, "spec": spec}))
    }

    /// Why there is no such route: told of the policy, too, for that is where people look.
    fn missing(&self, index: usize, route: &str) -> Fault {
        let place = format!("spec.routes[{index}]");
        let (field, reason) = match self.rejected.get(route) {
            None => (place, format!("route {route:?} did not come")),
            Some((field, reason)) => {
                let dot = if field.is_empty() { "" } else { "." };
                let reason = format!("route {route:?} was rejected: {reason}");
                (format!("{place}{dot}{field}"), reason)
            }
        };
        Fault {
            field,
            reason,
            missing: Some(route.to_owned()),
            is_beyond: false,
        }
    }
}

impl Policy {
    fn placement(&self) -> Placement {
        let placement = self.spec.get("placement").cloned().unwrap_or_default();
        serde_json::from_value(placement).unwrap_or_default()
    }
}

/// What its faults are told by.
fn file(name: &str) -> Arc<str> {
    format!("Policy {name}").into()
}
