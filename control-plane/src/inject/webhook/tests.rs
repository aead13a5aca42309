//! The webhook as the API server meets it: TLS, HTTP, JSON.

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::inject::tests::settings;
use crate::metrics::{Levels, Metrics};

/// Keeps authorities in memory.
#[derive(Default)]
struct Memory {
    kept: Mutex<Option<(Authorities, u32)>>,
    published: Mutex<String>,
    /// Another replica that is always first, so many times.
    rivals: Mutex<u32>,
    is_deaf: bool,
}

impl Keep for Memory {
    async fn load(&self) -> Result<Option<(Authorities, Version)>, KeepError> {
        let kept = self.kept.lock().clone();
        Ok(kept.map(|(kept, version)| (kept, Version(version.to_string()))))
    }

    async fn store(&self, authorities: &Authorities, version: Option<Version>) -> Result<bool, KeepError> {
        let mut kept = self.kept.lock();
        let present = kept.as_ref().map(|(_, version)| *version);
        let mut rivals = self.rivals.lock();
        if *rivals > 0 {
            *rivals -= 1;
            *kept = Some((
                Authorities::generate(SystemTime::now())?,
                present.unwrap_or(0) + 1,
            ));
            return Ok(false);
        }
        if version.map(|version| version.0) != present.map(|version| version.to_string()) {
            return Ok(false);
        }
        *kept = Some((authorities.clone(), present.unwrap_or(0) + 1));
        Ok(true)
    }

    async fn publish(&self, certificates: &str) -> Result<(), KeepError> {
        if self.is_deaf {
            return Err(KeepError::NoConfiguration("jitney-injector".to_owned()));
        }
        certificates.clone_into(&mut self.published.lock());
        Ok(())
    }
}

const NAME: &str = "jitney-control-plane.jitney-system.svc";

/// One that is served, and the metrics in which it counts.
async fn served(keeper: &Memory) -> (SocketAddr, Metrics, watch::Sender<bool>) {
    let (metrics, draining) = (Metrics::new(), watch::Sender::new(false));
    let webhook = Webhook::new(settings(&[]), metrics.counts.clone());
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(webhook.clone().serve(listener, draining.subscribe()));
    drop(webhook.look(keeper, NAME, SystemTime::now()).await);
    (address, metrics, draining)
}

/// Sends a request as somebody who believes what was published; gives status line and body.
async fn call(address: SocketAddr, roots: &str, path: &str, body: &str) -> (String, String) {
    let mut trusted = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        trusted.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // One that is too long is refused before it has ended.
    drop(stream.write_all(body.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn asked(labels: &Value) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": {"metadata": {"name": "users", "labels": labels}, "spec": {"containers": []}},
        },
    })
    .to_string()
}

/// Whoever opens connections and says nothing keeps the API server from none.
#[tokio::test]
async fn silent_connections_make_room() {
    let keeper = Memory::default();
    let (address, _, _draining) = served(&keeper).await;
    let roots = keeper.published.lock().clone();
    let mut silent = Vec::new();
    for _ in 0..=CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Sooner than any of these ends by itself.
    let question = asked(&json!({}));
    let called = call(address, &roots, FOR_ALL, &question);
    let (status, _) = timeout(HANDSHAKE - Duration::from_secs(1), called).await.unwrap();
    assert_eq!(status, "HTTP/1.1 200 OK");
    let mut first = silent.swap_remove(0);
    assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0, "the oldest has left");
}

#[tokio::test]
async fn api_server_is_answered_and_counted() {
    let keeper = Memory::default();
    let (address, metrics, draining) = served(&keeper).await;
    let roots = keeper.published.lock().clone();
    let (bare, wanted) = (asked(&json!({})), asked(&json!({"jitney.dev/inject": "enabled"})));
    for (path, body, is_patched) in [
        (FOR_ALL, &bare, true),
        (BY_THE_POD, &bare, false),
        (BY_THE_POD, &wanted, true),
    ] {
        let (status, body) = call(address, &roots, path, body).await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["response"]["uid"], "1");
        assert_eq!(answer["response"]["patch"].is_string(), is_patched, "{path}");
    }
    let bad = asked(&json!({"jitney.dev/inject": "on"}));
    let (_, denied) = call(address, &roots, FOR_ALL, &bad).await;
    assert!(denied.contains("expected enabled or disabled"), "{denied}");
    for (path, body, expected) in [
        (FOR_ALL, "{}".to_owned(), "HTTP/1.1 400 Bad Request"),
        (
            FOR_ALL,
            " ".repeat(BODY_MAX + 1),
            "HTTP/1.1 413 Payload Too Large",
        ),
        ("/", "{}".to_owned(), "HTTP/1.1 404 Not Found"),
    ] {
        let (status, _) = call(address, &roots, path, &body).await;
        assert_eq!(status, expected);
    }
    let counted = metrics.render(&Levels::default());
    for (outcome, count) in [("injected", 2), ("left", 1), ("denied", 1), ("failed", 1)] {
        let line = format!("jitney_injections_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(counted.contains(&line), "{line}{counted}");
    }
    draining.send_replace(true);
}

#[tokio::test]
async fn replicas_agree_on_one_authority() {
    let keeper = Memory {
        rivals: Mutex::new(2),
        ..Memory::default()
    };
    let now = SystemTime::now();
    let one = agreed(&keeper, now).await.unwrap();
    let other = agreed(&keeper, now).await.unwrap();
    assert!(one == other);
    let later = now + Duration::from_secs(300 * 24 * 3600);
    let keeper = Memory {
        kept: Mutex::new(Some((one.clone(), 7))),
        ..Memory::default()
    };
    let renewed = agreed(&keeper, later).await.unwrap();
    assert!(renewed.certificates().starts_with(&one.certificates()));
    assert!(agreed(&keeper, later).await.unwrap() == renewed);

    // Without end that would be a fault, not a loop.
    let keeper = Memory {
        kept: Mutex::new(Some((one, 7))),
        rivals: Mutex::new(u32::MAX),
        ..Memory::default()
    };
    let late = now + Duration::from_secs(800 * 24 * 3600);
    let contended = agreed(&keeper, late).await;
    assert!(matches!(contended, Err(KeepError::Contended)), "{contended:?}");
}

#[tokio::test]
async fn one_that_cannot_be_published_serves_all_the_same() {
    let keeper = Memory {
        is_deaf: true,
        ..Memory::default()
    };
    let (address, _metrics, _draining) = served(&keeper).await;
    let roots = keeper.kept.lock().clone().unwrap().0.certificates();
    let (status, _) = call(address, &roots, FOR_ALL, &asked(&json!({}))).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
}
