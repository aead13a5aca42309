//! Routes of the Gateway API as targets of policies, and whose the calls are that belong to their rules.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Catalog, ServicePort, Unresolved, backend_name};
use crate::TargetRef;
use crate::gateway::{MeshRoute, MeshRule, Parent, Rank, RouteKind};
use crate::push::config;
use crate::push::place::{Place, RuleRef};
use crate::push::resources::json;

/// Alternatives of all rules at a backend, by its short name.
pub(in crate::push) type Claims<'a> = BTreeMap<String, Vec<Claim<'a>>>;

/// Calls that belong to a rule of a route.
#[derive(Clone, Debug)]
pub(in crate::push) struct Claim<'a> {
    rank: Rank<'a>,
    /// Which calls: a match as JSON.
    calls: Bytes,
    /// The policy that has the rule; `None`: those that have the backend.
    policy: Option<&'a str>,
}

impl Catalog {
    /// What a target that is a route stands for.
    pub(super) fn rules(&self, kind: RouteKind, target: &TargetRef) -> Result<Vec<Place>, Unresolved> {
        let routes = self.routes.get(&kind).ok_or(Unresolved::NotServed(kind))?;
        let route = routes
            .get(&target.name)
            .ok_or_else(|| Unresolved::NoRoute(kind, target.name.clone(), self.namespace.clone()))?;
        let fault = |why: String| Unresolved::Route(kind, target.name.clone(), why);
        if let Some(found) = &route.fault {
            return Err(fault(format!("cannot be read: {found}")));
        }
        let rules = meant(route, target.section_name.as_deref()).map_err(fault)?;
        let backends = self.parents(route).map_err(fault)?;
        let place = |backend: &String, (index, rule): &(usize, &MeshRule)| Place {
            backend: backend.clone(),
            rule: Some(RuleRef {
                kind,
                route: route.name.clone(),
                index: *index,
                called: rule.called(*index),
            }),
        };
        let places = backends.iter();
        let places = places.flat_map(|backend| rules.iter().map(move |rule| place(backend, rule)));
        Ok(places.collect())
    }

    /// The short names of the backends that a route is attached to; or why it is to none.
    fn parents(&self, route: &MeshRoute) -> Result<Vec<String>, String> {
        let namespace = &self.namespace;
        let own = route.parents.iter().filter(|parent| parent.is_service(namespace));
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for parent in own {
            let Some(ports) = self.services.get(&parent.name) else {
                missing.push(format!(
                    "there is no Service {:?} in namespace {namespace}",
                    parent.name
                ));
                continue;
            };
            let before = found.len();
            for port in ports.iter().filter(|port| is_for(parent, port)) {
                if self.attached(&parent.name, port).any(|one| one == route) {
                    found.push(backend_name(&parent.name, ports, port));
                } else {
                    missing.push(format!("Service {:?} has {MOST_ROUTES} older ones", parent.name));
                }
            }
            if found.len() == before && missing.is_empty() {
                missing.push(format!("Service {:?} has no such port", parent.name));
            }
        }
        if !found.is_empty() {
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
        if !missing.is_empty() {
            return Err(format!("is attached to nothing: {}", missing.join("; ")));
        }
        let others: Vec<String> = route.parents.iter().map(Parent::to_string).collect();
        let others = match &others[..] {
            [] => "none at all".to_owned(),
            some => format!("only {}", some.join(", ")),
        };
        Err(format!(
            "has no Service of namespace {namespace} among its parentRefs, {others}"
        ))
    }

    /// The routes that are attached to a port of a service, the oldest first.
    fn attached<'a>(&'a self, service: &str, port: &ServicePort) -> impl Iterator<Item = &'a MeshRoute> {
        let is_attached = |route: &&MeshRoute| {
            let mut parents = route.parents.iter();
            parents.any(|parent| {
                parent.is_service(&self.namespace) && parent.name == service && is_for(parent, port)
            })
        };
        let routes = self.routes.values().flat_map(BTreeMap::values);
        let mut attached: Vec<&MeshRoute> = routes.filter(is_attached).collect();
        attached.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
        attached.into_iter().take(MOST_ROUTES)
    }

    /// Whose the calls to each backend are that belong to rules, as `holder` says who has which.
    pub(in crate::push) fn claims<'a>(&'a self, holder: impl Fn(&Place) -> Option<&'a str>) -> Claims<'a> {
        let mut claims = Claims::new();
        for (service, ports) in &self.services {
            for port in ports {
                let backend = backend_name(service, ports, port);
                for route in self.attached(service, port) {
                    let known = claims.entry(backend.clone()).or_default();
                    known.extend(claims_of(route, &backend, &holder));
                }
            }
        }
        claims
    }
}

/// The alternatives of all rules of a route that can be read.
fn claims_of<'a>(
    route: &'a MeshRoute,
    backend: &str,
    holder: impl Fn(&Place) -> Option<&'a str>,
) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let policy = holder(&Place {
            backend: backend.to_owned(),
            rule: Some(RuleRef {
                kind: route.kind,
                route: route.name.clone(),
                index,
                called: rule.called(index),
            }),
        });
        let matches = rule.matches.iter().flatten().enumerate();
        claims.extend(matches.map(|(place, one)| Claim {
            rank: route.rank([index, place], one),
            calls: json(&one.calls),
            policy,
        }));
    }
    claims
}

/// The rules of a route that a target means, each with its place.
fn meant<'a>(route: &'a MeshRoute, section: Option<&str>) -> Result<Vec<(usize, &'a MeshRule)>, String> {
    let is_meant = |rule: &MeshRule| section.is_none_or(|section| rule.name.as_deref() == Some(section));
    let rules = route.rules.iter().enumerate();
    let rules: Vec<_> = rules.filter(|(_, rule)| is_meant(rule)).collect();
    if rules.is_empty() {
        let names = route.rules.iter().filter_map(|rule| rule.name.as_ref());
        let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
        return Err(match (section, &names[..]) {
            (None, _) => "has no rules".to_owned(),
            (Some(section), []) => format!("has no rule {section:?}: none of its rules has a name"),
            (Some(section), known) => format!("has no rule {section:?}, only {}", known.join(", ")),
        });
    }
    for (index, rule) in &rules {
        if let Err(fault) = &rule.matches {
            let rule = rule.called(*index);
            return Err(format!("has a rule {rule} that cannot be read: {fault}"));
        }
    }
    Ok(rules)
}

fn is_for(parent: &Parent, port: &ServicePort) -> bool {
    let section = parent.section_name.as_ref();
    parent.port.is_none_or(|number| number == port.number) && section.is_none_or(|name| *name == port.name)
}

/// In the order in which they are to be looked at. What comes after the last one of a policy says nothing.
pub(super) fn in_order(mut claims: Vec<Claim<'_>>) -> Vec<config::Claim> {
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    // A route may be attached to several services that stand for one port.
    claims.dedup_by(|later, earlier| later.rank == earlier.rank);
    let end = claims.iter().rposition(|claim| claim.policy.is_some());
    let claims = claims.into_iter().take(end.map_or(0, |last| last + 1));
    let message = |claim: Claim<'_>| config::Claim {
        calls: claim.calls,
        policy: claim.policy.unwrap_or_default().to_owned(),
    };
    claims.map(message).collect()
}

/// Routes of one backend that are looked at: each of their alternatives is tried in turn on every call.
const MOST_ROUTES: usize = 32;

#[cfg(test)]
mod tests;
