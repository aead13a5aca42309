//! Services of one namespace that lead to the same pods, and whose their ports are.

use prost::Message as _;

use super::*;
use crate::push::{Kind, Readers, Resources, ServiceEndpoint, ServicePort, config, resources_of};
use crate::{Documents, Protocol, Sources, Workload};

/// A service of one port, which leads to port 8080 of these pods.
fn service(name: &str, pods: &[u8]) -> (String, Vec<ServicePort>) {
    let endpoint = |pod: &u8| ServiceEndpoint {
        address: ([10, 0, 0, *pod], 8080).into(),
        zone: None,
        sidecar: Some(format!("pod-{pod}").into()),
        is_serving: true,
    };
    let port = ServicePort {
        name: String::new(),
        number: 80,
        addresses: vec![],
        protocol: Protocol::Auto,
        endpoints: pods.iter().map(endpoint).collect(),
    };
    (name.to_owned(), vec![port])
}

/// What is pushed where these services have these policies: name, day of creation and target, none for all.
fn pushed(services: &[(&str, &[u8])], policies: &[(&str, u8, Option<&str>)]) -> Resources {
    let policy = |(name, day, target): &(&str, u8, Option<&str>)| {
        let target = target.map(|name| format!("{{kind: Service, name: {name}}}"));
        format!(
            "kind: BatchPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}\n\
             spec: {{targetRefs: [{}], routes: [{{name: rpc, codec: {{jsonRpc: {{}}}}}}]}}\n",
            target.unwrap_or_default()
        )
    };
    let text = policies.iter().map(policy).collect::<Vec<_>>().join("---\n");
    let documents = Documents::read(&Sources::inline("p.yaml", &text));
    assert!(documents.faults.is_empty(), "{:?}", documents.faults);
    let account = Workload {
        namespace: "shop".to_owned(),
        account: "default".to_owned(),
    };
    let pods = services.iter().flat_map(|(_, pods)| pods.iter());
    let catalog = Catalog {
        namespace: "shop".to_owned(),
        services: services.iter().map(|(name, pods)| service(name, pods)).collect(),
        sidecars: pods
            .map(|pod| (format!("pod-{pod}").into(), account.clone()))
            .collect(),
        ..Catalog::default()
    };
    resources_of(&documents, &catalog)
}

/// The policies of each pod's port.
fn held(resources: &Resources) -> Vec<(String, Vec<String>)> {
    let sidecars = resources.pushed.iter().filter(|one| one.kind == Kind::Sidecar);
    let held = sidecars.map(|one| {
        let sidecar = config::Sidecar::decode(one.held.content.clone()).unwrap();
        let [port] = &sidecar.ports[..] else {
            panic!("{sidecar:?}")
        };
        (one.name.to_string(), port.policies.clone())
    });
    held.collect()
}

/// Who is to run a policy.
fn runs(resources: &Resources, policy: &str) -> Vec<String> {
    let mut policies = resources.pushed.iter().filter(|one| one.kind == Kind::Policy);
    match &policies.find(|one| &*one.name == policy).unwrap().readers {
        Readers::Sidecars(all) => all.values().flatten().map(ToString::to_string).collect(),
        other @ (Readers::Everyone | Readers::Workloads(_)) => panic!("{other:?}"),
    }
}

fn told(resources: &Resources) -> Vec<String> {
    let told = resources.conflicts.iter();
    told.map(|one| format!("{}, {}: {}", one.policy, one.target, one.reason))
        .collect()
}

fn only(policy: &str, pods: &[u8]) -> Vec<(String, Vec<String>)> {
    let of = |pod: &u8| (format!("shop/pod-{pod}"), vec![policy.to_owned()]);
    pods.iter().map(of).collect()
}

/// Both services' calls are the older policy's, and nobody counts the other's sidecars.
#[test]
fn the_older_policy_has_a_port_that_two_services_lead_to() {
    let services: [(&str, &[u8]); 2] = [("first", &[1, 2]), ("second", &[1, 2])];
    let found = pushed(&services, &[("a", 2, Some("first")), ("b", 1, Some("second"))]);
    assert_eq!(held(&found), only("shop/b", &[1, 2]));
    assert_eq!(
        told(&found),
        ["shop/a, first: shop/b is for second, which leads to the same pods on port 8080, and is older"]
    );
    assert!(!found.conflicts[0].is_partial);
    assert_eq!(runs(&found, "shop/a"), [""; 0]);
    assert_eq!(runs(&found, "shop/b"), ["pod-1", "pod-2"]);
    let found = pushed(&services, &[("b", 1, Some("second")), ("a", 1, Some("first"))]);
    assert_eq!(held(&found), only("shop/a", &[1, 2]));
    assert!(
        told(&found)[0].ends_with("and is first by name"),
        "{:?}",
        told(&found)
    );
}

/// A service that selects a part of another's pods takes no more than these from it.
#[test]
fn a_service_of_some_of_the_pods_takes_those_only() {
    let services: [(&str, &[u8]); 2] = [("canary", &[1]), ("whole", &[1, 2])];
    let found = pushed(
        &services,
        &[("canary", 1, Some("canary")), ("whole", 2, Some("whole"))],
    );
    assert_eq!(
        held(&found),
        [only("shop/canary", &[1]), only("shop/whole", &[2])].concat()
    );
    assert_eq!(runs(&found, "shop/whole"), ["pod-2"]);
    assert_eq!(
        told(&found),
        [
            "shop/whole, whole: shop/canary is for canary, which leads to some of the same pods on port 8080, and is older"
        ]
    );
    assert!(found.conflicts[0].is_partial);
    assert!(
        found.conflicts[0]
            .warning
            .to_string()
            .contains("partly without effect for whole")
    );
}

/// One that is for every service has what others leave it, here nothing, and a policy does not lose to itself.
#[test]
fn a_policy_loses_nothing_to_one_that_is_closer_or_to_itself() {
    let services: [(&str, &[u8]); 2] = [("first", &[1]), ("second", &[1])];
    let found = pushed(&services, &[("all", 1, None), ("first", 2, Some("first"))]);
    assert_eq!((held(&found), told(&found)), (only("shop/first", &[1]), vec![]));
    assert_eq!(runs(&found, "shop/all"), [""; 0]);
    let found = pushed(&services, &[("all", 1, None)]);
    assert_eq!((held(&found), told(&found)), (only("shop/all", &[1]), vec![]));
}
