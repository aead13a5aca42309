//! Byte-exact or bypass: what a member says arrives as it was said, what comes back is a slice of
//! what the upstream said, and what must not be merged travels alone, untouched.

use jitney_tests::caller::{self, request};
use jitney_tests::{Reply, Route, TestProxy, TestUpstream, model, policy};

use crate::shared::{alone, instances, predict, predict_as, together};

/// Items that a decoder and encoder would change, lose or choke on.
const HOSTILE: &[&str] = &[
    "9007199254740993",
    "123456789012345678901234567890",
    "1.0",
    "-0",
    "-0.0",
    "1e400",
    "1E+2",
    "0.1000000000000000055511151231257827021181583404541015625",
    r#""a<b&c>d\u2028""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\u0000\/\"\\""#,
    "\"\u{2028}\u{feff}\u{1f600}\"",
    r#"{"z":1,"a":2,"m":3}"#,
    r#"{"a":1,"a":2}"#,
    r#"{ "x" :	[ 1 , 2 ] }"#,
    "[\n 1,\r\n 2 ]",
    "[]",
    "{}",
    "null",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    r#"{"":""}"#,
    r#"{"b64":"aGVsbG8="}"#,
    r#""],[{}""#,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_items_keep_their_bytes_alone_and_merged() {
    let upstream = TestUpstream::start(model::kserve).await;
    let single = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
    let merging = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(3)])).await;
    for item in HOSTILE {
        let body = format!("{{ \"instances\" :\t[{item}] }}");
        let direct = caller::call(upstream.address, predict(body.clone()))
            .await
            .unwrap();
        upstream.forget();
        let answer = alone(single.address, predict(body.clone())).await;
        assert_eq!(
            (answer.status, &answer.body),
            (direct.status, &direct.body),
            "{item} alone"
        );
        assert_eq!(
            upstream.seen()[0].text(),
            body,
            "{item}: a batch of one is the original request"
        );

        upstream.forget();
        let calls = ["1", item, "\"x\""].map(|item| predict(format!("{{ \"instances\" :\t[{item}] }}")));
        let answers = together(merging.address, calls.into()).await;
        assert_eq!(
            (answers[1].status, &answers[1].body),
            (direct.status, &direct.body),
            "{item} merged"
        );
        let seen = upstream.seen();
        assert_eq!(seen.len(), 1, "{item} was not merged");
        let sent = model::elements(&seen[0].body, b"\"instances\"").unwrap();
        assert!(
            sent.contains(&item.as_bytes()),
            "{item} became {}",
            seen[0].text()
        );
        assert!(
            seen[0].text().starts_with("{ \"instances\" :\t["),
            "{}",
            seen[0].text()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18f_what_does_not_parse_passes_untouched() {
    let upstream = TestUpstream::start(|seen| Reply::json(200, seen.body.clone())).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    let nested = format!("{{\"instances\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let bodies: &[&[u8]] = &[
        b"not json",
        b"{\"instances\":[1]",
        b"{\"instances\":[\"\xff\xfe\"]}",
        b"{\"instances\":[1],\"instances\":[2]}",
        b"{\"instances\":[1],\"inst\\u0061nces\":[2]}",
        b"{\"instances\":[1,]}",
        b"{\"instances\":[01]}",
        b"{\"instances\":[NaN]}",
        b"{\"instances\":[1]} trailing",
        b"\xef\xbb\xbf{\"instances\":[1]}",
        b"{\"inputs\":[1]}",
        b"{\"instances\":[]}",
        b"{\"instances\":{}}",
        b"[]",
        b"",
        nested.as_bytes(),
    ];
    for body in bodies {
        let answer = alone(proxy.address, predict(body.to_vec())).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!((answer.status, &answer.body[..]), (200, *body), "{shown}");
    }
    let seen = upstream.seen();
    assert!(
        seen.iter().map(|seen| &seen.body[..]).eq(bodies.iter().copied()),
        "each once, in order, untouched"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_say_so_travel_alone_and_untouched() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    let fields = [
        ("idempotency-key", "k1"),
        ("signature-input", "sig1=()"),
        ("signature", "sig1=:AA==:"),
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00",
        ),
        ("dpop", "eyJ0eXAiOiJkcG9wK2p3dCJ9.e30.AA"),
        ("cache-control", "max-age=0, No-Transform"),
        ("range", "bytes=0-1"),
        ("if-match", "\"a\""),
        ("if-none-match", "*"),
        ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("content-encoding", "gzip"),
        ("x-jitney-batch", "never"),
    ];
    for (name, value) in fields {
        upstream.forget();
        let body = "{\"instances\" : [1]}";
        let headers = [("content-type", "application/json"), (name, value)];
        let answer = alone(
            proxy.address,
            request("POST", "/v1/models/m:predict", &headers, body),
        )
        .await;
        assert_eq!(answer.status, 200, "{name}");
        let seen = upstream.seen();
        assert_eq!(
            (seen.len(), seen[0].text().as_str(), seen[0].header(name)),
            (1, body, value),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_reaches_the_upstream_as_it_came() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("authorization", "Bearer t1"),
        ("x-tenant", "acme"),
        ("x-two", "1"),
        ("x-two", "2"),
        ("x_under", "score"),
        ("x-empty", ""),
        ("accept", "application/json"),
        ("baggage", "a=b"),
    ];
    let target = "/v1/models/m%20x:predict?version=3&q=%2F%2f&flag";
    let call = |item: &str, id: &str| {
        let mut headers = headers.to_vec();
        headers.push(("x-request-id", id));
        request("POST", target, &headers, instances(&[item]))
    };
    let answers = together(proxy.address, vec![call("1", "r1"), call("2", "r2")]).await;
    assert_eq!(answers[1].text(), model::predictions(&["2"], "Bearer t1"));
    let seen = upstream.seen();
    assert_eq!((seen.len(), seen[0].target.as_str()), (1, target));
    for (name, _) in headers {
        let wanted: Vec<&str> = headers
            .iter()
            .filter(|(other, _)| *other == name)
            .map(|(_, value)| *value)
            .collect();
        let found: Vec<&str> = seen[0]
            .headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
    assert_eq!(seen[0].header("host"), "service.test");
    let gained = seen[0]
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| {
            let known = headers.iter().any(|(other, _)| other == name);
            !known
                && !matches!(
                    *name,
                    "host"
                        | "content-length"
                        | "x-request-id"
                        | "traceparent"
                        | "tracestate"
                        | "via"
                        | "forwarded"
                )
        });
    let gained: Vec<&str> = gained
        .filter(|name| !name.starts_with("x-forwarded-") && !name.starts_with("x-jitney-"))
        .collect();
    assert!(gained.is_empty(), "the upstream got {gained:?} that nobody sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_whatever_differs_keeps_calls_apart() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let json = ("content-type", "application/json");
    let path = "/v1/models/m:predict";
    let body = || instances(&["1"]);
    let other = |path: &str, more: &[(&str, &str)], body: String| {
        request("POST", path, &[&[json], more].concat(), body)
    };
    // Each pair of equal calls fills a batch of two; nothing else may join it.
    let kinds: Vec<Box<dyn Fn() -> http::Request<caller::Body>>> = vec![
        Box::new(|| other(path, &[], body())),
        Box::new(|| other(path, &[("authorization", "Bearer a")], body())),
        Box::new(|| other(path, &[("authorization", "Bearer b")], body())),
        Box::new(|| other(path, &[("cookie", "s=1")], body())),
        Box::new(|| other(path, &[("x-api-key", "k")], body())),
        Box::new(|| other(path, &[("x-tenant", "a")], body())),
        Box::new(|| other(path, &[("x-tenant", "")], body())),
        Box::new(|| other(path, &[("accept", "text/html")], body())),
        Box::new(|| other(path, &[("user-agent", "a")], body())),
        Box::new(|| other("/v1/models/other:predict", &[], body())),
        Box::new(|| other("/v1/models/m:predict?v=1", &[], body())),
        Box::new(|| other("/v1/models/m:predict?", &[], body())),
        Box::new(|| other(path, &[], r#"{"instances":[1],"signature_name":"s"}"#.to_owned())),
        Box::new(|| other(path, &[], r#"{"signature_name":"s","instances":[1]}"#.to_owned())),
        Box::new(|| {
            request(
                "POST",
                path,
                &[("content-type", "application/json;charset=utf-8")],
                body(),
            )
        }),
        Box::new(|| other(path, &[("host", "elsewhere.test")], body())),
    ];
    let calls = kinds
        .iter()
        .map(|kind| kind())
        .chain(kinds.iter().map(|kind| kind()))
        .collect();
    let answers = together(proxy.address, calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(upstream.seen().len(), kinds.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_context_does_not_keep_calls_apart() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let call = |digit: &str| {
        let parent = format!("00-{}-{}-01", digit.repeat(32), digit.repeat(16));
        let headers = [
            ("content-type", "application/json"),
            ("traceparent", parent.as_str()),
            ("tracestate", digit),
            ("x-request-id", digit),
            ("x-b3-traceid", digit),
            ("b3", digit),
        ];
        request("POST", "/v1/models/m:predict", &headers, instances(&[digit]))
    };
    let answers = together(proxy.address, vec![call("1"), call("2")]).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18a_identities_are_merged_only_when_the_route_says_so() {
    let upstream = TestUpstream::start(model::kserve).await;
    let route = Route::kserve().fixed(2).line("key: {identity: Shared}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    let calls = vec![
        predict_as("Bearer a", instances(&["1"])),
        predict_as("Bearer b", instances(&["2"])),
    ];
    let answers = together(proxy.address, calls).await;
    assert_eq!(
        (upstream.seen().len(), answers[0].status, answers[1].status),
        (1, 200, 200)
    );
    let said = proxy.log();
    assert!(said.contains("identity: Shared"), "it is logged: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_gets_come_back_by_their_keys() {
    let upstream = TestUpstream::start(model::users).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::users().fixed(7)])).await;
    let get = |id: &str| {
        request(
            "GET",
            &format!("/users/{id}"),
            &[("accept", "application/json")],
            "",
        )
    };
    // A double, an unknown one, an alias (007 is not 7), and ids that must stay encoded.
    let ids = ["7", "7", "none1", "007", "a%20b", "x%2Cy", "%41"];
    let answers = together(proxy.address, ids.map(get).into()).await;
    let alone: Vec<String> = upstream
        .seen_at("/users/")
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(
        alone,
        ["/users/none1"],
        "only what the reply lacks is asked alone"
    );
    for (id, answer) in ids.iter().zip(&answers) {
        let direct = caller::call(upstream.address, get(id)).await.unwrap();
        assert_eq!(
            (answer.status, answer.text()),
            (direct.status, direct.text()),
            "{id}"
        );
    }
    let merged = upstream.seen_at("/users?ids=");
    assert_eq!(merged.len(), 1, "{:?}", upstream.seen());
    let mut asked: Vec<&str> = merged[0].target["/users?ids=".len()..].split(',').collect();
    asked.sort_unstable();
    assert_eq!(
        asked,
        ["%41", "007", "7", "a%20b", "none1", "x%2Cy"],
        "each id once, as it was written"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_get_keeps_the_query_and_sends_a_raw_comma_alone() {
    let upstream = TestUpstream::start(model::users).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::users().fixed(2)])).await;
    let get = |target: &str| request("GET", target, &[], "");
    let calls = vec![get("/users/1?fields=a%2Cb&x"), get("/users/2?fields=a%2Cb&x")];
    let answers = together(proxy.address, calls).await;
    assert_eq!(
        (answers[0].text(), answers[1].text()),
        (model::user("1", ""), model::user("2", ""))
    );
    let seen = upstream.seen();
    let either = ["/users?ids=1,2&fields=a%2Cb&x", "/users?ids=2,1&fields=a%2Cb&x"];
    assert!(
        seen.len() == 1 && either.contains(&seen[0].target.as_str()),
        "{seen:?}"
    );
    let answer = alone(proxy.address, get("/users/3,4")).await;
    assert_eq!(answer.text(), model::user("3,4", ""));
    assert_eq!(upstream.seen().last().unwrap().target, "/users/3,4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpc_ids_come_back_as_they_were_sent() {
    let upstream = TestUpstream::start(model::json_rpc).await;
    let ids = [
        "1",
        "1",
        "1.0",
        "\"1\"",
        "\"\\u0031\"",
        "-0",
        "1e0",
        "\"\"",
        "9007199254740993",
        "\"a b\"",
    ];
    let proxy = TestProxy::start(
        upstream.address,
        &policy::active(&[Route::json_rpc().fixed(ids.len())]),
    )
    .await;
    let call = |id: &str, at: usize| {
        let method = if at == 3 { "fail" } else { "echo" };
        let body = format!(r#"{{ "jsonrpc":"2.0", "id" : {id}, "method":"{method}","params":[1.0,{at}]}}"#);
        request("POST", "/rpc", &[("content-type", "application/json")], body)
    };
    let calls = ids.iter().enumerate().map(|(at, id)| call(id, at)).collect();
    let answers = together(proxy.address, calls).await;
    assert_eq!(upstream.seen().len(), 1);
    for (at, id) in ids.iter().enumerate() {
        let direct = caller::call(upstream.address, call(id, at)).await.unwrap();
        assert_eq!(
            (answers[at].status, answers[at].text()),
            (direct.status, direct.text()),
            "id {id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpc_calls_that_cannot_be_told_apart_travel_alone() {
    let upstream = TestUpstream::start(model::json_rpc).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::json_rpc().fixed(9)])).await;
    let bodies = [
        r#"{"jsonrpc":"2.0","method":"echo"}"#,
        r#"{"jsonrpc":"2.0","method":"echo","id":null}"#,
        r#"{"jsonrpc":"2.0","method":"echo","id":true}"#,
        r#"{"jsonrpc":"2.0","method":"echo","id":[1]}"#,
        r#"{"jsonrpc":"2.0","method":"echo","id":{}}"#,
        r#"{"jsonrpc":"2.0","method":"echo","id":1,"i\u0064":2}"#,
        r#"{"jsonrpc":"1.0","method":"echo","id":1}"#,
        r#"{"jsonrpc":"2.0","method":7,"id":1}"#,
        "[]",
        "7",
    ];
    for body in bodies {
        upstream.forget();
        let call = || request("POST", "/rpc", &[("content-type", "application/json")], body);
        let answer = alone(proxy.address, call()).await;
        let seen = upstream.seen();
        assert_eq!((seen.len(), seen[0].text().as_str()), (1, body));
        let direct = caller::call(upstream.address, call()).await.unwrap();
        assert_eq!(
            (answer.status, answer.text()),
            (direct.status, direct.text()),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18i_only_listed_reply_fields_fan_out() {
    let upstream = TestUpstream::start(|seen| {
        let secret = [
            "etag",
            "location",
            "www-authenticate",
            "set-cookie",
            "x-only-mine",
        ];
        let reply = model::kserve(seen).header("content-language", "en");
        secret
            .iter()
            .fold(reply, |reply, name| reply.header(name, "secret"))
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let answers = together(
        proxy.address,
        vec![predict(instances(&["1"])), predict(instances(&["2"]))],
    )
    .await;
    for answer in &answers {
        for name in ["etag", "location", "www-authenticate", "set-cookie"] {
            assert!(
                !answer.headers.contains_key(name),
                "{name} was given to every member"
            );
        }
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, "application/json")
        );
    }
    // A cookie on a batch reply marks the route: from now on everybody travels alone, and whole.
    upstream.forget();
    let answer = alone(proxy.address, predict(instances(&["3"]))).await;
    assert_eq!(
        (answer.header("set-cookie"), answer.header("etag")),
        ("secret", "secret")
    );
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18d_caps_are_kept_and_a_call_above_them_is_divided_or_goes_alone() {
    let upstream =
        TestUpstream::start(|seen| model::kserve(seen).after(std::time::Duration::from_millis(10))).await;
    let route = Route::kserve().line("batch: {maxSize: 8, maxBytes: 400}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = format!("\"{}\"", "y".repeat(500));
    let answer = alone(proxy.address, predict(instances(&many))).await;
    assert_eq!(answer.text(), model::predictions(&many, ""));
    let mut sizes: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| model::elements(&seen.body, b"\"instances\"").unwrap().len())
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 8, 8], "twenty items under maxSize 8");
    upstream.forget();
    let answer = alone(proxy.address, predict(instances(&[&long]))).await;
    assert_eq!(answer.text(), model::predictions(&[&long], ""));
    assert_eq!(
        upstream.seen().len(),
        1,
        "one item above maxBytes cannot be divided"
    );
    upstream.forget();
    let item = format!("\"{}\"", "x".repeat(60));
    let calls = (0..60).map(|_| predict(instances(&[&item, "1", "2"]))).collect();
    let answers = together(proxy.address, calls).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.text() == model::predictions(&[&item, "1", "2"], ""))
    );
    for seen in upstream.seen() {
        let items = model::elements(&seen.body, b"\"instances\"").unwrap().len();
        assert!(
            items <= 8 && seen.body.len() <= 400,
            "{items} items, {} bytes",
            seen.body.len()
        );
    }
}
