//! What is said of a policy, by what is known of it.

use std::collections::BTreeMap;

use jitney_api::push::{ServicePort, resources_of};
use jitney_api::{MeshRoute, Protocol, RouteKind};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::*;

fn port(name: &str) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        number: 80,
        addresses: vec![],
        protocol: Protocol::Auto,
        endpoints: vec![],
    }
}

fn catalog() -> Catalog {
    let services = [
        ("users", vec![port("http"), port("admin")]),
        ("orders", vec![port("")]),
    ];
    Catalog {
        namespace: "shop".to_owned(),
        services: services.map(|(name, ports)| (name.to_owned(), ports)).into(),
        unserved: BTreeMap::new(),
        sidecars: BTreeMap::new(),
        routes: BTreeMap::from([(
            RouteKind::HTTPRoute,
            BTreeMap::from([("users".to_owned(), route())]),
        )]),
    }
}

/// A route of the Service orders.
fn route() -> MeshRoute {
    let parents = json!([{"group": "", "kind": "Service", "name": "orders"}]);
    let spec = json!({"parentRefs": parents, "rules": [{"name": "by-id"}, {"name": "others"}]});
    MeshRoute::read(
        RouteKind::HTTPRoute,
        &json!({"metadata": {"name": "users"}, "spec": spec}),
    )
}

fn policy(name: &str, spec: &Value) -> Custom {
    let object = json!({
        "apiVersion": "jitney.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {"name": name, "namespace": "shop", "generation": 3},
        "spec": spec,
    });
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    Custom::read("BatchPolicy", &object, None)
}

fn sidecars(selected: u32, acked: u32, rejected: u32) -> SidecarStatus {
    SidecarStatus {
        selected,
        acked,
        rejected,
        stale: selected - acked - rejected,
        ..SidecarStatus::default()
    }
}

/// What is said of a policy beside others, by ancestor: name, then type, status, reason and message of each
/// condition.
fn said(
    custom: &Custom,
    others: &[Custom],
    sidecars: SidecarStatus,
    before: &BatchPolicyStatus,
) -> BatchPolicyStatus {
    let documents = others.iter().chain([custom]).filter_map(|one| one.good.clone());
    let conflicts = resources_of(&documents.collect(), &catalog()).conflicts;
    let facts = Facts {
        namespace: "shop",
        custom,
        catalog: &catalog(),
        backends: &BTreeSet::new(),
        conflicts: conflicts
            .iter()
            .filter(|one| one.policy == "shop/users")
            .collect(),
        in_force: custom.good_generation,
        sidecars,
        before,
        now: "2026-01-31T23:59:59Z",
    };
    facts.status()
}

fn lines(status: &BatchPolicyStatus) -> Vec<String> {
    let of = |ancestor: &AncestorStatus| -> Vec<String> {
        let name = &ancestor.ancestor_ref.name;
        let conditions = ancestor.conditions.iter();
        conditions
            .map(|one| {
                format!(
                    "{name} {}={:?} {}: {}",
                    one.kind, one.status, one.reason, one.message
                )
            })
            .collect()
    };
    status.ancestors.iter().flat_map(of).collect()
}

fn users(section: Option<&str>) -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": "users", "sectionName": section}], "routes": [{"codec": {"jsonRpc": {}}}]})
}

#[test]
fn who_runs_it_is_told() {
    let policy = policy("users", &users(None));
    let none = BatchPolicyStatus::default();
    let programmed = |sidecars| lines(&said(&policy, &[], sidecars, &none)).remove(2);
    for (sidecars, expected) in [
        (
            sidecars(2, 2, 0),
            "users Programmed=True Programmed: 2 of 2 sidecars run generation 3",
        ),
        (
            sidecars(3, 2, 0),
            "users Programmed=False PartiallyProgrammed: 2 of 3 sidecars run generation 3; 1 not heard of yet",
        ),
        (
            sidecars(1, 0, 0),
            "users Programmed=False Pending: 0 of 1 sidecar runs generation 3; 1 not heard of yet",
        ),
        (
            sidecars(0, 0, 0),
            "users Programmed=Unknown NoSidecars: there is no sidecar that is to run it",
        ),
    ] {
        assert_eq!(programmed(sidecars), expected);
    }
    let rejected = SidecarStatus {
        last_rejection: Some(jitney_api::Rejection {
            sidecar: "web-7c9".to_owned(),
            field: "spec.routes[0].batch.maxQueueBytes".to_owned(),
            reason: "found 2Gi, this sidecar takes at most 1Gi".to_owned(),
        }),
        ..sidecars(42, 41, 1)
    };
    assert_eq!(
        programmed(rejected),
        "users Programmed=False PartiallyProgrammed: 41 of 42 sidecars run generation 3; 1 rejected it: web-7c9: \
         spec.routes[0].batch.maxQueueBytes: found 2Gi, this sidecar takes at most 1Gi"
    );
}

#[test]
fn what_is_wrong_is_told_of_the_target_that_it_is_about() {
    let two =
        json!({"targetRefs": [{"kind": "Service", "name": "orders"}, {"kind": "Service", "name": "ordres"}]});
    let none = BatchPolicyStatus::default();
    let told = lines(&said(&policy("users", &two), &[], sidecars(0, 0, 0), &none));
    assert!(told[0].starts_with("orders Accepted=True Accepted"), "{told:?}");
    assert_eq!(
        told[3],
        "ordres Accepted=False TargetNotFound: there is no Service \"ordres\" in namespace shop"
    );
    assert_eq!(
        told[4],
        "ordres ResolvedRefs=False TargetNotFound: there is no Service \"ordres\" in namespace shop"
    );
    let faulty =
        json!({"targetRefs": [{"kind": "Service", "name": "users"}], "routes": [{"codec": {"jsonRcp": {}}}]});
    let told = lines(&said(&policy("users", &faulty), &[], sidecars(0, 0, 0), &none));
    assert!(
        told[0].starts_with("users Accepted=False Invalid: spec.routes[0].codec.jsonRcp: ")
            && told[0].ends_with("; nothing of it is in force"),
        "{told:?}"
    );
    let elsewhere = json!({"targetRefs": [{"kind": "Service", "name": "users"}], "traffic": {"backendRefs": [{"name": "canary"}]}});
    let told = lines(&said(&policy("users", &elsewhere), &[], sidecars(0, 0, 0), &none));
    assert_eq!(
        told[1],
        "users ResolvedRefs=False BackendNotFound: spec.traffic.backendRefs[0].name: there is no Service and no Backend \
         \"canary\" in namespace shop"
    );
}

#[test]
fn a_policy_that_loses_all_is_conflicted_and_one_that_loses_a_part_is_not() {
    let none = BatchPolicyStatus::default();
    let told = |own: Option<&str>, others: &[Option<&str>]| {
        let others: Vec<Custom> = others
            .iter()
            .map(|section| policy("all", &users(*section)))
            .collect();
        lines(&said(
            &policy("users", &users(own)),
            &others,
            sidecars(0, 0, 0),
            &none,
        ))
        .remove(0)
    };
    let closer = "users:admin: shop/all is for a port, this one for the whole service";
    assert_eq!(
        told(None, &[Some("admin")]),
        format!("users Accepted=True Accepted: in force for a part of the target: not for {closer}")
    );
    let first = "shop/all is for the same, and comes first by name";
    assert_eq!(
        told(None, &[None]),
        format!("users Accepted=False Conflicted: users:admin: {first}; users:http: {first}")
    );
}

#[test]
fn a_route_is_an_ancestor_and_what_it_lacks_is_told() {
    let none = BatchPolicyStatus::default();
    let of = |kind: &str, name: &str, section: Option<&str>| {
        let targets = json!([{"kind": kind, "name": name, "sectionName": section}]);
        json!({"targetRefs": targets, "routes": [{"codec": {"jsonRpc": {}}}]})
    };
    let whole = of("HTTPRoute", "users", None);
    let rule = [policy("all", &of("HTTPRoute", "users", Some("by-id")))];
    let status = said(&policy("users", &whole), &rule, sidecars(1, 1, 0), &none);
    let ancestor = &status.ancestors[0].ancestor_ref;
    assert_eq!(
        (&*ancestor.group, &*ancestor.kind, &*ancestor.name),
        ("gateway.networking.k8s.io", "HTTPRoute", "users")
    );
    let told = lines(&status);
    assert_eq!(
        told[0],
        "users Accepted=True Accepted: in force for a part of the target: not for orders (HTTPRoute users, rule by-id): \
         shop/all is for a rule of a route, this one for a route"
    );
    assert!(told[1].starts_with("users ResolvedRefs=True"), "{told:?}");
    for (spec, expected) in [
        (
            of("HTTPRoute", "user", None),
            "there is no HTTPRoute \"user\" in namespace shop",
        ),
        (
            of("HTTPRoute", "users", Some("by-name")),
            "HTTPRoute \"users\" has no rule \"by-name\", only \"by-id\", \"others\"",
        ),
        (
            of("GRPCRoute", "users", None),
            "the API server serves no GRPCRoutes of gateway.networking.k8s.io/v1: the CRDs of the Gateway API are not \
             installed",
        ),
    ] {
        let told = lines(&said(&policy("users", &spec), &[], sidecars(0, 0, 0), &none));
        let name = spec["targetRefs"][0]["name"].as_str().unwrap();
        assert_eq!(
            told[0],
            format!("{name} Accepted=False TargetNotFound: {expected}")
        );
        assert_eq!(
            told[1],
            format!("{name} ResolvedRefs=False TargetNotFound: {expected}")
        );
    }
}

#[test]
fn a_policy_without_targets_is_for_its_namespace() {
    let none = BatchPolicyStatus::default();
    let status = said(&policy("users", &json!({})), &[], sidecars(0, 0, 0), &none);
    let [ancestor] = &status.ancestors[..] else {
        panic!("one")
    };
    assert_eq!(
        (&*ancestor.ancestor_ref.kind, &*ancestor.ancestor_ref.name),
        ("Namespace", "shop")
    );
}

#[test]
fn a_condition_that_stays_keeps_its_time() {
    let policy = policy("users", &users(None));
    let mut before = said(&policy, &[], sidecars(2, 1, 0), &BatchPolicyStatus::default());
    for condition in &mut before.ancestors[0].conditions {
        condition.last_transition_time = "2026-01-01T00:00:00Z".to_owned();
    }
    let after = said(&policy, &[], sidecars(2, 2, 0), &before);
    let times: Vec<&str> = after.ancestors[0]
        .conditions
        .iter()
        .map(|one| &*one.last_transition_time)
        .collect();
    assert_eq!(
        times,
        [
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
            "2026-01-31T23:59:59Z"
        ]
    );
}

/// Of a Service whose pods another one shares, a part is the policy's, or nothing.
#[test]
fn a_policy_that_shares_pods_with_another_service_says_what_it_lost() {
    let custom = policy("users", &users(Some("http")));
    let catalog = catalog();
    let told = |is_partial: bool| {
        let documents = [
            custom.good.clone().unwrap(),
            policy("other", &users(Some("http"))).good.unwrap(),
        ];
        let mut conflicts = resources_of(&documents.into_iter().collect(), &catalog).conflicts;
        conflicts[0].is_partial = is_partial;
        let facts = Facts {
            namespace: "shop",
            custom: &custom,
            catalog: &catalog,
            backends: &BTreeSet::new(),
            conflicts: conflicts.iter().collect(),
            in_force: Some(3),
            sidecars: sidecars(1, 1, 0),
            before: &BatchPolicyStatus::default(),
            now: "2026-01-31T23:59:59Z",
        };
        lines(&facts.status()).remove(0)
    };
    let why = "users:http: shop/other is for the same, and comes first by name";
    assert_eq!(told(false), format!("users Accepted=False Conflicted: {why}"));
    assert_eq!(
        told(true),
        format!("users Accepted=True Accepted: in force for a part of the target: not for {why}")
    );
}
