//! Policies as the proxy is handed them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};

use super::*;
use crate::codec::{AnyCodec, KeyedGet, KeyedGetSettings};
use crate::route::RouteMatch;
use crate::route::tests::sample;
use crate::route::{PathMatch, Template};

fn check(routes: Vec<Route>, method: &Method, uri: &str, expected: &str) {
    let policy = Policy::new(1, Traffic::default(), routes.into_iter().map(Arc::new).collect());
    let (uri, headers) = (uri.parse::<Uri>().unwrap(), HeaderMap::new());
    let head = Head {
        method,
        uri: &uri,
        headers: &headers,
    };
    let explanation = explain(&policy, &head, &Bytes::new(), Version::HTTP_11);
    // What the codec adds to a key is its own affair.
    let text = explanation.to_string();
    let text = text.lines().filter(|line| !line.starts_with("  shared:"));
    assert_eq!(text.map(|line| format!("{line}\n")).collect::<String>(), expected);
}

#[test]
fn an_explanation_says_what_happens_and_why() {
    let path = PathMatch::Template(Template::parse("/users/{id}").unwrap());
    let mut route = sample(
        "users/by-id",
        vec![RouteMatch {
            path,
            ..RouteMatch::default()
        }],
    );
    let settings = KeyedGetSettings {
        variables: vec!["id".into()],
        batch_path: "/users?ids={id}".into(),
        ..KeyedGetSettings::default()
    };
    route.codec = AnyCodec::KeyedGet(KeyedGet::new(&settings).unwrap());
    check(
        vec![],
        &Method::GET,
        "/users/7",
        "route: none\nbypass: no route matches\n",
    );
    check(
        vec![Route {
            mode: Mode::Disabled,
            ..route.clone()
        }],
        &Method::GET,
        "/users/7",
        "route: users/by-id\ncodec: keyedGet\nmode: Disabled\nbypass: disabled\n",
    );
    check(
        vec![route],
        &Method::GET,
        "/users/7",
        "route: users/by-id\ncodec: keyedGet\nmode: Active\nitems: 1\nbytes: 2\nkey:\n  route: users/by-id\n  \
         generation: 0000000000000001\n  http: 1\n  priority: 3\n  method: GET\n  path: /users/{}\n",
    );
}

#[test]
fn replay_follows_the_method_unless_declared() {
    let may = |replay, method: Method| {
        OnFailure {
            replay,
            ..OnFailure::default()
        }
        .may_replay(&method)
    };
    assert!(may(Replay::Idempotent, Method::PUT) && may(Replay::Declared, Method::POST));
    assert!(!may(Replay::Idempotent, Method::POST) && !may(Replay::Never, Method::GET));
}

#[test]
fn a_route_is_for_the_calls_that_its_claim_has_and_no_others() {
    let any = |name: &str| Arc::new(sample(name, vec![RouteMatch::default()]));
    let below = |prefix: &str| {
        let path = PathMatch::prefix(prefix);
        Arc::new(RouteMatch {
            path,
            ..RouteMatch::default()
        })
    };
    let claim = |prefix: &str, routes| Claim {
        calls: below(prefix),
        routes,
    };
    let claims = Claims {
        claims: [
            claim("/users/me", 0..0),
            claim("/users", 1..3),
            claim("/orders", 2..9),
        ]
        .into(),
        unclaimed: 0..1,
    };
    let routes = vec![any("rest"), any("users"), any("more")];
    let policy = Policy::new(1, Traffic::default(), routes).with_claims(Some(claims));
    for (path, expected) in [
        ("/users/7", Some("users")),
        // Claimed for no route at all.
        ("/users/me", None),
        // For routes that are not there.
        ("/orders/1", None),
        ("/else", Some("rest")),
    ] {
        let (uri, headers) = (path.parse::<Uri>().unwrap(), HeaderMap::new());
        let head = Head {
            method: &Method::GET,
            uri: &uri,
            headers: &headers,
        };
        let found = policy.route(&head);
        assert_eq!(found.as_ref().map(|found| &*found.route.name), expected, "{path}");
    }
}
