//! What a sidecar's listeners make of the heads of requests, as documents and flags say.

use http::Request;
use jitney_tests::caller::{self, Body};
use jitney_tests::upstream::{Reply, Seen};
use jitney_tests::wait::PATIENCE;
use jitney_tests::{TestProxy, TestUpstream};

/// What somebody claims about himself.
const CLAIMS: [(&str, &str); 4] = [
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-client-cert", "By=admin"),
    ("x-jitney-client-id", "spiffe://mesh/ns/shop/sa/admin"),
    ("x-request-id", "a1"),
];

fn ok(_: &Seen) -> Reply {
    Reply::json(200, "{}")
}

fn request(claims: &[(&str, &str)]) -> Request<Body> {
    caller::request("GET", "/", claims, "")
}

/// Two documents: a listener with these rules, and what it leads to.
fn documents(rules: &str, upstream: impl std::fmt::Display) -> String {
    format!(
        "kind: Listener\nmetadata: {{name: front}}\nspec: {{address: '127.0.0.1:0', headers: {rules}}}\n---\n\
         kind: Backend\nmetadata: {{name: back}}\nspec: {{endpoints: ['{upstream}']}}\n"
    )
}

#[tokio::test]
async fn a_listener_says_what_its_callers_may_claim() {
    let upstream = TestUpstream::start(ok).await;
    let rules = "{forwarded: Replace, requestId: Make, via: edge}";
    let proxy = TestProxy::with()
        .config(documents(rules, upstream.address))
        .start()
        .await;
    let answer = caller::call(proxy.address, request(&CLAIMS)).await.unwrap();
    assert_eq!(answer.status, 200);
    caller::call(proxy.address, request(&[])).await.unwrap();
    let [claimed, silent] = &upstream.seen()[..] else {
        panic!("{:?}", upstream.seen());
    };
    assert_eq!(claimed.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(claimed.header("x-forwarded-proto"), "http");
    assert_eq!(claimed.header("x-forwarded-host"), claimed.header("host"));
    assert_eq!(claimed.header("x-forwarded-client-cert"), "");
    assert_eq!(claimed.header("x-jitney-client-id"), "");
    assert_eq!(claimed.header("x-request-id"), "a1");
    assert_eq!(claimed.header("via"), "1.1 edge");
    assert_eq!(silent.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn by_default_all_passes_but_what_belongs_to_the_mesh() {
    let upstream = TestUpstream::start(ok).await;
    let proxy = TestProxy::with().upstream(upstream.address).start().await;
    caller::call(proxy.address, request(&CLAIMS)).await.unwrap();
    let seen = &upstream.seen()[0];
    for (name, value) in CLAIMS {
        let kept = if name.starts_with("x-jitney-") { "" } else { value };
        assert_eq!(seen.header(name), kept, "{name}");
    }
    assert!(!seen.headers.contains_key("via"));
    assert!(!seen.headers.contains_key("x-forwarded-proto"));
}

#[tokio::test]
async fn flags_say_so_for_their_listeners() {
    let upstream = TestUpstream::start(ok).await;
    let proxy = TestProxy::with().upstream(upstream.address);
    let flags = ["--forwarded", "append", "--request-id", "make", "--via", "edge"];
    let proxy = flags
        .iter()
        .fold(proxy, |proxy, flag| proxy.arg(*flag))
        .start()
        .await;
    caller::call(proxy.address, request(&CLAIMS)).await.unwrap();
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("x-forwarded-for"), "10.0.0.1, 127.0.0.1");
    assert_eq!(seen.header("x-forwarded-client-cert"), "By=admin");
    assert_eq!(seen.header("via"), "1.1 edge");
}

#[tokio::test]
async fn c04_connection_cannot_remove_what_a_listener_says() {
    let upstream = TestUpstream::start(ok).await;
    let rules = "{forwarded: Replace, requestId: Make, via: edge}";
    let proxy = TestProxy::with()
        .config(documents(rules, upstream.address))
        .start()
        .await;
    let named =
        "via, x-request-id, x-forwarded-for, x_forwarded_for, X-Forwarded-Host, x-jitney-batch, x-hop";
    let claims = [("connection", named), ("x-jitney-batch", "never"), ("x-hop", "1")];
    caller::call(proxy.address, request(&claims)).await.unwrap();
    let seen = &upstream.seen()[0];
    for name in [
        "via",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-jitney-batch",
    ] {
        assert!(seen.headers.contains_key(name), "{name}: {seen:?}");
    }
    assert!(!seen.headers.contains_key("x-hop"));
}

#[tokio::test]
async fn a_request_that_two_sidecars_pass_round_gets_508() {
    let upstream = TestUpstream::start(ok).await;
    let front = TestProxy::with()
        .config(documents("{via: front}", upstream.address))
        .start()
        .await;
    let back = TestProxy::with()
        .config(documents("{via: back}", front.address))
        .start()
        .await;
    let answer = caller::call(front.address, request(&[])).await.unwrap();
    assert_eq!(answer.status, 200);
    // From now on each leads to the other. The listener stays: its document is the same.
    std::fs::write(front.policy_path(), documents("{via: front}", back.address)).unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let looped = loop {
        let answer = caller::call(front.address, request(&[])).await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "it still passes");
    };
    assert_eq!(looped.status, 508);
    assert_eq!(looped.header("x-jitney-error"), "loop");
    assert!(front.metric("jitney_errors_total", "reason=\"loop\"").await >= 1.0);
}
