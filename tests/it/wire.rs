//! A pass-through sidecar in this process, between raw sockets: what the suites on HTTP itself share.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use jitney_proxy::accept::{Acceptor, Always, bind};
use jitney_proxy::body::Body;
use jitney_proxy::connection::{ConnInfo, Limits, Serve, Serving};
use jitney_proxy::drain::Drain;
use jitney_proxy::forward::forward;
use jitney_proxy::metrics::Metrics;
use jitney_proxy::mtls::Mesh;
use jitney_proxy::send::{Backend, BackendSettings, Sending};
use jitney_proxy::upstream::{self, Others};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No exchange in these suites may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever is to send more and does not for that long has failed.
const SILENCE: Duration = Duration::from_secs(3);

/// A sidecar that passes everything on.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) backend: Arc<Backend>,
    pub(crate) drain: Drain,
}

#[derive(Clone)]
struct PassThrough(Arc<Backend>);

impl Serve for PassThrough {
    fn serve(&self, call: Request<Body>, _connection: &Arc<ConnInfo>) -> Serving {
        let backend = Arc::clone(&self.0);
        Box::pin(async move {
            let mut call = Some(call);
            match forward(&mut call, &backend, &Sending::default()).await {
                Ok(reply) => reply.into(),
                Err(error) => {
                    let mut reply = Response::new(Body::full(error.to_string()));
                    *reply.status_mut() = http::StatusCode::BAD_GATEWAY;
                    let reason = http::HeaderValue::from_static(error.kind().as_str());
                    reply.headers_mut().insert("x-jitney-error", reason);
                    reply.into()
                }
            }
        })
    }

    fn is_batching(&self) -> bool {
        false
    }
}

impl Rig {
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        Self::with(
            &BackendSettings::new("test", vec![upstream.into()]),
            Limits::default(),
        )
    }

    pub(crate) fn with(settings: &BackendSettings, limits: Limits) -> Self {
        let backend = Arc::new(Backend::new(settings));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let acceptor = Acceptor {
            direct: Always {
                service: PassThrough(backend.clone()),
                opaque: upstream::Upstream::start(backend.clone(), &Metrics::new(), &Others::default()),
                mtls: None,
                guard: None,
            },
            mesh: Mesh::default(),
            limits,
            max_connections: 1000,
            metrics: Metrics::new(),
            drain: drain.clone(),
        };
        tokio::spawn(acceptor.run(Arc::new(listener)));
        Self {
            address,
            backend,
            drain,
        }
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends these bytes over a connection of their own, and reads until the sidecar closes it.
    pub(crate) async fn tell(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.connect().await;
        wire.send(bytes).await;
        wire.rest().await
    }
}

/// One end of a connection.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that has closed already is the test's business when it reads.
        drop(self.0.write_all(bytes.as_ref()).await);
    }

    /// Reads until these bytes have come; returns everything up to and with them.
    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let mut read = Vec::new();
            let found = tokio::time::timeout(PATIENCE, async {
                while !read.ends_with(end.as_bytes()) {
                    match self.0.read_u8().await {
                        Ok(byte) => read.push(byte),
                        Err(_) => return false,
                    }
                }
                true
            })
            .await;
            let text = String::from_utf8_lossy(&read).into_owned();
            assert_eq!(found, Ok(true), "{caller}: wanted {end:?}, read {text:?}");
            text
        }
    }

    /// Reads so many bytes, or what comes until the peer closes or falls silent.
    pub(crate) async fn take(&mut self, length: usize) -> String {
        let mut read = Vec::new();
        let reading = (&mut self.0).take(length as u64);
        let mut reading = std::pin::pin!(reading);
        drop(tokio::time::timeout(SILENCE, reading.read_to_end(&mut read)).await);
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Reads until the peer closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut read = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut read)).await;
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(ended.is_ok(), "the connection stayed open after {text:?}");
        text
    }
}

/// An upstream that records what each connection sent, and answers each head with the next reply.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Answers every request head with this, over and over.
    pub(crate) async fn answering(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::scripted(move |mut wire, seen| {
            let reply = reply.clone();
            async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match wire.0.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    seen(&head);
                    wire.send(&reply).await;
                }
            }
        })
        .await
    }

    /// Runs a script for each connection; what it hands to its second argument is remembered.
    pub(crate) async fn scripted<S, F>(script: S) -> Self
    where
        S: Fn(Wire, Box<dyn Fn(&[u8]) + Send + Sync>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = all.clone();
                let note = move |bytes: &[u8]| {
                    seen.lock()
                        .unwrap()
                        .push(String::from_utf8_lossy(bytes).into_owned());
                };
                tokio::spawn(script(Wire(stream), Box::new(note)));
            }
        });
        Self { address, seen }
    }

    /// Everything that scripts noted so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Waits until this holds; says where it was wanted when it never does.
#[track_caller]
pub(crate) fn eventually(what: &'static str, holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            assert!(tokio::time::Instant::now() < deadline, "{caller}: never: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
