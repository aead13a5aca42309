//! What keys calls apart, what does not, and what travels alone by its head.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use proptest::prelude::*;

use super::*;
use crate::Bypass;
use crate::batch::Limits;
use crate::codec::{AnyCodec, JsonArray, JsonRpc, KeyedGet, KeyedGetSettings};
use crate::policy::{Mode, OnFailure, Replay};
use crate::route::tests::sample;
use crate::route::{PathMatch, RouteMatch, Template};

/// A call as a test writes it.
#[derive(Clone, Debug, PartialEq)]
struct Script {
    method: &'static str,
    uri: String,
    headers: Vec<(String, String)>,
    invariants: Vec<u8>,
    priority: u8,
    h2: bool,
}

fn script(uri: &str, headers: &[(&str, &str)]) -> Script {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let uri = uri.to_owned();
    Script {
        method: "GET",
        uri,
        headers,
        invariants: vec![],
        priority: 3,
        h2: false,
    }
}

fn users() -> Route {
    let path = PathMatch::Template(Template::parse("/{org}/users/{id}").unwrap());
    let mut route = sample(
        "users/0",
        vec![RouteMatch {
            path,
            ..RouteMatch::default()
        }],
    );
    route.codec = AnyCodec::KeyedGet(keyed_get("id"));
    route
}

fn keyed_get(item: &str) -> KeyedGet {
    KeyedGet::new(&KeyedGetSettings {
        variables: vec!["org".into(), "id".into()],
        item: Some(item.into()),
        batch_path: format!("/users?ids={{{item}}}"),
        key: Some("/id".into()),
        ..KeyedGetSettings::default()
    })
    .expect("a codec")
}

fn header_map(headers: &[(String, String)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        })
        .collect::<Vec<_>>()
        .into_iter()
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

fn key(route: &Route, call: &Script) -> Vec<u8> {
    let method = call.method.parse::<Method>().unwrap();
    let uri = call.uri.parse::<Uri>().unwrap();
    let headers = header_map(&call.headers);
    let head = Head {
        method: &method,
        uri: &uri,
        headers: &headers,
    };
    let captures = route.captures(&head).unwrap_or_default();
    let version = if call.h2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let mut buf = KeyBuf::new();
    // What was in the buffer before must not matter.
    buf.0.extend_from_slice(b"rubbish");
    write_key(
        &mut buf,
        route,
        &head,
        &captures,
        version,
        &call.invariants,
        call.priority,
    );
    buf.as_bytes().to_vec()
}

#[track_caller]
fn check_key(route: &Route, one: &Script, other: &Script, together: bool) {
    assert_eq!(
        key(route, one) == key(route, other),
        together,
        "{one:?} and {other:?}"
    );
}

#[test]
fn only_the_item_may_differ_in_the_target() {
    let route = users();
    let call = |uri: &str| script(uri, &[]);
    check_key(&route, &call("/a/users/1"), &call("/a/users/22"), true);
    check_key(&route, &call("/a/users/1?x=1"), &call("/a/users/2?x=1"), true);
    for other in [
        "/b/users/1",
        "/a/users/1?",
        "/a/users/1?x=1",
        "http://h/a/users/1",
        "https://h/a/users/1",
    ] {
        check_key(&route, &call("/a/users/1"), &call(other), false);
    }
    check_key(
        &route,
        &call("http://h/a/users/1"),
        &call("http://g/a/users/1"),
        false,
    );
    check_key(
        &route,
        &call("http://h/a/users/1"),
        &call("https://h/a/users/1"),
        false,
    );
    // An item that looks like another part of the path is still the one at its own place.
    check_key(&route, &call("/a/users/a"), &call("/a/users/users"), true);
    let whole = sample("users/0", vec![RouteMatch::default()]);
    check_key(&whole, &call("/a/users/1"), &call("/a/users/2"), false);
}

#[test]
fn fields_are_keyed_but_for_the_short_list() {
    let route = users();
    let plain = script("/a/users/1", &[]);
    for name in [
        "traceparent",
        "tracestate",
        "b3",
        "b3-x",
        "x-b3-traceid",
        "x-request-id",
        "content-length",
        "date",
    ] {
        check_key(&route, &plain, &script("/a/users/1", &[(name, "1")]), true);
    }
    for name in [
        "authorization",
        "cookie",
        "x-api-key",
        "user-agent",
        "x-forwarded-for",
        "accept",
        "accept-encoding",
        "baggage",
        "host",
        "content-type",
        "x-tenant",
        "b31",
        "te",
        "x-jitney-batch",
    ] {
        check_key(&route, &plain, &script("/a/users/1", &[(name, "1")]), false);
        check_key(&route, &plain, &script("/a/users/1", &[(name, "")]), false);
    }
    check_key(
        &route,
        &plain,
        &script("/a/users/1", &[("connection", "Keep-Alive")]),
        true,
    );
    check_key(
        &route,
        &plain,
        &script("/a/users/1", &[("connection", "x-tenant")]),
        false,
    );
}

#[test]
fn order_matters_among_values_of_one_name_only() {
    let route = users();
    let call = |headers: &[(&str, &str)]| script("/a/users/1", headers);
    let one = call(&[("a", "1"), ("b", "2"), ("a", "3")]);
    check_key(&route, &one, &call(&[("b", "2"), ("a", "1"), ("a", "3")]), true);
    check_key(&route, &one, &call(&[("a", "3"), ("b", "2"), ("a", "1")]), false);
    check_key(&route, &one, &call(&[("a", "1, 3"), ("b", "2")]), false);
}

#[test]
fn rules_leave_out_and_put_back() {
    let name = HeaderName::from_static;
    let mut route = users();
    let with = |headers: &[(&str, &str)]| script("/a/users/1", headers);
    route.key = KeyRules::new(
        Sharing::Strict,
        vec![name("x-request-id")],
        vec![name("user-agent")],
    )
    .unwrap();
    check_key(
        &route,
        &with(&[("user-agent", "a")]),
        &with(&[("user-agent", "b")]),
        true,
    );
    check_key(
        &route,
        &with(&[("x-request-id", "a")]),
        &with(&[("x-request-id", "b")]),
        false,
    );

    let identities = |route: &Route, together| {
        for field in CREDENTIALS {
            check_key(route, &with(&[(field, "a")]), &with(&[(field, "b")]), together);
        }
    };
    identities(&route, false);
    route.key = KeyRules::new(Sharing::Shared, vec![], vec![]).unwrap();
    identities(&route, true);
    route.key = KeyRules::new(Sharing::Shared, vec![name("cookie")], vec![]).unwrap();
    check_key(
        &route,
        &with(&[("cookie", "a")]),
        &with(&[("cookie", "b")]),
        false,
    );
}

#[test]
fn credentials_and_essentials_are_never_merely_ignored() {
    let ignore = |sharing, name| KeyRules::new(sharing, vec![], vec![HeaderName::from_static(name)]);
    assert!(matches!(
        ignore(Sharing::Strict, "cookie"),
        Err(KeyRulesError::Credential(_))
    ));
    assert!(ignore(Sharing::Shared, "cookie").is_ok());
    assert!(matches!(
        ignore(Sharing::Shared, "host"),
        Err(KeyRulesError::Essential(_))
    ));
    assert!(ignore(Sharing::Strict, "x-forwarded-for").is_ok());
}

#[test]
fn routes_generations_versions_and_priorities_do_not_mix() {
    let route = users();
    let call = script("/a/users/1", &[]);
    for other in [
        Route {
            generation: 2,
            ..users()
        },
        Route {
            name: "users/1".into(),
            ..users()
        },
        Route {
            codec: AnyCodec::KeyedGet(keyed_get("org")),
            ..users()
        },
    ] {
        assert_ne!(key(&route, &call), key(&other, &call));
    }
    check_key(
        &route,
        &call,
        &Script {
            h2: true,
            ..call.clone()
        },
        false,
    );
    check_key(
        &route,
        &call,
        &Script {
            priority: 4,
            ..call.clone()
        },
        false,
    );
    check_key(
        &route,
        &call,
        &Script {
            method: "POST",
            ..call.clone()
        },
        false,
    );
    check_key(
        &route,
        &call,
        &Script {
            invariants: vec![0],
            ..call.clone()
        },
        false,
    );
}

#[test]
fn a_key_reads_back_with_credentials_masked() {
    let call = Script {
        invariants: b"{\"a\":\n}".to_vec(),
        ..script(
            "http://h/a/users/1?x=1&access_token=hunter2",
            &[
                ("authorization", "Bearer hunter2"),
                ("x-session-id", "hunter2"),
                ("accept", "text/html, */*"),
                (CLIENT_ID, "spiffe://d/ns/shop/sa/cart"),
            ],
        )
    };
    let text = describe(&key(&users(), &call)).to_string();
    assert_eq!(
        text,
        "route=users/0 generation=0000000000000001 http=1 priority=3 method=GET scheme=http authority=h \
         path=/a/users/{} query=x=1&access_token=*** shared={\\\"a\\\":\\n} \
         accept='text/html, */*' authorization=*** x-jitney-client-id=spiffe://d/ns/shop/sa/cart x-session-id=***"
    );
    assert_eq!(describe(b"").parts, []);
    assert_eq!(describe(&[9; 40]).parts, []);
}

#[track_caller]
fn check_bypass(route: &Route, method: &str, uri: &str, headers: &[(&str, &str)], expected: Option<Bypass>) {
    let (method, uri) = (method.parse::<Method>().unwrap(), uri.parse::<Uri>().unwrap());
    let fields = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let headers = header_map(&fields.collect::<Vec<_>>());
    let head = Head {
        method: &method,
        uri: &uri,
        headers: &headers,
    };
    assert_eq!(head_bypass(route, &head), expected, "{head:?}");
}

#[test]
fn what_the_head_forbids_travels_alone() {
    let route = users();
    for (name, value, expected) in [
        ("idempotency-key", "1", Bypass::IdempotencyKey),
        ("signature", "sig1=:x:", Bypass::Signed),
        ("signature-input", "sig1=()", Bypass::Signed),
        ("x-hub-signature-256", "x", Bypass::Signed),
        ("content-digest", "sha-256=:x:", Bypass::Signed),
        ("dpop", "x", Bypass::Signed),
        ("authorization", "AWS4-HMAC-SHA256 Credential=x", Bypass::Signed),
        ("authorization", "DPoP x", Bypass::Signed),
        ("authorization", "dIgEsT username=x", Bypass::Signed),
        (
            "authorization",
            "OAuth oauth_nonce=\"1\", oauth_signature=\"x\"",
            Bypass::Signed,
        ),
        ("authorization", "TC3-HMAC-SHA256 Credential=x", Bypass::Signed),
        ("cache-control", "max-age=0, No-Transform", Bypass::NoTransform),
        ("expect", "100-continue", Bypass::Expect),
        ("range", "bytes=0-1", Bypass::Conditional),
        ("if-none-match", "*", Bypass::Conditional),
        ("if-modified-since", "x", Bypass::Conditional),
        ("upgrade", "websocket", Bypass::Upgrade),
        ("te", "trailers", Bypass::Trailers),
        ("te", "gzip;q=0.5, trailers;q=1", Bypass::Trailers),
        ("trailer", "x-sum", Bypass::Trailers),
        ("content-length", "1048577", Bypass::TooLarge),
        ("content-encoding", "gzip", Bypass::Coded),
        ("transfer-encoding", "gzip, chunked", Bypass::Coded),
        ("x-jitney-batch", "Never", Bypass::OptOut),
    ] {
        check_bypass(
            &route,
            "GET",
            "/a/users/1",
            &[("accept", "*/*"), (name, value)],
            Some(expected),
        );
    }
}

#[test]
fn what_only_looks_like_a_reason_is_none() {
    let route = users();
    for (name, value) in [
        ("authorization", "Bearer AWS4-HMAC-SHA256"),
        ("authorization", "OAuth 00Dx0"),
        ("authorization", "Basic eDp5"),
        ("cache-control", "no-cache"),
        ("content-length", "1048576"),
        ("content-length", "junk"),
        ("content-encoding", "identity"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("x-jitney-batch", "please"),
        ("x-request-id", "1"),
        ("iffy", "1"),
    ] {
        check_bypass(&route, "GET", "/a/users/1", &[(name, value)], None);
    }
    check_bypass(&route, "CONNECT", "h:1", &[], Some(Bypass::Upgrade));
    for signed in [
        "X-Amz-Signature=1",
        "a=1&sig=2",
        "Signature=x",
        "x-goog-signature=1",
    ] {
        check_bypass(
            &route,
            "GET",
            &format!("/a/users/1?{signed}"),
            &[],
            Some(Bypass::Signed),
        );
    }
    check_bypass(&route, "GET", "/a/users/1?q=sig=1&design=2", &[], None);
}

#[test]
fn unsafe_methods_need_leave_where_one_failure_is_everyones() {
    let all = AnyCodec::JsonArray(JsonArray::preset("kserve-v1").unwrap());
    let each = AnyCodec::JsonRpc(JsonRpc);
    let with = |codec, replay| Route {
        codec,
        on_failure: OnFailure {
            replay,
            ..OnFailure::default()
        },
        ..users()
    };
    for (codec, replay, method, expected) in [
        (
            all.clone(),
            Replay::Idempotent,
            "POST",
            Some(Bypass::NotReplayable),
        ),
        (all.clone(), Replay::Never, "POST", Some(Bypass::NotReplayable)),
        (all.clone(), Replay::Declared, "POST", None),
        (all, Replay::Never, "PUT", None),
        (each.clone(), Replay::Idempotent, "POST", None),
        (each, Replay::Never, "POST", None),
    ] {
        check_bypass(&with(codec, replay), method, "/a/users/1", &[], expected);
    }
}

#[test]
fn modes_decide_before_anything_else() {
    let headers = [("expect", "100-continue")];
    check_bypass(
        &Route {
            mode: Mode::Disabled,
            ..users()
        },
        "GET",
        "/",
        &headers,
        Some(Bypass::Disabled),
    );
    check_bypass(
        &Route {
            mode: Mode::Shadow,
            ..users()
        },
        "GET",
        "/",
        &headers,
        Some(Bypass::Expect),
    );
    check_bypass(
        &Route {
            mode: Mode::Shadow,
            ..users()
        },
        "GET",
        "/",
        &[],
        None,
    );
}

#[test]
fn priority_is_read_where_the_order_asks_for_it() {
    let of = |order, header: Option<&'static str>, fields: &[(&str, &str)]| {
        let limits = Arc::new(Limits {
            order,
            ..Limits::default()
        });
        let route = Route {
            limits,
            priority_header: header.map(HeaderName::from_static),
            ..users()
        };
        priority(&route, &header_map(&script("/", fields).headers))
    };
    assert_eq!(of(Order::Fifo, None, &[("priority", "u=1")]), 3);
    for (field, expected) in [
        ("u=1", 1),
        ("i, u=7", 7),
        ("5", 5),
        ("u=8", 3),
        ("", 3),
        ("u=12", 3),
        ("i", 3),
    ] {
        assert_eq!(
            of(Order::Priority, None, &[("priority", field)]),
            expected,
            "{field}"
        );
    }
    assert_eq!(
        of(
            Order::Priority,
            Some("x-class"),
            &[("priority", "u=1"), ("x-class", "0")]
        ),
        0
    );
    assert_eq!(of(Order::Priority, Some("x-class"), &[("priority", "u=1")]), 3);
}

#[test]
fn tenants_are_identities() {
    let of = |fields: &[(&str, &str)]| tenant(&header_map(&script("/", fields).headers));
    let anna = of(&[("authorization", "anna"), ("x-request-id", "1")]);
    assert_eq!(anna, of(&[("x-request-id", "2"), ("authorization", "anna")]));
    assert_ne!(anna, of(&[("authorization", "bert")]));
    let workload = of(&[("authorization", "anna"), (CLIENT_ID, "spiffe://x")]);
    assert_ne!(anna, workload);
    assert_eq!(
        workload,
        of(&[(CLIENT_ID, "spiffe://x"), ("x-api-key", "another")])
    );
    assert_ne!(workload, of(&[(CLIENT_ID, "spiffe://y")]));
}

/// Everything that a key must tell apart, in one comparable value.
fn keyed(call: &Script) -> impl PartialEq + std::fmt::Debug {
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in call
        .headers
        .iter()
        .filter(|(name, _)| name != "date" && name != "traceparent")
    {
        fields.entry(name.clone()).or_default().push(value.clone());
    }
    let (path, query) = match call.uri.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (&*call.uri, None),
    };
    let org = path.split('/').nth(1).map(str::to_owned);
    let rest = (call.method, org, query, call.invariants.clone());
    (rest, call.priority, call.h2, fields)
}

/// Calls that differ little, from an alphabet that invites confusion between neighbours.
fn calls() -> impl Strategy<Value = Script> {
    let text = "[ab\u{1}=,]{0,2}".prop_map(|text| text.replace('\u{1}', "\t"));
    let field = (
        prop_oneof![
            "[ab]{1,2}",
            Just("date".to_owned()),
            Just("traceparent".to_owned())
        ],
        text,
    );
    (
        prop_oneof![Just("GET"), Just("POST")],
        ("[ab]", "[abc]{1,2}", proptest::option::of("[ab=&]{0,2}")),
        proptest::collection::vec(field, 0..4),
        proptest::collection::vec(0_u8..3, 0..3),
        (0_u8..2, any::<bool>()),
    )
        .prop_map(
            |(method, (org, id, query), headers, invariants, (priority, h2))| Script {
                method,
                uri: format!(
                    "/{org}/users/{id}{}",
                    query.map(|query| format!("?{query}")).unwrap_or_default()
                ),
                headers,
                invariants,
                priority,
                h2,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn keys_are_equal_exactly_when_everything_keyed_is(one in calls(), other in calls()) {
        let route = users();
        prop_assert_eq!(key(&route, &one) == key(&route, &other), keyed(&one) == keyed(&other));
    }

    #[test]
    fn a_small_change_never_goes_unnoticed(one in calls(), other in calls(), part in 0..6) {
        let mut changed = one.clone();
        match part {
            0 => changed.method = other.method,
            1 => changed.uri = other.uri,
            2 => changed.headers.extend(other.headers),
            3 => changed.invariants = other.invariants,
            4 => changed.priority = other.priority,
            _ => changed.h2 = other.h2,
        }
        let route = users();
        prop_assert_eq!(key(&route, &one) == key(&route, &changed), keyed(&one) == keyed(&changed));
    }

    #[test]
    fn the_order_of_different_names_is_nothing(call in calls(), seed in any::<u64>()) {
        let mut moved = call.clone();
        let names = call.headers.iter().map(|(name, _)| name.clone()).collect::<std::collections::BTreeSet<_>>();
        moved.headers = names
            .iter()
            .cycle()
            .skip(usize::try_from(seed % 7).unwrap())
            .take(names.len())
            .flat_map(|name| call.headers.iter().filter(move |(other, _)| other == name).cloned())
            .collect();
        let route = users();
        prop_assert_eq!(key(&route, &call), key(&route, &moved));
    }

    #[test]
    fn describing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), call in calls()) {
        let _random = describe(&bytes);
        let whole = key(&users(), &call);
        for end in 0..whole.len() {
            let _cut = describe(&whole[..end]);
        }
    }
}
