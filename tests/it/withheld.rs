//! Callers who withhold the bodies of their calls: no endpoint is blamed for it, and an upload may take its time.

use jitney_tests::upstream::Ending;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Reply, TestProxy, TestUpstream};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An upstream that answers whole calls at once, and those to `/hang` never.
async fn upstream() -> TestUpstream {
    TestUpstream::start(|seen| match &*seen.target {
        "/hang" => Reply::json(200, "").ending(Ending::Never),
        _ => Reply::json(200, format!("{}", seen.body.len())),
    })
    .await
}

async fn before(upstreams: &[&TestUpstream], traffic: &str) -> TestProxy {
    let settings = upstreams.iter().fold(TestProxy::with(), |settings, upstream| {
        settings.upstream(upstream.address)
    });
    let policy = format!("kind: BatchPolicy\nmetadata: {{name: users}}\nspec: {{traffic: {traffic}}}\n");
    settings.policy(policy).start().await
}

/// A call with a body of ten bytes, of which so many are sent.
async fn begun(proxy: &TestProxy, path: &str, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: users\r\ncontent-length: 10\r\n\r\n{sent}");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = [0; 1024];
    let length = timeout(PATIENCE, stream.read(&mut answer))
        .await
        .expect("an answer");
    String::from_utf8_lossy(&answer[..length.unwrap()]).into_owned()
}

async fn endpoints(proxy: &TestProxy) -> Vec<Value> {
    let shown: Value = serde_json::from_slice(&proxy.admin("/backends").await.body).unwrap();
    shown["backends"][0]["endpoints"].as_array().unwrap().clone()
}

const BREAKER: &str = "loadBalancer: {type: RoundRobin}, adaptiveConcurrency: {}, \
                       circuitBreaker: {consecutiveFailures: 3}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_is_taken_out_for_what_callers_withhold() {
    let (one, other) = (upstream().await, upstream().await);
    let traffic = format!("{{timeouts: {{request: 200ms}}, {BREAKER}}}");
    let proxy = before(&[&one, &other], &traffic).await;
    for _ in 0..4 {
        let mut withheld = Vec::new();
        for _ in 0..3 {
            withheld.push(begun(&proxy, "/", "abc").await);
        }
        for stream in &mut withheld {
            let answer = answer(stream).await;
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        }
    }
    for shown in endpoints(&proxy).await {
        assert_eq!(shown["is_healthy"], true, "{shown}");
        assert_eq!(shown["note"], "", "{shown}");
    }
    // Whoever has the whole of a call and is silent is at fault as before.
    for _ in 0..8 {
        let answer = answer(&mut begun(&proxy, "/hang", "0123456789").await).await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    }
    let shown = endpoints(&proxy).await;
    assert!(
        shown.iter().any(|shown| shown["is_healthy"] == false),
        "{shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_may_take_longer_than_a_try() {
    let (one, other) = (upstream().await, upstream().await);
    let traffic = format!("{{timeouts: {{perTry: 150ms}}, {BREAKER}}}");
    let proxy = before(&[&one, &other], &traffic).await;
    let mut upload = begun(&proxy, "/", "0123456").await;
    for piece in ["7", "8", "9"] {
        // Which takes as long as a try may.
        let answer = answer(&mut begun(&proxy, "/hang", "0123456789").await).await;
        assert!(
            answer.starts_with("HTTP/1.1 504 ") && answer.contains("try_timeout"),
            "{answer}"
        );
        upload.write_all(piece.as_bytes()).await.unwrap();
    }
    let answer = answer(&mut upload).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("10"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_of_either_version_is_blamed_for_uploads_that_break_off() {
    for protocol in ["HTTP1", "HTTP2"] {
        let (one, other) = (upstream().await, upstream().await);
        let config = format!(
            "kind: Listener\nmetadata: {{name: a}}\nspec: {{address: '127.0.0.1:0', backend: users}}\n---\n\
             kind: Backend\nmetadata: {{name: users}}\n\
             spec: {{endpoints: ['{}', '{}'], protocol: {protocol}}}\n---\n\
             kind: BatchPolicy\nmetadata: {{name: users}}\nspec: {{traffic: {{{BREAKER}}}}}\n",
            one.address, other.address
        );
        let proxy = TestProxy::with().config(config).start().await;
        for number in 1..=12 {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            let head = "PUT / HTTP/1.1\r\nhost: users\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let sent = async || {
                proxy
                    .metric("jitney_upstream_calls_total", "backend=\"users\"")
                    .await
            };
            while sent().await < f64::from(number) {}
            stream.write_all(b"no length of a chunk\r\n").await.unwrap();
            let answer = answer(&mut stream).await;
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && answer.contains("caller_gone"),
                "{protocol}: {answer}"
            );
        }
        for shown in endpoints(&proxy).await {
            assert_eq!(
                (&shown["is_healthy"], &shown["note"]),
                (&true.into(), &"".into()),
                "{protocol}: {shown}"
            );
        }
    }
}

/// The sidecar holds back what the caller waits to be asked for: that is no silence of the endpoint's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_its_caller_asks_about_may_take_longer_than_a_try() {
    let (one, other) = (upstream().await, upstream().await);
    let traffic = format!("{{timeouts: {{perTry: 150ms}}, {BREAKER}}}");
    let proxy = before(&[&one, &other], &traffic).await;
    for _ in 0..8 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = "PUT / HTTP/1.1\r\nhost: users\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 100 "));
        let hang = answer(&mut begun(&proxy, "/hang", "0123456789").await).await;
        assert!(hang.contains("try_timeout"), "{hang}");
        stream.write_all(b"0123456789").await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
