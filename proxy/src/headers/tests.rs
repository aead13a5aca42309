//! Heads before and after.

use super::*;

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[track_caller]
fn check_strip(before: &[(&str, &str)], after: &[(&str, &str)]) {
    let mut headers = fields(before);
    strip(&mut headers, true);
    let mut left: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    // The order of different names says nothing; that of equal ones does.
    left.sort_by_key(|(name, _)| *name);
    assert_eq!(left, after);
}

#[test]
fn hop_by_hop_fields_go_and_others_stay_in_order() {
    check_strip(
        &[
            ("a", "1"),
            ("connection", "keep-alive, X-Hop"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("proxy-connection", "close"),
            ("te", "gzip"),
            ("a", ""),
            ("under_score", "2"),
            ("http2-settings", "AAA"),
            ("trailer", "x-t"),
            ("proxy-authorization", "Basic x"),
        ],
        &[("a", "1"), ("a", ""), ("trailer", "x-t"), ("under_score", "2")],
    );
    check_strip(&[("te", "gzip;q=0.5, trailers")], &[("te", "trailers")]);
}

#[test]
fn connection_removes_no_field_that_others_trust() {
    let trusted = [
        ("authorization", "Bearer t"),
        ("cookie", "a=b"),
        ("host", "shop"),
        ("content-type", "a/b"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-jitney-batch", "never"),
        ("x-api-key", "k"),
    ];
    let named = trusted.map(|(name, _)| name.to_ascii_uppercase()).join(" ,, ");
    let mut headers = fields(&trusted);
    headers.append(CONNECTION, HeaderValue::try_from(named).unwrap());
    strip(&mut headers, true);
    assert_eq!(headers, fields(&trusted));
}

#[test]
fn h2c_is_never_passed_on() {
    for (upgrade, expected) in [("websocket", true), ("h2c", false), ("websocket, H2C", false)] {
        let mut headers = fields(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", upgrade),
            ("http2-settings", "A"),
        ]);
        assert_eq!(strip(&mut headers, true).is_some(), expected, "{upgrade}");
        assert!(headers.is_empty());
    }
    let mut unnamed = fields(&[("upgrade", "websocket")]);
    assert_eq!(strip(&mut unnamed, true), None);
    assert!(unnamed.is_empty());
}

#[test]
fn hosts_are_judged_by_the_grammar() {
    for host in [
        "",
        "a",
        "a.b-c_d",
        "a:80",
        "a:",
        "[::1]",
        "[::1]:80",
        "127.0.0.1:65535",
        "xn--a",
    ] {
        assert!(is_host(host.as_bytes()), "{host:?}");
    }
    for host in [
        "a b", "a/b", "u@a", "a, b", "a:b", "a:65536", "[::1", "a:1:2", "a?b", "a#b", "\u{e9}",
    ] {
        assert!(!is_host(host.as_bytes()), "{host:?}");
    }
}

#[test]
fn the_authority_of_an_absolute_target_becomes_the_host() {
    let mut request = Request::builder()
        .uri("http://right:81/a%2Fb?c")
        .header("host", "wrong")
        .body(())
        .unwrap();
    to_http1(&mut request, &HeaderValue::from_static("fallback"));
    assert_eq!(request.uri(), "/a%2Fb?c");
    assert_eq!(request.headers(), &fields(&[("host", "right:81")]));
}

#[test]
fn heads_change_between_versions() {
    let mut request = Request::builder()
        .version(Version::HTTP_2)
        .uri("http://shop/a")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    to_http1(&mut request, &HeaderValue::from_static("fallback"));
    assert_eq!(
        request.headers(),
        &fields(&[("cookie", "a=1; b=2"), ("host", "shop")])
    );
    to_http2(&mut request, &HeaderValue::from_static("fallback"));
    assert_eq!(
        (request.uri().to_string().as_str(), request.headers().len()),
        ("http://shop/a", 1)
    );
    let mut without = Request::builder().uri("/a").body(()).unwrap();
    to_http1(&mut without, &HeaderValue::from_static("fallback"));
    assert_eq!(without.headers()[HOST], "fallback");
}

#[test]
fn what_te_says_is_for_the_next_hop_alone() {
    let connection = |te: Option<&'static str>| {
        let mut request = Request::get("http://a/");
        request = te.into_iter().fold(request, |request, te| request.header(TE, te));
        let mut request = request.version(Version::HTTP_2).body(String::new()).unwrap();
        outbound(&mut request);
        to_http1(&mut request, &HeaderValue::from_static("b"));
        let over_http1 = request.headers().get(CONNECTION).cloned();
        to_http2(&mut request, &HeaderValue::from_static("b"));
        assert_eq!(request.headers().get(CONNECTION), None);
        assert_eq!(request.headers().contains_key(TE), te == Some("trailers"));
        over_http1
    };
    assert_eq!(connection(Some("trailers")), Some(HeaderValue::from_static("te")));
    assert_eq!(connection(Some("gzip")), None);
    assert_eq!(connection(None), None);
}
