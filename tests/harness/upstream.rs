//! An upstream in the test's own process: a function from request to reply, with fault switches,
//! and a record of every request as it came off the socket.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection of this upstream it came over, counted from 0.
    pub connection: usize,
    /// The HTTP version it was sent with.
    pub version: Version,
    /// Its method.
    pub method: Method,
    /// Path and query, as they came.
    pub target: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

impl Seen {
    /// The first value of a header field, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the upstream does with a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header fields besides what HTTP itself needs.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How long the work takes.
    pub after: Duration,
    /// How the reply ends.
    pub ending: Ending,
}

/// How a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Whole,
    /// After so many bytes of the body, although `content-length` announced all.
    Cut(usize),
    /// The connection is closed in place of a reply.
    HangUp,
    /// Never: the caller's patience decides.
    Never,
}

impl Reply {
    /// A whole JSON reply at once.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            after: Duration::ZERO,
            ending: Ending::Whole,
        }
        .header("content-type", "application/json")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// One more header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, but later.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// The same, but with another end.
    #[must_use]
    pub const fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A listening upstream. It speaks HTTP/1.1 and HTTP/2 with prior knowledge.
#[derive(Clone)]
pub struct TestUpstream {
    /// Where it listens.
    pub address: SocketAddr,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    off: bool,
    seen: Mutex<Vec<Seen>>,
    raw: Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for TestUpstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestUpstream")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl TestUpstream {
    /// Starts one that records everything.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listen(listener, handler, Record::default())
    }

    /// Starts one that takes calls from a socket of elsewhere, such as another network.
    ///
    /// # Panics
    /// If the socket does not listen.
    pub fn start_on(
        listener: std::net::TcpListener,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        listener.set_nonblocking(true).expect("a socket of ours");
        let listener = TcpListener::from_std(listener).expect("a runtime is here");
        Self::listen(listener, handler, Record::default())
    }

    /// Starts one that keeps no record: for runs of many calls.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start_unrecorded(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let record = Record {
            off: true,
            ..Record::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listen(listener, handler, record)
    }

    /// Every request so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.record.seen).clone()
    }

    /// The requests whose target starts with `prefix`.
    pub fn seen_at(&self, prefix: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|request| request.target.starts_with(prefix));
        seen
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.record.seen).clear();
    }

    /// The bytes that came over one connection.
    pub fn raw(&self, connection: usize) -> Vec<u8> {
        lock(&self.record.raw)
            .get(connection)
            .cloned()
            .unwrap_or_default()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        lock(&self.record.raw).len()
    }

    fn listen(
        listener: TcpListener,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        record: Record,
    ) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let upstream = Self {
            address,
            record: Arc::new(record),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let record = Arc::clone(&upstream.record);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = {
                    let mut raw = lock(&record.raw);
                    raw.push(Vec::new());
                    raw.len() - 1
                };
                tokio::spawn(converse(
                    socket,
                    connection,
                    Arc::clone(&record),
                    Arc::clone(&handler),
                ));
            }
        });
        upstream
    }
}

/// Serves one connection in whichever version its first bytes show.
async fn converse(socket: TcpStream, connection: usize, record: Arc<Record>, handler: Arc<Handler>) {
    let _nagle = socket.set_nodelay(true);
    let mut first = [0; 3];
    let is_h2 = matches!(socket.peek(&mut first).await, Ok(3)) && &first == b"PRI";
    let io = TokioIo::new(Tap {
        socket,
        connection,
        record: Arc::clone(&record),
    });
    let service =
        service_fn(move |request| answer(request, connection, Arc::clone(&record), Arc::clone(&handler)));
    // A broken connection is the fault under test, or the peer's; nothing is to be done about it here.
    if is_h2 {
        let _end = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _end = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await;
    }
}

type Outgoing = BoxBody<Bytes, io::Error>;

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    record: Arc<Record>,
    handler: Arc<Handler>,
) -> Result<Response<Outgoing>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let target = head
        .uri
        .path_and_query()
        .map_or_else(|| head.uri.to_string(), |target| target.as_str().to_owned());
    let (version, method, headers) = (head.version, head.method, head.headers);
    let seen = Seen {
        connection,
        version,
        method,
        target,
        headers,
        body,
    };
    let reply = handler(&seen);
    if !record.off {
        lock(&record.seen).push(seen);
    }
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    match reply.ending {
        Ending::Whole => Ok(response(
            &reply,
            Full::new(reply.body.clone()).map_err(never).boxed(),
        )),
        Ending::Cut(len) => {
            let part = reply.body.slice(..len.min(reply.body.len()));
            Ok(response(
                &reply,
                Broken {
                    part: Some(part),
                    flushed: false,
                }
                .boxed(),
            ))
        }
        Ending::HangUp => Err(io::Error::other("hung up by the test")),
        Ending::Never => std::future::pending().await,
    }
}

fn never(error: Infallible) -> io::Error {
    match error {}
}

fn response(reply: &Reply, body: Outgoing) -> Response<Outgoing> {
    let mut response = Response::new(body);
    *response.status_mut() = reply.status.try_into().expect("the test's status is valid");
    let headers = response.headers_mut();
    for (name, value) in &reply.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("the test's header is valid");
        headers.append(
            name,
            HeaderValue::from_bytes(value.as_bytes()).expect("the test's header is valid"),
        );
    }
    headers.insert("content-length", HeaderValue::from(reply.body.len()));
    response
}

/// A body that breaks off after its first part.
struct Broken {
    part: Option<Bytes>,
    flushed: bool,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(part) = self.part.take() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if !self.flushed {
            // One more turn, in which hyper flushes what it was given before the error drops it.
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("cut by the test"))))
    }
}

/// A socket that keeps a copy of what was read from it.
struct Tap {
    socket: TcpStream,
    connection: usize,
    record: Arc<Record>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if !self.record.off {
            lock(&self.record.raw)[self.connection].extend_from_slice(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
