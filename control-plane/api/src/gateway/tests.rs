//! What is read of routes, and which of two matches has a call that both fit.

use serde_json::json;

use super::*;

fn read(kind: RouteKind, spec: &Value) -> MeshRoute {
    let metadata = json!({"name": "users", "creationTimestamp": "2026-01-01T00:00:00Z", "uid": "b7c1"});
    MeshRoute::read(kind, &json!({"metadata": metadata, "spec": spec}))
}

/// The only match of the only rule, as a policy would have it.
#[track_caller]
fn only(kind: RouteKind, rule: &Value) -> Value {
    let route = read(kind, &json!({"rules": [rule]}));
    let matches = route.rules[0].matches.as_ref().unwrap();
    assert_eq!(matches.len(), 1, "{matches:?}");
    serde_json::to_value(&matches[0].calls).unwrap()
}

#[track_caller]
fn fault(kind: RouteKind, rule: &Value) -> String {
    let route = read(kind, &json!({"rules": [rule]}));
    route.rules[0].matches.clone().unwrap_err()
}

#[test]
fn what_an_http_route_leaves_out_is_any_call() {
    let any = json!({"path": {"type": "PathPrefix", "value": "/"}});
    for rule in [json!({}), json!({"matches": []}), json!({"matches": [{}]})] {
        assert_eq!(only(RouteKind::HTTPRoute, &rule), any, "{rule}");
    }
    let without = read(
        RouteKind::HTTPRoute,
        &json!({"parentRefs": [], "hostnames": ["users.example"]}),
    );
    assert_eq!(without.rules.len(), 1, "the schema's default");
    assert_eq!(read(RouteKind::GRPCRoute, &json!({})).rules, []);
}

#[test]
fn of_fields_of_one_name_the_first_counts() {
    let field = |name: &str, value: &str| json!({"type": "Exact", "name": name, "value": value});
    let rule = json!({"matches": [{
        "method": "GET",
        "path": {"type": "Exact", "value": "/users"},
        "headers": [field("X-Beta", "1"), field("x-beta", "2")],
        "queryParams": [{"name": "v", "value": "2"}, field("V", "3"), field("v", "4")],
    }]});
    let mut expected = rule["matches"][0].clone();
    expected["headers"] = json!([field("X-Beta", "1")]);
    expected["queryParams"] = json!([field("v", "2"), field("V", "3")]);
    assert_eq!(only(RouteKind::HTTPRoute, &rule), expected);
}

#[test]
fn a_call_of_grpc_is_a_post_to_a_service_and_a_method() {
    for (method, kind, value) in [
        (json!(null), "PathPrefix", "/"),
        (json!({"service": "shop.Users"}), "PathPrefix", "/shop.Users"),
        (
            json!({"type": "Exact", "service": "shop.Users", "method": "Get"}),
            "Exact",
            "/shop.Users/Get",
        ),
        (json!({"method": "Get"}), "RegularExpression", "/[^/]+/Get"),
        (
            json!({"type": "RegularExpression", "service": "a|b"}),
            "RegularExpression",
            "/(?:a|b)/[^/]+",
        ),
    ] {
        let mut alternative = json!({"headers": [{"name": "x-beta", "value": "1"}]});
        if !method.is_null() {
            alternative["method"] = method;
        }
        let calls = only(RouteKind::GRPCRoute, &json!({"matches": [alternative]}));
        assert_eq!(calls["method"], "POST");
        assert_eq!(calls["path"], json!({"type": kind, "value": value}));
        assert_eq!(calls["headers"][0]["name"], "x-beta");
        assert_eq!(calls["headers"][1]["name"], "content-type");
    }
    let any = only(RouteKind::GRPCRoute, &json!({}));
    assert_eq!(any["path"], json!({"type": "PathPrefix", "value": "/"}));
}

/// Who reads less of a rule than it says takes calls that are not meant.
#[test]
fn what_cannot_be_read_is_a_fault_of_its_rule_alone() {
    use RouteKind::{GRPCRoute, HTTPRoute};
    for (kind, one, expected) in [
        (
            HTTPRoute,
            json!({"path": {"type": "Template", "value": "/{id}"}}),
            "path.type: found \"Template\"",
        ),
        (
            HTTPRoute,
            json!({"path": {"type": "RegularExpression", "value": "(" }}),
            "path.value: found \"(\"",
        ),
        (
            HTTPRoute,
            json!({"path": {"value": "users"}}),
            "path.value: found \"users\"",
        ),
        (
            HTTPRoute,
            json!({"headers": [{"type": "Present", "name": "a"}]}),
            "headers: found type \"Present\"",
        ),
        (HTTPRoute, json!({"cookies": []}), "unknown field `cookies`"),
        (
            GRPCRoute,
            json!({"method": {"type": "Prefix"}}),
            "unknown variant `Prefix`",
        ),
        (
            GRPCRoute,
            json!({"method": {"type": "RegularExpression", "service": "a)|(b"}}),
            "method.service: found \"a)|(b\"",
        ),
    ] {
        let told = fault(kind, &json!({"matches": [{}, one]}));
        assert!(told.starts_with(&format!("matches[1]: {expected}")), "{told}");
    }
    let route = read(HTTPRoute, &json!({"rules": [{"name": 7}, {"name": "good"}]}));
    assert!(
        route.rules[0].matches.is_err() && route.rules[1].matches.is_ok(),
        "{route:?}"
    );
    let whole = read(HTTPRoute, &json!({"parentRefs": {}}));
    assert_eq!((&*whole.name, whole.fault.is_some()), ("users", true));
    let many = json!({"rules": [{"matches": vec![json!({}); 128]}, {"name": "beyond"}]});
    let told = read(HTTPRoute, &many).rules[1].matches.clone().unwrap_err();
    assert_eq!(told, "the route has more than 128 matches");
}

#[test]
fn a_parent_is_a_service_of_the_same_namespace() {
    let parents = json!([
        {"name": "gateway"},
        {"group": "", "kind": "Service", "name": "users", "port": 80},
        {"group": "", "kind": "Service", "namespace": "shop", "name": "users", "sectionName": "http"},
        {"group": "", "kind": "Service", "namespace": "bank", "name": "users"},
        {"kind": "Service", "name": "users"},
    ]);
    let route = read(RouteKind::HTTPRoute, &json!({"parentRefs": parents}));
    let services: Vec<bool> = route
        .parents
        .iter()
        .map(|parent| parent.is_service("shop"))
        .collect();
    assert_eq!(services, [false, true, true, false, false]);
    assert_eq!(route.parents[0].to_string(), "Gateway gateway");
}

/// Each has what the one after it fits, too.
#[test]
fn the_more_precise_match_has_a_call_that_two_fit() {
    let http = |one: Value| {
        let route = read(RouteKind::HTTPRoute, &json!({"rules": [{"matches": [one]}]}));
        route.rules[0].matches.as_ref().unwrap()[0].precision
    };
    let grpc = |one: Value| {
        let route = read(RouteKind::GRPCRoute, &json!({"rules": [{"matches": [one]}]}));
        route.rules[0].matches.as_ref().unwrap()[0].precision
    };
    let path = |kind: &str, value: &str| json!({"type": kind, "value": value});
    let field = json!([{"name": "a", "value": "1"}]);
    let in_order = [
        grpc(json!({"method": {"service": "shop.Users", "method": "Get"}, "headers": field})),
        grpc(json!({"method": {"service": "shop.Users", "method": "Get"}})),
        grpc(json!({"method": {"service": "shop.Users"}, "headers": field})),
        grpc(json!({"method": {"type": "RegularExpression", "service": "shop.*"}})),
        grpc(json!({"method": {"method": "Get"}})),
        grpc(json!({})),
        http(json!({"path": path("Exact", "/a"), "method": "GET"})),
        http(json!({"path": path("Exact", "/a"), "headers": field, "queryParams": field})),
        http(json!({"path": path("Exact", "/a"), "headers": field})),
        http(json!({"path": path("Exact", "/a"), "queryParams": field})),
        http(json!({"path": path("Exact", "/a")})),
        http(json!({"path": path("RegularExpression", "/.*")})),
        http(json!({"path": path("PathPrefix", "/a/b")})),
        http(json!({"path": path("PathPrefix", "/a/"), "method": "GET"})),
        http(json!({"path": path("PathPrefix", "/a")})),
        http(json!({"headers": field})),
        http(json!({})),
    ];
    for pair in in_order.windows(2) {
        assert!(pair[0] > pair[1], "{pair:?}");
    }
    let slash = http(json!({"path": path("PathPrefix", "/a/")}));
    assert_eq!(
        slash,
        http(json!({"path": path("PathPrefix", "/a")})),
        "they mean the same"
    );
}

#[test]
fn equals_are_told_by_age_name_and_place() {
    let route = |name: &str, created: Option<&str>| {
        let metadata = json!({"name": name, "creationTimestamp": created});
        MeshRoute::read(RouteKind::HTTPRoute, &json!({"metadata": metadata}))
    };
    let [old, young] = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(Some);
    let routes = [
        route("z", old),
        route("a", young),
        route("b", young),
        route("a", None),
    ];
    let any = &routes[0].rules[0].matches.as_ref().unwrap()[0];
    let ranks = routes.iter().flat_map(|route| {
        let places = [[0, 0], [0, 1], [1, 0]];
        places.map(|place| route.rank(place, any))
    });
    let ranks: Vec<Rank<'_>> = ranks.collect();
    assert!(
        ranks.is_sorted() && ranks.windows(2).all(|pair| pair[0] != pair[1]),
        "{ranks:?}"
    );
}
