//! Callers who connect and say nothing, and what that costs the service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jitney_tests::caller::{Caller, request};
use jitney_tests::{TestProxy, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A service that answers whoever speaks, and counts who is connected.
struct Service {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    most_silent: Arc<AtomicUsize>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let [accepted, most_silent, silent] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let (counted, most) = (Arc::clone(&accepted), Arc::clone(&most_silent));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(silent.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let silent = Arc::clone(&silent);
                tokio::spawn(async move {
                    let mut read = [0; 1024];
                    let mut length = stream.read(&mut read).await.unwrap_or(0);
                    silent.fetch_sub(1, Ordering::SeqCst);
                    while length > 0 {
                        let reply: &[u8] = match read[0] {
                            b'G' => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                            _ => b"heard",
                        };
                        stream.write_all(reply).await?;
                        length = stream.read(&mut read).await?;
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self {
            address,
            accepted,
            most_silent,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent
}

#[tokio::test]
async fn callers_who_say_nothing_open_few_connections_and_not_for_long() {
    const SILENT: usize = 6;
    let (any, http) = (Service::start().await, Service::start().await);
    let policy =
        "kind: BatchPolicy\nmetadata: {name: a}\nspec: {traffic: {circuitBreaker: {maxRequests: 2}}}\n";
    let before_any = TestProxy::start(any.address, policy).await;
    let before_http = TestProxy::with()
        .upstream(http.address)
        .arg("--upstream-protocol")
        .arg("http1")
        .start()
        .await;
    let mut of_any = silent(before_any.address, SILENT).await;
    let mut of_http = silent(before_http.address, SILENT).await;
    wait::until("some are listened for", || any.accepted() == 2).await;
    // They keep no call out, though there are as many as there may be calls.
    let mut caller = Caller::h1(before_any.address).await.unwrap();
    let answer = caller.call(request("GET", "/", &[], "")).await.unwrap();
    assert_eq!(answer.status, 200);
    // Others have their turn when the first have been listened for long enough, and the last ones have waited for it.
    wait::until("others have their turn", || any.accepted() > 4).await;
    assert!(
        any.most_silent.load(Ordering::SeqCst) <= 3,
        "with the one that called"
    );
    assert_eq!(http.accepted(), 0, "it is said to speak HTTP");
    // Whoever speaks late is served, in whatever protocol.
    for (late, sent) in [
        (&mut of_any, &b"\0\0\0\x08some bytes"[..]),
        (&mut of_http, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let mut stream = late.swap_remove(0);
        stream.write_all(sent).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        assert!(heard == *b"heard" || heard == *b"HTTP/", "{heard:?}");
    }
}

/// A server that speaks first.
async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello").await?;
                stream.read(&mut [0; 16]).await
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_on_whose_port_nobody_looks_at_what_is_spoken_is_heard_first() {
    let service = greeter().await;
    let before = async |more: &str| {
        let config = format!(
            "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['{service}']{more}}}\n---\n\
             kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '127.0.0.1:0', backend: users}}\n---\n\
             kind: Runtime\nmetadata: {{name: users}}\nspec: {{mtls: {{mode: Permissive}}}}\n"
        );
        TestProxy::with().config(config).start().await
    };
    let (looked_at, passed_on) = (before("").await, before(", protocol: TCP").await);
    let mut waits = TcpStream::connect(looked_at.address).await.unwrap();
    let hears = async {
        // Each would wait as long.
        for _ in 0..3 {
            let mut heard = [0; 5];
            let mut stream = TcpStream::connect(passed_on.address).await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        }
    };
    let mut late = [0; 5];
    // Where somebody looks, the caller has a second to speak.
    tokio::select! {
        biased;
        read = waits.read_exact(&mut late) => panic!("it is heard later: {read:?}"),
        () = hears => {}
    }
    waits.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"hello");
}
