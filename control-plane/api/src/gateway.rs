//! HTTPRoutes and GRPCRoutes of the Gateway API whose parent is a Service, as far as policies can be for them:
//! which calls belong to which of their rules. Where a rule sends its calls, and what it changes in them, is
//! for others to do; names of hosts say nothing about calls to a Service.

use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};

use serde::Deserialize;
use serde_json::Value;

use crate::document::Created;
use crate::{RouteMatch, TargetKind};

mod grpc;
mod http;
mod precision;

pub use precision::{PathPrecision, Precision};

/// A kind of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `HTTPRoute`.
    HTTPRoute,
    /// `GRPCRoute`.
    GRPCRoute,
}

/// A route, as its object says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRoute {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name.
    pub name: String,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// Its rules, in their order.
    pub rules: Vec<MeshRule>,
    /// Why it cannot be read at all; then it has neither parents nor rules.
    pub fault: Option<String>,
    created: Created,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    #[serde(default = "group")]
    group: String,
    #[serde(default = "gateway")]
    kind: String,
    namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The number of the port of a Service; `None`: all that are meant otherwise.
    pub port: Option<u16>,
    /// The name of the port of a Service; `None`: all that are meant otherwise.
    pub section_name: Option<String>,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRule {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Which calls it is for: one of these has to fit. Or why that cannot be read, and no call belongs to it.
    pub matches: Result<Vec<MeshMatch>, String>,
}

/// One alternative of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshMatch {
    /// Which calls, in the words of a policy.
    pub calls: RouteMatch,
    /// How closely they are described.
    pub precision: Precision,
}

/// An object of either kind, as far as all of it is read at once.
#[derive(Deserialize)]
struct Object {
    metadata: ObjectMetadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetadata {
    name: String,
    #[serde(default)]
    creation_timestamp: Created,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<Parent>,
    rules: Option<Vec<Value>>,
}

impl RouteKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::HTTPRoute, Self::GRPCRoute];

    /// The group that both are of.
    pub const GROUP: &str = "gateway.networking.k8s.io";

    /// The version in which they are read.
    pub const VERSION: &str = "v1";

    /// As it stands in objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::HTTPRoute => "HTTPRoute",
            Self::GRPCRoute => "GRPCRoute",
        }
    }

    /// As it stands in paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::HTTPRoute => "httproutes",
            Self::GRPCRoute => "grpcroutes",
        }
    }

    /// The kind of routes that a target is; `None` where it is no route.
    pub const fn of(target: TargetKind) -> Option<Self> {
        match target {
            TargetKind::HTTPRoute => Some(Self::HTTPRoute),
            TargetKind::GRPCRoute => Some(Self::GRPCRoute),
            TargetKind::Service | TargetKind::Backend => None,
        }
    }
}

impl Display for RouteKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl MeshRoute {
    /// Reads an object. What of it cannot be read is told where it stands.
    pub fn read(kind: RouteKind, object: &Value) -> Self {
        let empty = |name: &str, fault: String| Self {
            kind,
            name: name.to_owned(),
            parents: Vec::new(),
            rules: Vec::new(),
            fault: Some(fault),
            created: Created::default(),
        };
        let object = match Object::deserialize(object) {
            Ok(object) => object,
            Err(error) => {
                let name = object.pointer("/metadata/name").and_then(Value::as_str);
                return empty(name.unwrap_or_default(), error.to_string());
            }
        };
        let rules = match (kind, &object.spec.rules) {
            // The schema's own default.
            (RouteKind::HTTPRoute, None) => vec![MeshRule::of(None, http::matches(Vec::new()))],
            (RouteKind::HTTPRoute, Some(rules)) => rules.iter().map(http::rule).collect(),
            (RouteKind::GRPCRoute, rules) => rules.iter().flatten().map(grpc::rule).collect(),
        };
        Self {
            kind,
            name: object.metadata.name,
            parents: object.spec.parent_refs,
            rules: bounded(rules),
            fault: None,
            created: object.metadata.creation_timestamp,
        }
    }

    /// Of two that say the same of a call the one that is less has it: the older one, or the first by name.
    pub fn seniority(&self) -> impl Ord + '_ {
        (&self.created, &self.name, self.kind)
    }

    /// Which of two alternatives, of this route or of another one, has a call that both fit: the one that
    /// is less. Each is named by the places of its rule and of itself in that.
    pub(crate) fn rank<'a>(&'a self, [rule, index]: [usize; 2], one: &MeshMatch) -> Rank<'a> {
        Rank {
            precision: Reverse(one.precision),
            created: &self.created,
            name: &self.name,
            kind: self.kind,
            place: [rule, index],
        }
    }
}

/// See [`MeshRoute::rank`]. Gateway API: the most precise, of the oldest route, of the first by name, the first in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank<'a> {
    precision: Reverse<Precision>,
    created: &'a Created,
    name: &'a str,
    kind: RouteKind,
    place: [usize; 2],
}

impl Parent {
    /// Whether it is a Service of the route's own namespace.
    pub fn is_service(&self, namespace: &str) -> bool {
        let is_here = self.namespace.as_deref().is_none_or(|other| other == namespace);
        self.group.is_empty() && self.kind == "Service" && is_here
    }
}

impl Display for Parent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl MeshRule {
    fn of(name: Option<String>, matches: Result<Vec<MeshMatch>, String>) -> Self {
        Self { name, matches }
    }

    /// Its name, or its place among the others.
    pub fn called(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }
}

/// A part of a rule. What is not known there could say that fewer calls are meant, so that it is a fault.
fn part<'de, T: Deserialize<'de>>(of: &'de Value) -> Result<T, String> {
    T::deserialize(of).map_err(|error| error.to_string())
}

/// The rules within the bound, and a fault in the place of each of the others.
fn bounded(mut rules: Vec<MeshRule>) -> Vec<MeshRule> {
    let mut count = 0;
    for rule in &mut rules {
        count += rule.matches.as_ref().map_or(0, Vec::len);
        if count > MOST_MATCHES {
            rule.matches = Err(format!("the route has more than {MOST_MATCHES} matches"));
        }
    }
    rules
}

fn group() -> String {
    RouteKind::GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

/// Alternatives in all rules of a route: as many as its own schema allows.
const MOST_MATCHES: usize = 128;

#[cfg(test)]
mod tests;
