//! The policies of a sidecar, put together again from what was pushed.
//!
//! A policy comes as one resource and its routes as others. Each is tried when it comes: what cannot
//! run is rejected by its own name and field, and the last good version stays in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::config;
use super::kind::Kind;
use super::subscriber::{Change, Delta};
use crate::{Diagnostic, Documents, Source, Sources, compile_for_upstream};

/// The policies that a sidecar holds, each in its last good version.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    policies: BTreeMap<String, Policy>,
    routes: BTreeMap<String, Value>,
    /// Policies that were rejected for want of these routes.
    waiting: BTreeMap<String, BTreeSet<String>>,
}

/// What a response leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// There is something new to run.
    pub changed: bool,
    /// Policies that were rejected and may be good now: they are to be subscribed to again, so that
    /// they are sent, and what they are becomes known, again.
    pub again: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    spec: Value,
    routes: Vec<String>,
}

/// Why a policy cannot run.
struct Fault {
    field: String,
    reason: String,
    /// It would, if this route had come.
    missing: Option<String>,
}

impl Assembly {
    /// Takes in a response of policies or routes; what cannot run is rejected in it. Other types
    /// change nothing here.
    pub fn take(&mut self, delta: &mut Delta) -> Taken {
        let mut taken = Taken::default();
        for change in delta.changes.clone() {
            match (delta.kind, change) {
                (
                    Kind::Policy,
                    Change::Set {
                        name,
                        version,
                        content,
                    },
                ) => match self.set_policy(&name, content) {
                    Ok(changed) => taken.changed |= changed,
                    Err(fault) => delta.reject(&name, &version, &fault.field, &fault.reason),
                },
                (
                    Kind::Route,
                    Change::Set {
                        name,
                        version,
                        content,
                    },
                ) => match self.set_route(&name, content) {
                    Ok(changed) => {
                        taken.changed |= changed;
                        taken.again.extend(self.no_longer_missing(&name));
                    }
                    Err(fault) => delta.reject(&name, &version, &fault.field, &fault.reason),
                },
                (Kind::Policy, Change::Gone { name }) => {
                    self.waiting.remove(&name);
                    taken.changed |= self.policies.remove(&name).is_some();
                }
                // The policies that named it are gone, or came in a version that does not, before.
                (Kind::Route, Change::Gone { name }) => {
                    self.routes.remove(&name);
                }
                (Kind::TrustBundle | Kind::Runtime | Kind::Backend | Kind::Endpoint, _) => {}
            }
        }
        taken
    }

    /// What is to be run: a document for each policy, in the order of their names.
    pub fn sources(&self) -> Sources {
        let documents = self.policies.iter().filter_map(|(name, policy)| {
            let text = document(name, policy, &self.routes).ok()?;
            Some(source(name, text))
        });
        Sources {
            files: documents.collect(),
        }
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
        if let Err(fault) = check(name, &policy, &self.routes) {
            if let Some(route) = &fault.missing {
                let waits = self.waiting.entry(name.to_owned()).or_default();
                waits.insert(route.clone());
            }
            return Err(fault);
        }
        self.policies.insert(name.to_owned(), policy);
        Ok(true)
    }

    fn set_route(&mut self, name: &str, content: Bytes) -> Result<bool, Fault> {
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
        check("default/route", &alone, &self.routes).map_err(|fault| Fault {
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
                check(policy, with, &self.routes).map_err(|fault| Fault {
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
}

fn unreadable(error: &impl ToString) -> Fault {
    Fault {
        field: String::new(),
        reason: error.to_string(),
        missing: None,
    }
}

/// Whether a policy can run.
fn check(name: &str, policy: &Policy, routes: &BTreeMap<String, Value>) -> Result<(), Fault> {
    let text = document(name, policy, routes)?;
    let sources = Sources {
        files: vec![source(name, text)],
    };
    let found = compile_for_upstream(&Documents::read(&sources)).err();
    let first = found.into_iter().flatten().find(Diagnostic::is_error);
    first.map_or(Ok(()), |fault| {
        Err(Fault {
            field: fault.field,
            reason: fault.message,
            missing: None,
        })
    })
}

/// A policy's document as somebody would have written it; or what it lacks.
fn document(name: &str, policy: &Policy, routes: &BTreeMap<String, Value>) -> Result<String, Fault> {
    let rules = policy.routes.iter().enumerate().map(|(index, route)| {
        routes.get(route).cloned().ok_or_else(|| Fault {
            field: format!("spec.routes[{index}]"),
            reason: format!("route {route:?} did not come, or was rejected"),
            missing: Some(route.clone()),
        })
    });
    let rules = rules.collect::<Result<Vec<Value>, Fault>>()?;
    let mut spec = policy.spec.clone();
    let fields = spec.as_object_mut();
    let fields = fields.ok_or_else(|| unreadable(&"spec: found no map of fields"))?;
    fields.insert("routes".into(), Value::Array(rules));
    let (namespace, short) = name.split_once('/').unwrap_or(("", name));
    let metadata = json!({"name": short, "namespace": namespace});
    Ok(json!({"kind": "BatchPolicy", "metadata": metadata, "spec": spec}).to_string())
}

fn source(name: &str, text: String) -> Source {
    Source {
        file: Arc::from(format!("Policy {name}")),
        text,
    }
}

#[cfg(test)]
mod tests;
