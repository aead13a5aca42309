//! What a call costs before its body is read, in nanoseconds: finding its route, looking for a
//! reason to let it travel alone, writing its key. `cargo bench -p jitney-core --bench decide`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use jitney_core::batch::Limits;
use jitney_core::codec::{AnyCodec, KeyedGet, KeyedGetSettings};
use jitney_core::key::{KeyBuf, KeyRules, head_bypass, tenant, write_key};
use jitney_core::policy::{Mode, OnFailure, Policy, Timeouts, Traffic};
use jitney_core::route::{Head, PathMatch, Route, RouteId, RouteMatch, Template};

type Fault = Box<dyn std::error::Error>;

const ROUTES: [&str; 4] = [
    "/users/{id}",
    "/orders/{id}",
    "/v1/models/{id}:predict",
    "/items/{id}",
];

/// A head as a Go or Node client behind a tracing library sends it.
const FIELDS: [(&str, &str); 8] = [
    ("host", "users.shop.svc.cluster.local"),
    ("user-agent", "Go-http-client/1.1"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip"),
    (
        "authorization",
        "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    ),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("x-request-id", "6f2d1c1e-8b1a-4f57-9d8e-0c7a1b2f3d4e"),
    ("x-tenant", "blue"),
];

fn main() -> Result<(), Fault> {
    let routes = ROUTES
        .iter()
        .enumerate()
        .map(|(at, path)| route(at, path).map(Arc::new));
    let policy = Policy::new(1, Traffic::default(), routes.collect::<Result<_, Fault>>()?);
    let method = Method::GET;
    let (first, last) = (
        Uri::from_static("/users/4711?expand=team"),
        Uri::from_static("/items/4711"),
    );
    let miss = Uri::from_static("/health/ready");
    let mut headers = HeaderMap::new();
    for (name, value) in FIELDS {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head = |uri| Head {
        method: &method,
        uri,
        headers: &headers,
    };
    let hit = head(&first);
    let found = policy.route(&hit).ok_or("a route")?;
    let mut key = KeyBuf::new();

    println!("ns per call, {} routes, {} fields", ROUTES.len(), FIELDS.len());
    report("route, first", || drop(black_box(policy.route(black_box(&hit)))));
    report("route, last", || {
        drop(black_box(policy.route(black_box(&head(&last)))))
    });
    report("route, none", || {
        drop(black_box(policy.route(black_box(&head(&miss)))))
    });
    report("head_bypass", || {
        black_box(head_bypass(found.route, black_box(&hit)));
    });
    report("write_key", || {
        write_key(
            &mut key,
            found.route,
            black_box(&hit),
            &found.captures,
            Version::HTTP_11,
            b"/users?ids=",
            3,
        );
        black_box(key.as_bytes());
    });
    report("tenant", || {
        black_box(tenant(black_box(&headers)));
    });
    Ok(())
}

fn route(at: usize, path: &str) -> Result<Route, Fault> {
    let settings = KeyedGetSettings {
        variables: vec!["id".to_owned()],
        batch_path: "/batch?ids={id}".to_owned(),
        ..KeyedGetSettings::default()
    };
    let matches = RouteMatch {
        path: PathMatch::Template(Template::parse(path)?),
        ..RouteMatch::default()
    };
    Ok(Route {
        id: RouteId(u32::try_from(at)?),
        name: format!("shop/{at}").into(),
        policy: "shop".into(),
        generation: 1,
        matches: vec![matches],
        codec: AnyCodec::KeyedGet(KeyedGet::new(&settings)?),
        mode: Mode::Active,
        limits: Arc::new(Limits::default()),
        key: KeyRules::default(),
        on_failure: OnFailure::default(),
        timeouts: Timeouts::default(),
        priority_header: None,
    })
}

/// Prints the best of several rounds: the others had company.
fn report(name: &str, mut work: impl FnMut()) {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    let best = (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min);
    println!("{name:16}{best:8.0}");
}

const CALLS: u32 = 10_000;

const ROUNDS: u32 = 200;
