//! From documents to resources and back, and what is rejected on the way.

use bytes::Bytes;
use prost::Message as _;

use super::super::{Held, Kind, Pushed, Readers, config, resources};
use super::*;
use crate::{BatchPolicy, Documents, Mode, Resource, Sources, Workload, compile};

const SHOP: &str = r#"
kind: Backend
metadata: {name: users, namespace: shop}
spec: {endpoints: ["10.0.0.1:80", "10.0.0.2:80"]}
---
kind: Backend
metadata: {name: orders, namespace: shop}
spec: {endpoints: ["10.0.0.3:80"]}
---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    batch: {maxSize: 20}
  - match: {method: POST, path: {type: Exact, value: /rpc}}
    codec: {jsonRpc: {}}
---
kind: BatchPolicy
metadata: {name: out, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: orders}]
  placement: Outbound
  traffic: {timeouts: {request: 3s}}
"#;

fn documents(text: &str) -> Documents {
    Documents::read(&Sources::inline("shop.yaml", text))
}

fn pushed(text: &str) -> Vec<Pushed> {
    let documents = documents(text);
    compile(&documents).expect("a good file");
    resources(&documents).pushed
}

/// A response with these resources of one type.
fn delta(kind: Kind, pushed: &[Pushed]) -> Delta {
    let of_kind = pushed.iter().filter(|pushed| pushed.kind == kind);
    let set = |pushed: &Pushed| Change::Set {
        name: pushed.name.to_string(),
        version: pushed.held.version.to_string(),
        content: pushed.held.content.clone(),
    };
    Delta::remembered(kind, of_kind.map(set).collect())
}

fn policies(documents: &Documents) -> Vec<BatchPolicy> {
    let policies = documents
        .documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::BatchPolicy(policy) => Some(policy.clone()),
            Resource::Backend(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        });
    let mut policies: Vec<BatchPolicy> = policies.collect();
    policies.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    policies
}

/// An assembly of what these documents push.
fn assembled(text: &str) -> Assembly {
    let pushed = pushed(text);
    let mut assembly = Assembly::default();
    for kind in [Kind::Route, Kind::Policy] {
        let mut delta = delta(kind, &pushed);
        assembly.take(&mut delta);
        assert_eq!(delta.rejected, []);
    }
    assembly
}

#[test]
fn names_and_readers() {
    let pushed = pushed(SHOP);
    let all: Vec<(Kind, &str)> = pushed.iter().map(|one| (one.kind, &*one.name)).collect();
    assert_eq!(
        all,
        [
            (Kind::Endpoint, "shop/users/10.0.0.1:80"),
            (Kind::Endpoint, "shop/users/10.0.0.2:80"),
            (Kind::Backend, "shop/users"),
            (Kind::Endpoint, "shop/orders/10.0.0.3:80"),
            (Kind::Backend, "shop/orders"),
            (Kind::Route, "shop/users/by-id"),
            (Kind::Route, "shop/users/1"),
            (Kind::Policy, "shop/users"),
            (Kind::Policy, "shop/out"),
        ]
    );
    let users = Readers::Workloads(vec![Workload {
        namespace: "shop".into(),
        account: "users".into(),
    }]);
    let readers = |name: &str| {
        let found = pushed.iter().find(|one| *one.name == *name);
        found.expect("pushed").readers.clone()
    };
    assert_eq!(readers("shop/users/by-id"), users);
    assert_eq!(readers("shop/out"), Readers::Everyone);
    assert_eq!(readers("shop/users/10.0.0.1:80"), Readers::Everyone);
}

#[test]
fn a_policy_is_the_same_when_it_has_been_put_together_again() {
    let again = assembled(SHOP).documents();
    assert_eq!(policies(&again).len(), 2);
    for (one, other) in policies(&documents(SHOP)).iter().zip(&policies(&again)) {
        assert_eq!((&one.metadata, &one.spec), (&other.metadata, &other.spec));
    }
}

#[test]
fn one_endpoint_more_is_one_resource_more_and_no_other_changes() {
    let (before, after) = (
        pushed(SHOP),
        pushed(&SHOP.replace("\"10.0.0.2:80\"", "\"10.0.0.2:80\", \"10.0.0.9:80\"")),
    );
    let new: Vec<&str> = after
        .iter()
        .filter(|one| !before.contains(one))
        .map(|one| &*one.name)
        .collect();
    assert_eq!(new, ["shop/users/10.0.0.9:80"]);
    assert!(before.iter().all(|one| after.contains(one)));
}

#[test]
fn one_route_that_changes_is_one_resource() {
    let mut assembly = assembled(SHOP);
    let after = pushed(&SHOP.replace("maxSize: 20", "maxSize: 21"));
    let before = pushed(SHOP);
    let changed: Vec<Pushed> = after.into_iter().filter(|one| !before.contains(one)).collect();
    assert_eq!(changed.len(), 1);
    let mut delta = delta(Kind::Route, &changed);
    assert!(assembly.take(&mut delta).changed);
    let users = &policies(&assembly.documents())[1];
    assert_eq!(users.spec.routes[0].batch.max_size, 21);
}

/// As a control plane of a later version would push: a field or value that is not known here.
fn spoiled(text: &str, from: &str, to: &str) -> Vec<Pushed> {
    let mut pushed = pushed(text);
    for one in &mut pushed {
        if one.kind == Kind::Route {
            let mut message = config::Route::decode(one.held.content.clone()).expect("a route");
            let spec = String::from_utf8(message.spec.to_vec()).expect("JSON");
            message.spec = spec.replace(from, to).into();
            one.held = Held::of(&message);
        }
    }
    pushed
}

#[test]
fn a_route_that_cannot_run_is_rejected_by_its_field_and_the_others_go_on() {
    let mut assembly = assembled(SHOP);
    let before = policies(&assembly.documents());
    let pushed = spoiled(SHOP, "\"maxSize\":20", "\"maxSize\":0");
    let mut delta = delta(Kind::Route, &pushed);
    assert!(!assembly.take(&mut delta).changed);
    let [rejection] = &delta.rejected[..] else {
        panic!("{delta:?}");
    };
    assert_eq!(rejection.name, "shop/users/by-id");
    assert_eq!(rejection.field, "batch.maxSize");
    assert!(rejection.reason.contains("found 0"), "{rejection:?}");
    assert_eq!(
        policies(&assembly.documents()),
        before,
        "the last good version stays"
    );
}

#[test]
fn a_policy_whose_route_was_rejected_is_asked_for_again_when_the_route_is_good() {
    let mut assembly = Assembly::default();
    let bad = spoiled(SHOP, "\"maxSize\":20", "\"maxSize\":0");
    let mut routes = delta(Kind::Route, &bad);
    assembly.take(&mut routes);
    let mut wanting = delta(Kind::Policy, &bad);
    assembly.take(&mut wanting);
    let [rejection] = &wanting.rejected[..] else {
        panic!("{wanting:?}");
    };
    assert_eq!(
        (&*rejection.name, &*rejection.field),
        ("shop/users", "spec.routes[0].batch.maxSize")
    );
    let why = "route \"shop/users/by-id\" was rejected: found 0, expected";
    assert!(rejection.reason.starts_with(why), "{rejection:?}");
    let mut good = delta(Kind::Route, &pushed(SHOP));
    assert_eq!(assembly.take(&mut good).again, ["shop/users"]);
    let mut good = delta(Kind::Policy, &pushed(SHOP));
    assert!(assembly.take(&mut good).changed);
    assert_eq!(policies(&assembly.documents()).len(), 2);
}

#[test]
fn what_is_no_message_is_rejected() {
    let mut assembly = Assembly::default();
    let change = Change::Set {
        name: "shop/users".into(),
        version: "1".into(),
        content: Bytes::from_static(b"\xff\xff"),
    };
    let mut delta = Delta::remembered(Kind::Policy, vec![change]);
    assembly.take(&mut delta);
    assert_eq!(delta.rejected.len(), 1);
}

#[test]
fn what_is_gone_runs_no_longer() {
    let mut assembly = assembled(SHOP);
    let gone = Change::Gone {
        name: "shop/users".into(),
    };
    assert!(
        assembly
            .take(&mut Delta::remembered(Kind::Policy, vec![gone]))
            .changed
    );
    assert_eq!(policies(&assembly.documents()).len(), 1);
}

const MESH: &str = r#"
kind: Listener
metadata: {name: users-in, namespace: shop}
spec: {address: "127.0.0.1:7001", backend: users, local: "127.0.0.1:9001"}
---
kind: Listener
metadata: {name: to-orders, namespace: shop}
spec: {address: "127.0.0.1:7002", backend: orders, workload: users}
---
kind: Runtime
metadata: {name: users, namespace: shop}
spec: {logLevel: "info,jitney_proxy=debug", mode: Shadow, maxSize: 10, window: {max: 4}}
"#;

/// Everything that these documents push, in the order in which it is sent.
fn complete(text: &str, limits: OwnLimits) -> (Assembly, Vec<String>) {
    let (pushed, mut assembly) = (pushed(text), Assembly::new(limits));
    let mut rejected = Vec::new();
    for kind in Kind::ALL {
        let mut delta = delta(kind, &pushed);
        assembly.take(&mut delta);
        let told = delta.rejected.iter();
        rejected.extend(told.map(|one| format!("{} {}: {}", one.name, one.field, one.reason)));
    }
    (assembly, rejected)
}

fn users() -> Workload {
    "shop/users".parse().expect("a workload")
}

#[test]
fn listeners_backends_and_caps_come_together() {
    let (assembly, rejected) = complete(&format!("{SHOP}---{MESH}"), OwnLimits::default());
    assert!(rejected.is_empty(), "{rejected:?}");
    let listeners: Vec<(&str, &str, bool)> = assembly
        .listeners()
        .map(|one| (&*one.name, &*one.backend, one.local.is_some()))
        .collect();
    assert_eq!(
        listeners,
        [
            ("users-in", "shop/users", true),
            ("to-orders", "shop/orders", false)
        ]
    );
    let inbound = assembly.inbound(&users()).policy;
    let route = &inbound.routes()[0];
    assert_eq!(route.mode, jitney_core::policy::Mode::Shadow);
    assert_eq!(route.limits.max_size, 10, "the route says 20");
    let bounds = jitney_core::batch::Window::Within { min: 1, max: 4 };
    assert_eq!(route.limits.window, bounds);
    let (orders, policy) = assembly.outbound("shop/orders").expect("pushed");
    let addresses: Vec<String> = orders
        .endpoints
        .iter()
        .map(|one| one.endpoint.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.3:80"]);
    assert_eq!(orders.policies, ["shop/out"]);
    let timeout = policy.policy.traffic.timeouts.request;
    assert_eq!(timeout, Some(std::time::Duration::from_secs(3)));
    let wanted: Vec<String> = assembly
        .wanted("shop/orders")
        .into_iter()
        .map(|one| one.1)
        .collect();
    assert_eq!(wanted, ["shop/orders", "shop/orders/*", "shop/out/*", "shop/out"]);
}

#[test]
fn a_cap_is_another_generation_and_none_is_none() {
    let (mut assembly, _) = complete(&format!("{SHOP}---{MESH}"), OwnLimits::default());
    let capped = assembly.inbound(&users()).policy.generation;
    assembly.remove(Kind::Runtime, "shop/users");
    let free = assembly.inbound(&users()).policy;
    assert_ne!(free.generation, capped);
    assert_eq!(free.routes()[0].limits.max_size, 20);
    let log = RuntimeSpec {
        log_level: Some("debug".into()),
        ..RuntimeSpec::default()
    };
    assert_eq!(
        log.cap(&free).generation,
        free.generation,
        "what is logged batches nothing"
    );
    let disabled = RuntimeSpec {
        mode: Some(Mode::Disabled),
        ..RuntimeSpec::default()
    };
    assert_eq!(
        disabled.cap(&free).routes()[0].generation,
        disabled.cap(&free).generation
    );
}

#[test]
fn what_is_beyond_this_sidecar_is_rejected_by_its_field() {
    let limits = OwnLimits {
        max_size: 16,
        ..OwnLimits::default()
    };
    let (assembly, rejected) = complete(SHOP, limits);
    assert!(
        rejected[0].starts_with("shop/users/by-id batch.maxSize: found 20, this sidecar takes at most 16"),
        "{rejected:?}"
    );
    assert_eq!(
        rejected[2],
        "shop/users spec.routes[0].batch.maxSize: route \"shop/users/by-id\" was rejected: \
         found 20, this sidecar takes at most 16"
    );
    assert!(assembly.outbound("shop/orders").is_some(), "the rest runs");
}

#[test]
fn a_backend_without_endpoints_is_one() {
    let (mut assembly, _) = complete(SHOP, OwnLimits::default());
    assert!(assembly.remove(Kind::Endpoint, "shop/orders/10.0.0.3:80").changed);
    let (orders, _) = assembly.outbound("shop/orders").expect("still there");
    assert!(orders.endpoints.is_empty());
    assembly.remove(Kind::Backend, "shop/orders");
    assert!(assembly.outbound("shop/orders").is_none());
}

#[test]
fn nothing_is_known_of_a_backend_before_its_endpoints_are_answered() {
    let (mut assembly, _) = complete(SHOP, OwnLimits::default());
    assembly.expect("shop/orders");
    assert!(assembly.outbound("shop/orders").is_none());
    assert!(assembly.outbound("shop/users").is_some());
    assert!(
        !assembly
            .take(&mut Delta::remembered(Kind::Backend, vec![]))
            .changed
    );
    assert!(
        assembly
            .take(&mut Delta::remembered(Kind::Endpoint, vec![]))
            .changed
    );
    assert!(assembly.outbound("shop/orders").is_some());
}

#[test]
fn who_takes_a_change_first_is_no_part_of_it() {
    let staged = SHOP.replace(
        "spec:\n  targetRefs: [{kind: Backend, name: users}]",
        "spec:\n  targetRefs: [{kind: Backend, name: users}]\n  rollout: {percent: 30}",
    );
    assert_ne!(staged, SHOP);
    let resources = resources(&documents(&staged));
    assert_eq!(resources.pushed, pushed(SHOP));
    let shares: Vec<_> = resources
        .shares
        .iter()
        .map(|(name, percent)| (&**name, *percent))
        .collect();
    assert_eq!(shares, [("shop/users", 30)]);
}

#[test]
fn backends_that_a_policy_names_are_found_in_its_namespace() {
    let more = "---\nkind: Backend\nmetadata: {name: next, namespace: shop}\nspec: {endpoints: ['10.0.0.4:80']}\n---\n\
        kind: Backend\nmetadata: {name: last, namespace: shop}\nspec: {endpoints: ['10.0.0.5:80']}\n---\n\
        kind: BatchPolicy\nmetadata: {name: next, namespace: shop}\nspec:\n  targetRefs: [{kind: Backend, name: next}]\n  \
        placement: Outbound\n  traffic: {backendRefs: [{name: last}, {name: next}]}\n";
    let text = format!("{SHOP}{more}---{MESH}").replace(
        "traffic: {timeouts: {request: 3s}}",
        "traffic: {backendRefs: [{name: orders, weight: 9}, {name: next}]}",
    );
    let text = text.replace(
        "  targetRefs: [{kind: Backend, name: users}]\n",
        "  targetRefs: [{kind: Backend, name: users}]\n  traffic: {backendRefs: [{name: users}, {name: orders}]}\n",
    );
    let (assembly, rejected) = complete(&text, OwnLimits::default());
    assert!(rejected.is_empty(), "{rejected:?}");
    let named = |policy: &CompiledPolicy| {
        let others = policy.policy.traffic.detours.others();
        others.map(|name| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(&assembly.inbound(&users())), ["shop/orders"]);
    let (_, orders) = assembly.outbound("shop/orders").expect("pushed");
    assert_eq!(named(&orders), ["shop/next"]);
    let led_to: Vec<String> = assembly.led_to(&users(), []).into_iter().collect();
    assert_eq!(led_to, ["shop/last", "shop/next", "shop/orders"]);
    assert_eq!(assembly.named("shop/next"), ["shop/last", "shop/next"]);
    let others: Workload = "shop/web".parse().expect("a workload");
    assert!(assembly.led_to(&others, ["shop/next"]).contains("shop/last"));
}
