//! What was proven on a connection holds no longer than the certificate that proved it, and the root that signed that.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_tests::caller::{post, request};
use jitney_tests::issuing::Ca;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Caller, TestControlPlane, TestUpstream, model};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::issuer::{self, Callers};
use crate::mtls::{FRONT, STRICT, SWITCHING, echo, echoing, mesh, start};
use crate::plane::client::config;
use crate::pushed::free_ports;

/// A strict callee, and somebody who can sign for its callers.
struct Callee {
    address: SocketAddr,
    plane: TestControlPlane,
    root: Ca,
    _sidecar: jitney_tests::TestProxy,
}

impl Callee {
    async fn of(service: &str) -> Self {
        let ports = free_ports();
        let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let documents = mesh(service, ports, &address.to_string(), "mtls: Strict");
        let root = Ca::root("root");
        let plane = issuer::plane(&format!("{documents}{STRICT}"), &root.secret(&root)).await;
        let sidecar = start(&plane, "users", "users-1").await;
        Self {
            address,
            plane,
            root,
            _sidecar: sidecar,
        }
    }

    /// A front whose certificate is good for some seconds.
    fn front(&self) -> String {
        self.root
            .workload(FRONT, SystemTime::now() + Duration::from_secs(4))
    }

    async fn secured(&self, identity: &str, protocol: &str) -> TlsStream<TcpStream> {
        secured(&self.plane, self.address, identity, protocol).await
    }
}

/// A connection to a sidecar as whoever this is, PEM.
async fn secured(
    plane: &TestControlPlane,
    address: SocketAddr,
    identity: &str,
    protocol: &str,
) -> TlsStream<TcpStream> {
    let chain = CertificateDer::pem_slice_iter(identity.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.as_bytes()).unwrap();
    let roots = fs::read_to_string(plane.folder().join("state/roots.pem")).unwrap();
    let connector = TlsConnector::from(Arc::new(config(&roots, Some((chain, key)), protocol)));
    let stream = TcpStream::connect(address).await.unwrap();
    let nobody = ServerName::try_from("sidecar").unwrap();
    connector.connect(nobody, stream).await.unwrap()
}

async fn over_http1(stream: TlsStream<TcpStream>) -> Caller {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Caller::H1(sender)
}

async fn over_http2(stream: TlsStream<TcpStream>) -> Caller {
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = made.unwrap();
    tokio::spawn(connection);
    Caller::H2(sender)
}

/// Calls until the connection takes no more; every call that it takes is served. Whether its end was told in the
/// last reply.
async fn calls_until_it_ends(caller: &mut Caller) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut is_told = false;
    while let Ok(answer) = caller.call(request("GET", "http://users/users/7", &[], "")).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
        is_told = answer.header("connection") == "close";
        assert!(Instant::now() < end, "calls are let in for ever");
        sleep(Duration::from_millis(5)).await;
    }
    is_told
}

#[tokio::test]
async fn an_expired_certificate_lets_nobody_in_and_no_call_fails_before() {
    let users = TestUpstream::start(echo).await;
    let callee = Callee::of(&users.address.to_string()).await;
    let front = callee.front();
    let mut http1 = over_http1(callee.secured(&front, "jitney-http/1.1").await).await;
    let mut http2 = over_http2(callee.secured(&front, "jitney-h2").await).await;
    let (is_told, _) = tokio::join!(calls_until_it_ends(&mut http1), calls_until_it_ends(&mut http2));
    assert!(is_told, "the last reply says that it is the last");
    assert_eq!(users.seen()[0].header("x-jitney-client-id"), FRONT);
}

#[tokio::test]
async fn bytes_outlive_the_certificate_of_their_caller() {
    // Who speaks something else than HTTP cannot be told to come again, and a direct connection would not end.
    let (users, callee) = (
        TestUpstream::start(echo).await,
        Callee::of(&echoing().await).await,
    );
    let other = Callee::of(&users.address.to_string()).await;
    let front = callee.front();
    let mut connections = Vec::new();
    for (protocol, first) in [
        ("jitney-tcp", &b"\0some bytes"[..]),
        ("jitney-http/1.1", SWITCHING),
    ] {
        let mut stream = callee.secured(&front, protocol).await;
        stream.write_all(first).await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        connections.push(stream);
    }
    // Of another callee's caller, whose certificate ends later.
    let mut calls = over_http1(other.secured(&other.front(), "jitney-http/1.1").await).await;
    calls_until_it_ends(&mut calls).await;
    for mut stream in connections {
        stream.write_all(b"still here").await.unwrap();
        let mut read = [0; 10];
        timeout(PATIENCE, stream.read_exact(&mut read))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&read, b"still here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_dropped_lets_nobody_in_and_sidecars_move_on_without_a_lost_call() {
    let users = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
    let documents = mesh(
        &users.address.to_string(),
        ports,
        &address.to_string(),
        "mtls: Strict",
    );
    let plane = TestControlPlane::start(&format!("{documents}{STRICT}")).await;
    let callee = start(&plane, "users", "users-1").await;
    let front = start(&plane, "front", "front-1").await;
    let callers = Callers::of(&front);
    let kept = plane.folder().join("snapshots/front-1/identity.pem");
    let mut stolen =
        over_http2(secured(&plane, address, &fs::read_to_string(kept).unwrap(), "jitney-h2").await).await;
    let call = || request("GET", "http://users/users/7", &[], "");
    assert_eq!(stolen.call(call()).await.unwrap().text(), model::user("7", ""));
    for step in ["add", "switch", "drop"] {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            let answer = post(plane.admin, &format!("/trust/{step}"), "").await.unwrap();
            if answer.status == 200 {
                break;
            }
            assert!(Instant::now() < end, "{step}: {}", answer.text());
            sleep(Duration::from_millis(20)).await;
        }
    }
    let end = Instant::now() + PATIENCE;
    while stolen.call(call()).await.is_ok_and(|answer| answer.status == 200) {
        assert!(
            Instant::now() < end,
            "calls are let in for ever: {}",
            callee.log()
        );
        sleep(Duration::from_millis(5)).await;
    }
    callers.end().await;
    let taken = callee
        .metric("jitney_downstream_connections_total", "protocol=\"http2\"")
        .await;
    assert!(
        taken > 2.5,
        "the caller's sidecar has another connection: {taken}"
    );
}
