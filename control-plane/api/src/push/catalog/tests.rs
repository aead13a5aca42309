//! What is pushed of a namespace with two services of one account.

use super::*;
use crate::push::{Assembly, Change, Delta, OwnLimits, Resources, resources_of};
use crate::{Documents, Sources};

const POLICIES: &str = r#"
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: users, sectionName: http}]
  routes: [{name: by-id, match: {method: GET, path: {type: Template, value: "/users/{id}"}}, codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}}]
---
kind: BatchPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  routes: [{name: rpc, codec: {jsonRpc: {}}}]
---
kind: BatchPolicy
metadata: {name: out, namespace: shop}
spec:
  placement: Outbound
  targetRefs: [{kind: Backend, name: geo}]
  routes: [{name: rpc, codec: {jsonRpc: {}}}]
---
kind: Backend
metadata: {name: geo, namespace: shop}
spec: {endpoints: ["203.0.113.7:443"]}
"#;

fn endpoint(address: &str, sidecar: &str, is_serving: bool) -> ServiceEndpoint {
    ServiceEndpoint {
        address: address.parse().unwrap(),
        zone: Some("a".into()),
        sidecar: Some(sidecar).filter(|name| !name.is_empty()).map(Into::into),
        is_serving,
    }
}

fn port(name: &str, address: &str, protocol: Protocol, endpoints: Vec<ServiceEndpoint>) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        number: address.parse::<SocketAddr>().unwrap().port(),
        addresses: vec![address.parse().unwrap()],
        protocol,
        endpoints,
    }
}

fn of_udp(names: &[&str]) -> Unserved {
    let ports = names.iter().map(|name| ((*name).to_owned(), "UDP".to_owned()));
    Unserved {
        stands_for: None,
        ports: ports.collect(),
    }
}

/// Two services of one account, and a pod without a sidecar.
fn catalog() -> Catalog {
    let account = Workload {
        namespace: "shop".to_owned(),
        account: "default".to_owned(),
    };
    let users = vec![
        endpoint("10.0.0.1:8080", "users-1", true),
        endpoint("10.0.0.2:8080", "users-2", false),
        endpoint("10.0.0.9:8080", "", true),
    ];
    let raw = vec![endpoint("10.0.0.1:7000", "users-1", true)];
    let orders = vec![endpoint("10.0.0.3:8080", "orders-1", true)];
    let sidecars = ["users-1", "users-2", "orders-1"].map(|node| (node.into(), account.clone()));
    Catalog {
        namespace: "shop".to_owned(),
        services: BTreeMap::from([
            (
                "users".to_owned(),
                vec![
                    port("http", "10.96.0.1:80", Protocol::Auto, users),
                    port("raw", "10.96.0.1:7000", Protocol::TCP, raw),
                ],
            ),
            (
                "orders".to_owned(),
                vec![port("", "10.96.0.2:80", Protocol::Auto, orders)],
            ),
            ("ext".to_owned(), vec![]),
            ("names".to_owned(), vec![]),
        ]),
        unserved: BTreeMap::from([
            (
                "ext".to_owned(),
                Unserved {
                    stands_for: Some("db.example.org".to_owned()),
                    ports: vec![],
                },
            ),
            ("users".to_owned(), of_udp(&["dns"])),
            ("names".to_owned(), of_udp(&["", "more"])),
        ]),
        sidecars: BTreeMap::from(sidecars),
        routes: BTreeMap::new(),
    }
}

fn pushed() -> Resources {
    let documents = Documents::read(&Sources::inline("p.yaml", POLICIES));
    assert!(documents.faults.is_empty(), "{:?}", documents.faults);
    resources_of(&documents, &catalog())
}

fn names(pushed: &[Pushed], kind: Kind) -> Vec<&str> {
    let of_kind = pushed.iter().filter(|one| one.kind == kind);
    let mut names: Vec<&str> = of_kind.map(|one| &*one.name).collect();
    names.sort_unstable();
    names
}

/// What a sidecar of the account holds that gets all it may have without asking.
fn assembly(node: &str) -> Assembly {
    let mut assembly = Assembly::new(OwnLimits::default());
    let account = catalog().sidecars[node].clone();
    let pushed = pushed().pushed;
    for kind in Kind::ALL {
        let mine = pushed
            .iter()
            .filter(|one| one.kind == kind && one.readers.include(&account, node));
        let changes = mine.map(|one| Change::Set {
            name: one.name.to_string(),
            version: one.held.version.to_string(),
            content: one.held.content.clone(),
        });
        let mut delta = Delta::remembered(kind, changes.collect());
        assembly.take(&mut delta);
        assert_eq!(delta.rejected.len(), 0, "{:?}", delta.rejected);
    }
    assembly
}

#[test]
fn each_port_is_a_backend_and_only_what_serves_an_endpoint() {
    let Resources {
        pushed, conflicts, ..
    } = pushed();
    assert_eq!(conflicts, []);
    assert_eq!(
        names(&pushed, Kind::Backend),
        ["shop/geo", "shop/orders", "shop/users:http", "shop/users:raw"]
    );
    assert_eq!(
        names(&pushed, Kind::Endpoint),
        [
            "shop/geo/203.0.113.7:443",
            "shop/orders/10.0.0.3:8080",
            "shop/users:http/10.0.0.1:8080",
            "shop/users:http/10.0.0.9:8080",
            "shop/users:raw/10.0.0.1:7000",
        ]
    );
    let assembly = assembly("orders-1");
    let (users, _) = assembly.outbound("shop/users:http").unwrap();
    assert_eq!(users.addresses, ["10.96.0.1:80".parse().unwrap()]);
    let secured = users
        .endpoints
        .iter()
        .map(|one| (&*one.endpoint.host, one.workload.is_some()));
    assert_eq!(
        secured.collect::<Vec<_>>(),
        [("10.0.0.1", true), ("10.0.0.9", false)]
    );
}

#[test]
fn a_policy_is_for_the_sidecars_beside_its_target() {
    let pushed = pushed().pushed;
    let readers = |name: &str| {
        let policy = pushed
            .iter()
            .find(|one| one.kind == Kind::Policy && &*one.name == name);
        policy.unwrap().readers.clone()
    };
    let Readers::Sidecars(users) = readers("shop/users") else {
        panic!("some of a workload's sidecars")
    };
    let nodes: Vec<&str> = users.values().flatten().map(|node| &**node).collect();
    assert_eq!(
        nodes,
        ["users-1", "users-2"],
        "also the one that does not serve yet"
    );
    assert_eq!(readers("shop/out"), Readers::Everyone);
}

#[test]
fn a_sidecar_runs_a_policy_on_the_ports_of_its_target_only() {
    let account = catalog().sidecars["users-1"].clone();
    let ports = |node: &str| -> Vec<(u16, bool, usize)> {
        let assembly = assembly(node);
        let general = assembly.inbound(&account).policy;
        assert!(general.routes().is_empty(), "no policy is for other ports");
        let ports = assembly.inbound_by_port(&account);
        ports
            .map(|port| (port.number, port.is_opaque, port.compiled.policy.routes().len()))
            .collect()
    };
    assert_eq!(ports("users-1"), [(7000, true, 0), (8080, false, 1)]);
    assert_eq!(ports("users-2"), [(8080, false, 1)]);
    assert_eq!(ports("orders-1"), [(8080, false, 1)]);
}

#[test]
fn targets_that_lead_nowhere_say_so() {
    let catalog = catalog();
    let resolve = |kind, name: &str, section: Option<&str>| {
        let target = TargetRef {
            group: None,
            kind,
            name: name.to_owned(),
            section_name: section.map(str::to_owned),
        };
        let found = catalog.resolve(&target, &BTreeSet::from(["geo"]));
        found.map_err(|error| error.to_string())
    };
    let found = |names: &[&str]| Ok(names.iter().map(|name| Place::whole(*name)).collect());
    use TargetKind::{Backend, HTTPRoute, Service};
    assert_eq!(
        resolve(Service, "users", None),
        found(&["users:http", "users:raw"])
    );
    assert_eq!(resolve(Service, "users", Some("raw")), found(&["users:raw"]));
    assert_eq!(resolve(Backend, "geo", None), found(&["geo"]));
    for (kind, name, section, told) in [
        (
            Service,
            "user",
            None,
            "there is no Service \"user\" in namespace shop",
        ),
        (
            Service,
            "users",
            Some("grpc"),
            "Service \"users\" has no port \"grpc\", only \"http\", \"raw\"",
        ),
        (
            Service,
            "ext",
            None,
            "Service \"ext\" is an ExternalName, which only stands for \"db.example.org\", and has no pods: for calls to that name apply a \
             Backend with it, and a policy for that with `placement: Outbound`",
        ),
        (
            Service,
            "users",
            Some("dns"),
            "Service \"users\" has no port of TCP by that name, only \"dns\" of UDP, which sidecars leave alone",
        ),
        (
            Service,
            "names",
            None,
            "Service \"names\" has no port of TCP, only \"\" of UDP, \"more\" of UDP, which sidecars leave alone",
        ),
        (
            Backend,
            "users",
            None,
            "there is no Backend \"users\" in namespace shop",
        ),
        (
            HTTPRoute,
            "users",
            None,
            "the API server serves no HTTPRoutes of gateway.networking.k8s.io/v1: the CRDs of the Gateway API are not \
             installed",
        ),
    ] {
        assert_eq!(resolve(kind, name, section), Err(told.to_owned()));
    }
}
