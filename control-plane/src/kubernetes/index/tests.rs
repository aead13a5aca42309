//! Events as watches tell them, and what is pushed then.

use jitney_api::push::Kind;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    })
}

/// Endpoints as address, pod and conditions.
fn slice(name: &str, endpoints: &[(&str, &str, Value)]) -> Value {
    let endpoints = endpoints.iter().map(|(address, pod, conditions)| {
        json!({
            "addresses": [address],
            "conditions": conditions,
            "zone": "a",
            "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"},
        })
    });
    json!({
        "metadata": {
            "namespace": "shop",
            "name": name,
            "labels": {"kubernetes.io/service-name": "users"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn pod(name: &str, phase: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"serviceAccountName": "users", "containers": []},
        "status": {"phase": phase},
    })
}

fn policy(generation: i64, codec: &Value) -> DynamicObject {
    object(json!({
        "apiVersion": "jitney.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {
            "namespace": "shop",
            "name": "users",
            "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "resourceVersion": "7",
            "uid": "b7c1",
            "annotations": {"a": "b"},
            "finalizers": ["somebody/else"],
        },
        "spec": {"targetRefs": [{"kind": "Service", "name": "users"}], "routes": [{"name": "rpc", "codec": codec}]},
        "status": {"ancestors": []},
    }))
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

/// A cluster in which everything was listed once.
fn index() -> Index {
    let mut index = Index::new(vec![Scope::All]);
    let listed = |told: Told, index: &mut Index| index.take(&Scope::All, told);
    assert!(!index.is_synced());
    let slices = slice(
        "users-1",
        &[("10.0.0.1", "users-1", ready()), ("10.0.0.2", "bare", ready())],
    );
    listed(Told::Service(Box::new(Event::Init)), &mut index);
    listed(
        Told::Service(Box::new(Event::InitApply(object(service("users"))))),
        &mut index,
    );
    listed(Told::Service(Box::new(Event::InitDone)), &mut index);
    listed(Told::Slice(Box::new(Event::Init)), &mut index);
    listed(
        Told::Slice(Box::new(Event::InitApply(object(slices)))),
        &mut index,
    );
    listed(Told::Slice(Box::new(Event::InitDone)), &mut index);
    listed(Told::Pod(Box::new(Event::Init)), &mut index);
    listed(
        Told::Pod(Box::new(Event::InitApply(object(pod("users-1", "Running"))))),
        &mut index,
    );
    listed(Told::Pod(Box::new(Event::InitDone)), &mut index);
    for kinds in Kinds::ALL {
        assert!(!index.is_synced(), "{kinds:?} are not listed");
        listed(Told::Custom(kinds, Box::new(Event::Init)), &mut index);
        listed(Told::Custom(kinds, Box::new(Event::InitDone)), &mut index);
    }
    for kind in RouteKind::ALL {
        assert!(!index.is_synced(), "whether there are {kind}s is not known");
        listed(Told::Unserved(kind), &mut index);
    }
    assert!(index.is_synced());
    assert_eq!(index.changed(), BTreeSet::from(["shop".to_owned()]));
    index
}

fn endpoints(index: &Index) -> Vec<String> {
    let pushed = index.resources("shop").pushed;
    let endpoints = pushed.iter().filter(|one| one.kind == Kind::Endpoint);
    endpoints.map(|one| one.name.to_string()).collect()
}

fn told(index: &mut Index, told: Told) -> bool {
    let is_news = index.take(&Scope::All, told);
    assert_eq!(is_news, !index.changed().is_empty());
    is_news
}

#[test]
fn a_service_is_where_its_slices_say() {
    let mut index = index();
    let both = ["shop/users/10.0.0.1:8080", "shop/users/10.0.0.2:8080"];
    assert_eq!(endpoints(&index), both);
    let catalog = index.catalog("shop");
    let [port] = &catalog.services["users"][..] else {
        panic!("UDP is none of ours")
    };
    assert_eq!(
        port.addresses,
        ["10.96.0.1:80", "[fd00::1]:80"].map(|text| text.parse().unwrap())
    );
    let beside: Vec<_> = port.endpoints.iter().map(|one| one.sidecar.as_deref()).collect();
    assert_eq!(beside, [Some("users-1"), None]);
    assert_eq!(catalog.sidecars["users-1"].to_string(), "shop/users");

    let same = slice(
        "users-1",
        &[("10.0.0.1", "users-1", ready()), ("10.0.0.2", "bare", ready())],
    );
    assert!(!told(
        &mut index,
        Told::Slice(Box::new(Event::Apply(object(same))))
    ));
    let elsewhere = slice("users-2", &[("10.0.0.1", "users-1", ready())]);
    assert!(told(
        &mut index,
        Told::Slice(Box::new(Event::Apply(object(elsewhere))))
    ));
    assert_eq!(endpoints(&index), both, "in two slices for a moment");
}

/// Whoever relies on it is told, and nobody else: where no pod has a sidecar nothing is another than before.
#[test]
fn what_services_say_and_sidecars_do_not_keep_is_told() {
    let mut index = index();
    let mut kept = service("users");
    kept["spec"]["internalTrafficPolicy"] = "Cluster".into();
    kept["spec"]["sessionAffinity"] = "None".into();
    let mut lost = service("orders");
    lost["spec"]["internalTrafficPolicy"] = "Local".into();
    lost["spec"]["sessionAffinity"] = "ClientIP".into();
    for service in [kept, lost] {
        index.take(
            &Scope::All,
            Told::Service(Box::new(Event::Apply(object(service)))),
        );
    }
    let told: Vec<String> = index.unkept("shop").iter().map(ToString::to_string).collect();
    let text = "sidecars do not keep it, and lead their callers to any endpoint";
    assert_eq!(
        told,
        [
            format!("Service shop/orders: warning: spec.internalTrafficPolicy: found Local: {text}"),
            format!("Service shop/orders: warning: spec.sessionAffinity: found ClientIP: {text}"),
        ]
    );
    assert_eq!(index.namespaces(), BTreeSet::from(["shop"]));
    index.take(
        &Scope::All,
        Told::Pod(Box::new(Event::Delete(object(pod("users-1", "Running"))))),
    );
    assert_eq!(index.unkept("shop"), []);
}

/// A port that is reached past the sidecar, or that it does not listen on, is nobody's of the mesh.
#[test]
fn what_is_reached_past_a_sidecar_is_not_beside_it() {
    let mut index = index();
    let mut beside = |redirect: Option<&str>, proxy: &[&str]| {
        let mut pod = pod("users-1", "Running");
        let redirect = redirect.map(|ports| {
            json!({"name": "jitney-redirect", "args": ["redirect", "install", "--skip-inbound-ports", ports]})
        });
        let proxy = json!({"name": "jitney-proxy", "args": proxy});
        let containers: Vec<Value> = redirect.into_iter().chain([proxy]).collect();
        pod["spec"]["initContainers"] = containers.into();
        index.take(&Scope::All, Told::Pod(Box::new(Event::Apply(object(pod)))));
        let catalog = index.catalog("shop");
        assert_eq!(catalog.sidecars.len(), 1);
        catalog.services["users"][0].endpoints[0].sidecar.is_some()
    };
    assert!(beside(Some("15020"), &["run"]));
    assert!(!beside(Some("15020,8000-8080"), &["run"]));
    assert!(!beside(
        None,
        &["run", "--listen", "[::]:15080", "--upstream", "127.0.0.1:8080"]
    ));
    assert!(beside(
        None,
        &["run", "--listen", "[::]:8080", "--upstream", "127.0.0.1:9000"]
    ));
    assert!(beside(None, &["run", "--listen=[::]:8080"]));
    // Nobody hands it anything, and it takes nothing itself.
    assert!(!beside(None, &["run", "--listening", "[::]:8080"]));
    assert!(!beside(None, &["run"]));
}

#[test]
fn services_without_a_port_for_sidecars_are_known_by_what_they_are() {
    let mut index = index();
    let external = json!({"metadata": {"namespace": "shop", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "a.b"}});
    let told = Told::Service(Box::new(Event::Apply(object(external))));
    index.take(&Scope::All, told);
    let unserved = index.catalog("shop").unserved;
    assert_eq!(unserved["ext"].stands_for.as_deref(), Some("a.b"));
    assert_eq!(unserved["users"].ports, [("dns".to_owned(), "UDP".to_owned())]);
}

#[test]
fn what_leaves_is_used_only_if_all_do() {
    let mut index = index();
    let leaving = || json!({"ready": false, "serving": true, "terminating": true});
    let starting = || json!({"ready": false, "serving": false, "terminating": false});
    let mut after = |one: Value, other: Value| {
        let slice = slice(
            "users-1",
            &[("10.0.0.1", "users-1", one), ("10.0.0.2", "bare", other)],
        );
        told(&mut index, Told::Slice(Box::new(Event::Apply(object(slice)))));
        endpoints(&index)
    };
    assert_eq!(after(leaving(), ready()), ["shop/users/10.0.0.2:8080"]);
    assert_eq!(after(leaving(), starting()), ["shop/users/10.0.0.1:8080"]);
    assert_eq!(after(starting(), starting()), [""; 0]);
    let catalog = index.catalog("shop");
    let beside = catalog.services["users"][0].endpoints[0].sidecar.as_deref();
    assert_eq!(beside, Some("users-1"), "a sidecar is told before it is ready");
}

#[test]
fn what_is_not_listed_again_is_gone() {
    let mut index = index();
    assert!(told(
        &mut index,
        Told::Pod(Box::new(Event::Apply(object(pod("users-2", "Pending")))))
    ));
    assert!(!told(&mut index, Told::Pod(Box::new(Event::Init))));
    assert!(!told(
        &mut index,
        Told::Pod(Box::new(Event::InitApply(object(pod("users-2", "Running")))))
    ));
    assert!(told(&mut index, Told::Pod(Box::new(Event::InitDone))));
    let names: Vec<_> = index.catalog("shop").sidecars.into_keys().collect();
    assert_eq!(names, ["users-2".into()]);
    assert_eq!(index.of_pods(), BTreeSet::from(["shop/users".parse().unwrap()]));
    assert!(told(
        &mut index,
        Told::Pod(Box::new(Event::Apply(object(pod("users-2", "Succeeded")))))
    ));
    assert!(index.catalog("shop").sidecars.is_empty() && index.of_pods().is_empty());
}

#[test]
fn a_namespace_that_is_listed_again_takes_nothing_from_others() {
    let [shop, bank] = ["shop", "bank"].map(|name| Scope::Namespace(name.to_owned()));
    let mut index = Index::new(vec![shop.clone(), bank.clone()]);
    index.take(
        &shop,
        Told::Pod(Box::new(Event::Apply(object(pod("users-1", "Running"))))),
    );
    index.take(&bank, Told::Pod(Box::new(Event::Init)));
    index.take(&bank, Told::Pod(Box::new(Event::InitDone)));
    assert_eq!(index.catalog("shop").sidecars.len(), 1);
}

#[test]
fn a_faulty_object_keeps_its_last_good_version() {
    let mut index = index();
    let mut after = |generation: i64, codec: Value| {
        let policy = policy(generation, &codec);
        let is_news = told(
            &mut index,
            Told::Custom(Kinds::BatchPolicies, Box::new(Event::Apply(policy))),
        );
        let (_, custom) = index.objects(Kinds::BatchPolicies, "shop").next().unwrap();
        let faults: Vec<String> = custom.faults.iter().map(ToString::to_string).collect();
        let pushed = index.resources("shop").pushed;
        let route = pushed.iter().find(|one| one.kind == Kind::Route);
        let route = route.map(|route| String::from_utf8_lossy(&route.held.content).contains("jsonRpc"));
        (is_news, faults, route)
    };
    let unknown = "BatchPolicy shop/users: spec.routes[0].codec.jsonRcp";
    let (is_news, faults, route) = after(1, json!({"jsonRcp": {}}));
    assert!(is_news && faults[0].starts_with(unknown), "{faults:?}");
    assert_eq!(route, None);
    assert_eq!(after(2, json!({"jsonRpc": {}})), (true, vec![], Some(true)));
    let (_, faults, route) = after(3, json!({"jsonRcp": {}}));
    assert!(faults[0].starts_with(unknown), "{faults:?}");
    assert_eq!(route, Some(true), "what was good stays");
}

/// Routes come and go with their definitions, and with them the namespaces that know some.
#[test]
fn routes_are_known_while_the_api_server_serves_them() {
    let kind = RouteKind::HTTPRoute;
    let mut index = index();
    let told = |index: &mut Index, told: Told| index.take(&Scope::All, told);
    let event = |event: Event<DynamicObject>| Told::Route(kind, Box::new(event));
    let route = |prefix: &str| -> DynamicObject {
        object(json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"namespace": "shop", "name": "users", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"rules": [{"matches": [{"path": {"value": prefix}}]}]},
        }))
    };
    let known = |index: &Index| index.catalog("shop").routes.get(&kind).map(BTreeMap::len);
    let revision = index.revision();
    assert!(!told(&mut index, event(Event::Init)), "looked for");
    assert_eq!(index.revision(), revision, "and no status is another for that");
    told(&mut index, event(Event::InitApply(route("/a"))));
    assert_eq!(known(&index), None, "not all of them were listed");
    index.changed();
    told(&mut index, event(Event::InitDone));
    assert_eq!((known(&index), index.changed().len()), (Some(1), 1));
    assert!(!told(&mut index, event(Event::Apply(route("/a")))), "the same");
    assert!(told(&mut index, event(Event::Apply(route("/b")))));
    assert_eq!(index.changed(), BTreeSet::from(["shop".to_owned()]));
    assert!(told(&mut index, Told::Unserved(kind)));
    assert_eq!((known(&index), index.changed().len()), (None, 1));
    assert!(
        index.is_synced() && !told(&mut index, Told::Unserved(kind)),
        "nothing new"
    );
}
