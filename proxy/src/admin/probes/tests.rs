//! Probes of a service, over sockets of its own.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A service that answers each connection with this, and keeps what it was asked.
async fn service(answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::default());
    let keeps: Arc<Mutex<Vec<String>>> = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            keeps
                .lock()
                .await
                .push(String::from_utf8(request).unwrap().to_lowercase());
            if answer.is_empty() {
                // It hangs for as long as it is waited for.
                drop(stream.read_u8().await);
            }
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    (port, asked)
}

fn probe(port: u16, more: &str) -> Probes {
    format!("{{\"users/liveness\": {{\"port\": {port}{more}}}}}")
        .parse()
        .unwrap()
}

async fn told(probes: &Probes) -> Result<(u16, String), String> {
    let mut by = HeaderMap::new();
    by.insert(HOST, HeaderValue::from_static("10.244.0.7:15020"));
    by.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    let asked = probes.0["users/liveness"].ask(&by).await;
    let asked = asked.map_err(|error| error.to_string())?;
    Ok((asked.0.as_u16(), String::from_utf8_lossy(&asked.1).into_owned()))
}

#[tokio::test]
async fn service_is_asked_as_kubelet_asks() {
    let (port, asked) = service("HTTP/1.1 503 x\r\ncontent-length: 8\r\n\r\nno disk\n").await;
    let probes = probe(
        port,
        r#", "path": "/live?deep=1", "headers": [{"name": "X-Key", "value": "a"}]"#,
    );
    assert_eq!(told(&probes).await, Ok((503, "no disk\n".to_owned())));
    let asked = asked.lock().await[0].clone();
    for line in [
        "get /live?deep=1 http/1.1",
        &format!("host: 10.244.0.7:{port}"),
        "user-agent: kube-probe/1.36",
        "x-key: a",
    ] {
        assert!(asked.lines().any(|one| one == line), "{line}: {asked}");
    }
}

#[tokio::test]
async fn own_host_comes_before_the_one_that_was_asked() {
    let (port, asked) = service("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let headers = [("Host", "users.example"), ("a", "1"), ("a", "2")];
    let headers = headers.map(|(name, value)| format!("{{\"name\": \"{name}\", \"value\": \"{value}\"}}"));
    let probes = probe(port, &format!(", \"headers\": [{}]", headers.join(", ")));
    assert_eq!(told(&probes).await, Ok((200, String::new())));
    let asked = asked.lock().await[0].clone();
    assert_eq!(asked.matches("host:").count(), 1, "{asked}");
    assert!(asked.contains("host: users.example"), "{asked}");
    assert!(asked.contains("a: 1\r\na: 2\r\n"), "{asked}");
}

#[tokio::test]
async fn what_is_not_answered_is_told() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let refused = told(&probe(nobody, "")).await.unwrap_err();
    assert!(refused.contains(&format!("port {nobody}")), "{refused}");

    let (gone, _) = service("HTTP").await;
    let broken = told(&probe(gone, "")).await.unwrap_err();
    assert!(broken.starts_with("no reply: "), "{broken}");

    let long = Box::leak(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{}",
            "x".repeat(99_999)
        )
        .into_boxed_str(),
    );
    let (port, _) = service(long).await;
    assert_eq!(told(&probe(port, "")).await, Ok((200, String::new())));
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_given_up() {
    let (port, _) = service("").await;
    let probes = probe(port, r#", "timeoutSeconds": 30"#);
    assert_eq!(probes.longest(), Duration::from_secs(30));
    assert_eq!(told(&probes).await, Err("no reply within 30s".to_owned()));
}

#[test]
fn kubelet_is_told_good_or_bad() {
    let of = |status: u16| Ok((StatusCode::from_u16(status).unwrap(), Bytes::new()));
    for (asked, expected) in [
        (of(204), 204),
        (of(302), 200),
        (of(404), 404),
        (of(503), 503),
        (Err(Unanswered::Timeout(Duration::from_secs(1))), 504),
        (
            Err(Unanswered::Connect(
                one(),
                io::ErrorKind::ConnectionRefused.into(),
            )),
            502,
        ),
    ] {
        assert_eq!(answer(asked).status().as_u16(), expected);
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for (text, expected) in [
        ("", "expected a map such as"),
        ("[]", "expected a map such as"),
        (r#"{"a/b": {}}"#, "missing field `port`"),
        (r#"{"a/b": {"port": 0}}"#, "nonzero"),
        (r#"{"a/b": {"port": 1, "host": "x"}}"#, "unknown field `host`"),
        (r#"{"a/b": {"port": 1, "path": "a b"}}"#, "path: found \"a b\""),
        (
            r#"{"a/b": {"port": 1, "headers": [{"name": "a b", "value": ""}]}}"#,
            "no field name",
        ),
        (
            r#"{"a/b": {"port": 1, "headers": [{"name": "a", "value": "\n"}]}}"#,
            "is no value",
        ),
        (r#"{"a/b": {"port": 1, "timeoutSeconds": 0}}"#, "nonzero"),
    ] {
        let told = text.parse::<Probes>().unwrap_err();
        assert!(told.contains(expected), "{text}: {told}");
    }
    let many: Vec<String> = (0..65).map(|at| format!("\"a/{at}\": {{\"port\": 1}}")).collect();
    let told = format!("{{{}}}", many.join(",")).parse::<Probes>().unwrap_err();
    assert_eq!(told, "found 65 probes, expected at most 64");
}
