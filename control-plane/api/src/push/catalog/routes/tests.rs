//! Whose a call is, by the routes and policies that there are: told by a sidecar that was pushed them.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use jitney_core::policy::Policy;
use jitney_core::route::Head;
use serde_json::{Value, json};

use super::*;
use crate::push::catalog::ServiceEndpoint;
use crate::push::{Assembly, Change, Delta, Kind, OwnLimits, Resources, resources_of};
use crate::{Documents, Protocol, TargetKind, Workload};

mod properties;

/// A namespace with these services, given as name and ports, behind each port of which is one sidecar.
fn catalog(services: &[(&str, &[(&str, u16)])], routes: &[(RouteKind, Value)]) -> Catalog {
    let endpoint = ServiceEndpoint {
        address: "10.0.0.1:8080".parse().unwrap(),
        zone: None,
        sidecar: Some("users-1".into()),
        is_serving: true,
    };
    let port = |(name, number): &(&str, u16)| ServicePort {
        name: (*name).to_owned(),
        number: *number,
        addresses: vec![],
        protocol: Protocol::Auto,
        endpoints: vec![endpoint.clone()],
    };
    let services = services.iter().map(|(name, ports)| {
        let ports = ports.iter().map(port);
        ((*name).to_owned(), ports.collect())
    });
    let mut catalog = Catalog {
        namespace: "shop".to_owned(),
        services: services.collect(),
        unserved: BTreeMap::new(),
        sidecars: BTreeMap::from([("users-1".into(), account())]),
        routes: RouteKind::ALL.map(|kind| (kind, BTreeMap::new())).into(),
    };
    for (kind, object) in routes {
        let route = MeshRoute::read(*kind, object);
        let known = catalog.routes.get_mut(kind).unwrap();
        known.insert(route.name.clone(), route);
    }
    catalog
}

fn account() -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        account: "users".to_owned(),
    }
}

/// A route of the Service users, with these rules.
fn route(name: &str, rules: &Value) -> (RouteKind, Value) {
    attached(
        name,
        &json!([{"group": "", "kind": "Service", "name": "users"}]),
        rules,
    )
}

fn attached(name: &str, parents: &Value, rules: &Value) -> (RouteKind, Value) {
    let object = json!({"metadata": {"name": name}, "spec": {"parentRefs": parents, "rules": rules}});
    (RouteKind::HTTPRoute, object)
}

/// A rule for what is below a path.
fn below(name: &str, prefix: &str) -> Value {
    json!({"name": name, "matches": [{"path": {"value": prefix}}]})
}

/// Policies of one route each that is for any call, by name and targets.
fn documents(policies: &[(&str, Value)], placement: &str) -> Documents {
    let policies = policies.iter().map(|(name, targets)| {
        let document = json!({
            "kind": "BatchPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"placement": placement, "targetRefs": targets, "routes": [{"name": "any", "codec": {"jsonRpc": {}}}]},
        });
        (Arc::from(*name), document)
    });
    let documents = Documents::of_json(policies);
    assert!(documents.faults.is_empty(), "{:?}", documents.faults);
    documents
}

fn service() -> Value {
    json!([{"name": "users"}])
}

fn rule(route: &str, section: Option<&str>) -> Value {
    json!([{"kind": "HTTPRoute", "name": route, "sectionName": section}])
}

/// What a sidecar has that gets everything.
fn assembled(resources: &Resources) -> Assembly {
    let mut assembly = Assembly::new(OwnLimits::default());
    for kind in Kind::ALL {
        let own = resources.pushed.iter().filter(|one| one.kind == kind);
        let changes = own.map(|one| Change::Set {
            name: one.name.to_string(),
            version: one.held.version.to_string(),
            content: one.held.content.clone(),
        });
        let mut delta = Delta::remembered(kind, changes.collect());
        assembly.take(&mut delta);
        assert_eq!(delta.rejected, []);
    }
    assembly
}

/// What is run for calls that come in.
fn inbound(resources: &Resources) -> Arc<Policy> {
    let (assembly, account) = (assembled(resources), account());
    let mut ports = assembly.inbound_by_port(&account);
    ports.find(|port| port.number == 8080).unwrap().compiled.policy
}

/// The name of the policy that has a call; `-`: none.
fn whose(policy: &Policy, method: &Method, uri: &str, headers: &HeaderMap) -> String {
    let uri: Uri = uri.parse().unwrap();
    let head = Head {
        method,
        uri: &uri,
        headers,
    };
    let found = policy.route(&head);
    found.map_or_else(|| "-".to_owned(), |found| found.route.policy.to_string())
}

#[track_caller]
fn check(policy: &Policy, expected: &[(&str, &str)]) {
    for (path, name) in expected {
        let found = whose(policy, &Method::GET, path, &HeaderMap::new());
        assert_eq!(found, *name, "{path}");
    }
}

#[test]
fn a_rule_has_its_own_calls_and_the_service_has_the_others() {
    let rules = json!([
        below("orders", "/orders"),
        below("lines", "/orders/lines"),
        below("users", "/users")
    ]);
    let catalog = catalog(&[("users", &[("http", 80)])], &[route("shop", &rules)]);
    let policies = [
        ("service", service()),
        ("route", rule("shop", None)),
        ("lines", rule("shop", Some("lines"))),
    ];
    let all = resources_of(&documents(&policies, "Inbound"), &catalog);
    let lost = all
        .conflicts
        .iter()
        .map(|one| (one.policy.as_str(), one.target.as_str()));
    assert_eq!(
        lost.collect::<Vec<_>>(),
        [("shop/route", "users (HTTPRoute shop, rule lines)")]
    );
    assert_eq!(
        all.conflicts[0].reason,
        "shop/lines is for a rule of a route, this one for a route"
    );
    let calls = [
        ("/orders/7", "route"),
        ("/orders/lines/7", "lines"),
        ("/users/7", "route"),
        ("/else", "service"),
    ];
    check(&inbound(&all), &calls);
    // What belongs to a rule that nobody has is the Service's, also where a wider rule is somebody's.
    let policies = [("service", service()), ("orders", rule("shop", Some("orders")))];
    let some = resources_of(&documents(&policies, "Inbound"), &catalog);
    let calls = [
        ("/orders/7", "orders"),
        ("/orders/lines/7", "service"),
        ("/users/7", "service"),
    ];
    check(&inbound(&some), &calls);
    let alone = resources_of(&documents(&policies[1..], "Inbound"), &catalog);
    let calls = [
        ("/orders/7", "orders"),
        ("/orders/lines/7", "-"),
        ("/users/7", "-"),
    ];
    check(&inbound(&alone), &calls);
    assert_ne!(inbound(&alone).generation, inbound(&some).generation);
}

#[test]
fn a_sidecar_of_a_caller_looks_at_the_same_rules() {
    let rules = json!([below("orders", "/orders"), below("lines", "/orders/lines")]);
    let catalog = catalog(&[("users", &[("http", 80)])], &[route("shop", &rules)]);
    let policies = [("orders", rule("shop", Some("orders")))];
    let all = resources_of(&documents(&policies, "Outbound"), &catalog);
    let assembly = assembled(&all);
    let wanted = assembly.wanted("shop/users");
    assert!(
        wanted.contains(&(Kind::Policy, "shop/orders".to_owned())),
        "{wanted:?}"
    );
    let (_, compiled) = assembly.outbound("shop/users").unwrap();
    check(
        &compiled.policy,
        &[("/orders/7", "orders"), ("/orders/lines/7", "-"), ("/else", "-")],
    );
}

#[test]
fn what_belongs_to_a_policy_that_did_not_come_passes_through() {
    let rules = json!([below("orders", "/orders")]);
    let catalog = catalog(&[("users", &[("http", 80)])], &[route("shop", &rules)]);
    let policies = [("service", service()), ("orders", rule("shop", Some("orders")))];
    let mut all = resources_of(&documents(&policies, "Inbound"), &catalog);
    all.pushed.retain(|one| &*one.name != "shop/orders");
    check(&inbound(&all), &[("/orders/7", "-"), ("/else", "service")]);
}

#[test]
fn an_edited_rule_is_sent_to_whom_it_concerns_and_no_policy_changes() {
    let services: &[(&str, &[(&str, u16)])] = &[("users", &[("http", 80)])];
    let policies = [("service", service()), ("orders", rule("shop", Some("orders")))];
    let documents = documents(&policies, "Inbound");
    let with = |prefix: &str| {
        let catalog = catalog(services, &[route("shop", &json!([below("orders", prefix)]))]);
        resources_of(&documents, &catalog)
    };
    let (before, after) = (with("/orders"), with("/baskets"));
    let changed = after.pushed.iter().filter(|one| !before.pushed.contains(one));
    let changed: Vec<(Kind, &str)> = changed.map(|one| (one.kind, &*one.name)).collect();
    assert_eq!(changed, [(Kind::Sidecar, "shop/users-1")]);
    check(
        &inbound(&after),
        &[("/orders/7", "service"), ("/baskets/7", "orders")],
    );
    assert_ne!(inbound(&before).generation, inbound(&after).generation);
}

/// Nobody can tell by which of them a call came.
#[test]
fn rules_of_services_that_stand_for_one_port_are_looked_at_together() {
    let parents = |name: &str| json!([{"group": "", "kind": "Service", "name": name}]);
    let routes = [
        attached("a", &parents("users"), &json!([below("all", "/")])),
        attached("b", &parents("canary"), &json!([below("orders", "/orders")])),
    ];
    let catalog = catalog(&[("users", &[("", 80)]), ("canary", &[("", 80)])], &routes);
    let policies = [("all", rule("a", None)), ("orders", rule("b", None))];
    let all = resources_of(&documents(&policies, "Inbound"), &catalog);
    check(&inbound(&all), &[("/orders/7", "orders"), ("/else", "all")]);
}

/// A route of three rules, of which the second has no name.
fn of_three(parents: &Value) -> (RouteKind, Value) {
    attached("it", parents, &json!([below("a", "/a"), {}, below("b", "/b")]))
}

fn parent(name: &str, port: Option<u16>) -> Value {
    json!([{"group": "", "kind": "Service", "name": name, "port": port}])
}

/// What a target stands for, or why for nothing, where there is one route.
fn resolve(route: (RouteKind, Value), name: &str, section: Option<&str>) -> String {
    let catalog = catalog(&[("users", &[("http", 80), ("admin", 81)])], &[route]);
    let target = TargetRef {
        group: None,
        kind: TargetKind::HTTPRoute,
        name: name.to_owned(),
        section_name: section.map(str::to_owned),
    };
    match catalog.resolve(&target, &BTreeSet::new()) {
        Ok(places) => places.iter().map(Place::to_string).collect::<Vec<_>>().join(", "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_route_stands_for_its_rules_at_the_ports_of_its_parents() {
    let http = |section| resolve(of_three(&parent("users", Some(80))), "it", section);
    assert_eq!(
        http(None),
        "users:http (HTTPRoute it, rule a), users:http (HTTPRoute it, rule 1), users:http (HTTPRoute it, rule b)"
    );
    assert_eq!(http(Some("b")), "users:http (HTTPRoute it, rule b)");
    assert_eq!(
        resolve(of_three(&parent("users", None)), "it", Some("a")),
        "users:admin (HTTPRoute it, rule a), users:http (HTTPRoute it, rule a)"
    );
}

#[test]
fn routes_that_lead_nowhere_say_so() {
    let users = parent("users", Some(80));
    let good = || of_three(&users);
    let bad = json!([{"name": "a", "matches": [{"cookies": []}]}]);
    for (route, name, section, expected) in [
        (
            good(),
            "that",
            None,
            "there is no HTTPRoute \"that\" in namespace shop",
        ),
        (
            good(),
            "it",
            Some("c"),
            "HTTPRoute \"it\" has no rule \"c\", only \"a\", \"b\"",
        ),
        (
            attached("it", &users, &json!([{}])),
            "it",
            Some("c"),
            "HTTPRoute \"it\" has no rule \"c\": none of its rules has a name",
        ),
        (
            attached("it", &users, &json!([])),
            "it",
            None,
            "HTTPRoute \"it\" has no rules",
        ),
        (
            attached("it", &users, &bad),
            "it",
            None,
            "HTTPRoute \"it\" has a rule a that cannot be read: matches[0]: unknown field",
        ),
        (
            of_three(&json!([{"name": "web"}])),
            "it",
            None,
            "HTTPRoute \"it\" has no Service of namespace shop among its parentRefs, only Gateway web",
        ),
        (
            of_three(&parent("user", None)),
            "it",
            None,
            "HTTPRoute \"it\" is attached to nothing: there is no Service \"user\" in namespace shop",
        ),
        (
            of_three(&parent("users", Some(8080))),
            "it",
            None,
            "HTTPRoute \"it\" is attached to nothing: Service \"users\" has no such port",
        ),
    ] {
        let told = resolve(route, name, section);
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn routes_beyond_the_bound_are_told_and_take_no_calls() {
    let many = (0..=MOST_ROUTES).map(|number| {
        let (kind, mut object) = route(
            &format!("r-{number:02}"),
            &json!([below("a", &format!("/{number}"))]),
        );
        object["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{number:02}Z").into();
        (kind, object)
    });
    let catalog = catalog(&[("users", &[("http", 80)])], &many.collect::<Vec<_>>());
    let policies = [
        ("service", service()),
        ("last", rule("r-32", None)),
        ("first", rule("r-00", None)),
    ];
    let all = resources_of(&documents(&policies, "Inbound"), &catalog);
    check(&inbound(&all), &[("/32", "service"), ("/0", "first")]);
    let target = serde_json::from_value(rule("r-32", None)[0].clone()).unwrap();
    assert_eq!(
        catalog
            .resolve(&target, &BTreeSet::new())
            .unwrap_err()
            .to_string(),
        "HTTPRoute \"r-32\" is attached to nothing: Service \"users\" has 32 older ones"
    );
}
