//! Endpoints that come and go under calls, over real sockets.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header;
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_core::policy::{CircuitBreaker, LoadBalancer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::*;

/// An endpoint that answers every call with its own name, over HTTP/1.1 or HTTP/2.
#[derive(Clone)]
struct Server {
    address: Address,
    state: Arc<State>,
}

struct State {
    name: &'static str,
    status: StatusCode,
    calls: AtomicUsize,
    /// Connections ever made, and those that are open.
    made: AtomicUsize,
    open: watch::Sender<usize>,
    /// What the next call is answered with in place of the name.
    held: Mutex<Option<Pieces>>,
}

/// A body that comes as its sender says, and ends with it.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

impl Server {
    async fn start(name: &'static str, status: StatusCode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().into(),
            state: Arc::new(State {
                name,
                status,
                calls: AtomicUsize::new(0),
                made: AtomicUsize::new(0),
                open: watch::Sender::new(0),
                held: Mutex::default(),
            }),
        };
        let state = Arc::clone(&server.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                state.made.fetch_add(1, Ordering::SeqCst);
                state.open.send_modify(|open| *open += 1);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    state.converse(stream).await;
                    state.open.send_modify(|open| *open -= 1);
                });
            }
        });
        server
    }

    async fn ok(name: &'static str) -> Self {
        Self::start(name, StatusCode::OK).await
    }

    /// Has the next reply's body be what is sent here.
    fn hold(&self) -> mpsc::Sender<Bytes> {
        let (pieces, body) = mpsc::channel(1);
        *self.state.held.lock() = Some(Pieces(body));
        pieces
    }

    fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.state.made.load(Ordering::SeqCst)
    }

    /// Waits until so many connections are open.
    async fn open(&self, wanted: usize) {
        let mut open = self.state.open.subscribe();
        let found = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == wanted)).await;
        assert!(found.is_ok(), "{}: never {wanted} open", self.state.name);
    }
}

impl State {
    async fn converse(self: &Arc<Self>, stream: TcpStream) {
        let mut first = [0; 3];
        let is_http2 = matches!(stream.peek(&mut first).await, Ok(3)) && &first == b"PRI";
        let service = service_fn(|_| {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let body = self.held.lock().take().unwrap_or_else(|| {
                let (pieces, body) = mpsc::channel(1);
                pieces.try_send(Bytes::from_static(self.name.as_bytes())).unwrap();
                Pieces(body)
            });
            let reply = Response::builder().status(self.status).body(body).unwrap();
            std::future::ready(Ok::<_, Infallible>(reply))
        });
        let io = TokioIo::new(stream);
        // However it ends: the client's view of it is what is tested.
        if is_http2 {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(io, service).await);
        } else {
            let server = hyper::server::conn::http1::Builder::new();
            drop(server.serve_connection(io, service).await);
        }
    }
}

fn addresses(servers: &[&Server]) -> Vec<Target> {
    servers
        .iter()
        .map(|server| server.address.clone().into())
        .collect()
}

fn backend(servers: &[&Server], speaks: Speaks) -> Arc<Backend> {
    Arc::new(Backend::new(&BackendSettings {
        speaks,
        ..BackendSettings::new("test", addresses(servers))
    }))
}

fn in_turn() -> Traffic {
    Traffic {
        load_balancer: LoadBalancer::RoundRobin,
        ..Traffic::default()
    }
}

async fn sent(backend: &Backend, version: Version) -> Result<Response<Body>, Error> {
    let call = Request::get("/x").version(version).header(header::HOST, "test");
    let call = call.body(Body::empty()).unwrap();
    backend.send(&mut Some(call), &Sending::default()).await
}

async fn text(reply: Response<Body>) -> String {
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

async fn call(backend: &Backend) -> String {
    text(sent(backend, Version::HTTP_11).await.unwrap()).await
}

#[tokio::test]
async fn endpoint_that_stays_keeps_its_connections_and_one_that_goes_loses_them() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let [a, b, c] = [
            Server::ok("a").await,
            Server::ok("b").await,
            Server::ok("c").await,
        ];
        let backend = backend(&[&a, &b], speaks);
        backend.install(&in_turn());
        for _ in 0..4 {
            call(&backend).await;
        }
        let learned = backend.endpoints_snapshot()[1].latency;
        assert!(learned > Duration::ZERO);

        backend.reach(&addresses(&[&c, &b]));
        let kept = &backend.endpoints_snapshot()[1];
        assert_eq!((&kept.address, kept.latency), (&b.address, learned));
        a.open(0).await;
        for _ in 0..4 {
            call(&backend).await;
        }
        assert_eq!([&a, &b, &c].map(Server::calls), [2, 4, 2], "{speaks:?}");
        assert_eq!([&a, &b, &c].map(Server::connections), [1; 3], "{speaks:?}");
    }
}

#[tokio::test]
async fn call_to_an_endpoint_that_goes_is_finished_and_then_its_connection_is_closed() {
    for (speaks, connections) in [(Speaks::Http1, 2), (Speaks::Http2, 1)] {
        let [a, b] = [Server::ok("a").await, Server::ok("b").await];
        let backend = backend(&[&a], speaks);
        let pieces = a.hold();
        pieces.send(Bytes::from_static(b"first ")).await.unwrap();
        let under_way = sent(&backend, Version::HTTP_11).await.unwrap();
        assert_eq!(call(&backend).await, "a");
        assert_eq!(a.connections(), connections, "{speaks:?}");

        backend.reach(&addresses(&[&b]));
        assert_eq!(call(&backend).await, "b");
        // The one that was idle, if there was one, does not wait for the call under way.
        a.open(1).await;
        pieces.send(Bytes::from_static(b"second")).await.unwrap();
        drop(pieces);
        assert_eq!(text(under_way).await, "first second", "{speaks:?}");
        a.open(0).await;
        assert_eq!((a.calls(), b.calls()), (2, 1), "{speaks:?}");
    }
}

#[tokio::test]
async fn call_that_could_not_be_sent_is_sent_to_an_endpoint_that_came_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let b = Server::ok("b").await;
    let backend = Arc::new(Backend::new(&BackendSettings::new(
        "test",
        vec![listener.local_addr().unwrap().into()],
    )));
    let calling = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { text(sent(&backend, Version::HTTP_2).await.unwrap()).await }
    });
    // It is being asked whether it speaks HTTP/2. When the answer fails to come, nobody listens there any more.
    let (asked, _) = listener.accept().await.unwrap();
    drop(listener);
    backend.reach(&addresses(&[&b]));
    drop(asked);
    assert_eq!(calling.await.unwrap(), "b");
}

#[tokio::test]
async fn failures_in_a_row_are_still_known_after_other_endpoints_came() {
    let a = Server::start("a", StatusCode::INTERNAL_SERVER_ERROR).await;
    let [b, c] = [Server::ok("b").await, Server::ok("c").await];
    let backend = backend(&[&a, &b], Speaks::Http1);
    backend.install(&Traffic {
        circuit_breaker: Some(CircuitBreaker {
            consecutive_failures: 3,
            ..CircuitBreaker::default()
        }),
        ..in_turn()
    });
    let rests = |address: &Address| {
        let mut shown = backend.endpoints_snapshot().into_iter();
        shown.find(|shown| shown.address == *address).unwrap().rest
    };
    while a.calls() < 2 {
        call(&backend).await;
    }
    backend.reach(&addresses(&[&c, &b, &a]));
    assert_eq!(rests(&a.address), None);
    while a.calls() < 3 {
        call(&backend).await;
    }
    assert!(rests(&a.address).is_some());
    backend.reach(&addresses(&[&c, &a]));
    for _ in 0..10 {
        assert_eq!(call(&backend).await, "c");
    }
    // A lone one never rests.
    backend.reach(&addresses(&[&a]));
    assert_eq!((call(&backend).await.as_str(), rests(&a.address)), ("a", None));
}

#[tokio::test]
async fn backend_without_endpoints_says_so_until_it_has_one() {
    let a = Server::ok("a").await;
    let backend = backend(&[], Speaks::Http1);
    for _ in 0..2 {
        let kind = |error: Error| error.kind();
        let refused = sent(&backend, Version::HTTP_11).await.map_err(kind);
        assert_eq!(refused.err(), Some(ErrorKind::NoEndpoint));
        let upgrade = Request::get("/x").body(Body::empty()).unwrap();
        let switching = Sending {
            switches: true,
            ..Sending::default()
        };
        let refused = backend.send(&mut Some(upgrade), &switching).await.map_err(kind);
        assert_eq!(refused.err(), Some(ErrorKind::NoEndpoint));
        let refused = backend.connect().await.map_err(kind);
        assert_eq!(refused.err(), Some(ErrorKind::NoEndpoint));

        backend.reach(&addresses(&[&a]));
        assert_eq!(call(&backend).await, "a");
        backend.reach(&[]);
        a.open(0).await;
    }
}

/// An address where nobody listens, and the place for whoever is to.
fn nobody() -> (Address, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().into(), socket)
}

#[tokio::test]
async fn bytes_go_elsewhere_where_nobody_listens_which_is_learned_until_somebody_does() {
    for speaks in [Speaks::Bytes, Speaks::Auto] {
        let (address, socket) = nobody();
        let b = Server::ok("b").await;
        let targets = vec![address.into(), b.address.clone().into()];
        let backend = Backend::new(&BackendSettings {
            speaks,
            ..BackendSettings::new("test", targets)
        });
        backend.install(&Traffic {
            circuit_breaker: Some(CircuitBreaker {
                consecutive_failures: 3,
                base_ejection_time: Duration::from_millis(20),
                ..CircuitBreaker::default()
            }),
            ..in_turn()
        });
        let away = || backend.endpoints_snapshot().swap_remove(0);
        // As many as make it rest, and one that finds it away still once its rest is over.
        let mut rests = 0;
        while rests < 2 {
            let was_resting = away().rest.is_some_and(|rest| !rest.is_zero());
            backend.connect().await.unwrap();
            let is_resting = away().rest.is_some_and(|rest| !rest.is_zero());
            rests += usize::from(is_resting && !was_resting);
        }
        assert!(away().failing > 0.5, "{speaks:?}: {:?}", away());

        let listening = socket.listen(16).unwrap();
        let end = tokio::time::Instant::now() + PATIENCE;
        while away().rest.is_some() {
            assert!(
                tokio::time::Instant::now() < end,
                "{speaks:?}: it is back, {:?}",
                away()
            );
            backend.connect().await.unwrap();
        }
        drop(listening);
    }
}

#[tokio::test]
async fn bytes_fail_once_all_endpoints_have_been_tried() {
    let (one, _one) = nobody();
    let (other, _other) = nobody();
    let targets = vec![one.into(), other.into()];
    let backend = Backend::new(&BackendSettings::new("test", targets));
    let failed = backend.connect().await.map(drop).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Connect);
    let shown = backend.endpoints_snapshot();
    assert!(shown.iter().all(|shown| shown.failing > 0.0), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_however_often_endpoints_change() {
    let servers = [
        Server::ok("a").await,
        Server::ok("b").await,
        Server::ok("c").await,
    ];
    let [a, b, c] = &servers;
    let backend = backend(&[a], Speaks::Http1);
    backend.install(&Traffic {
        circuit_breaker: Some(CircuitBreaker::default()),
        ..Traffic::default()
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (backend, is_over) = (Arc::clone(&backend), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    call(&backend).await;
                }
            })
        })
        .collect();
    for _ in 0..100 {
        for next in [&[b, c][..], &[c], &[c, b, a], &[a, b], &[a]] {
            backend.reach(&addresses(next));
            let last = next[next.len() - 1];
            let before = last.calls();
            while last.calls() == before {
                tokio::task::yield_now().await;
            }
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    backend.reach(&[]);
    for server in &servers {
        server.open(0).await;
    }
}

/// How long a fact may take before its absence is a failure.
const PATIENCE: Duration = Duration::from_secs(20);
