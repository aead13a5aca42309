//! Callers: hyper connections for ordinary calls, raw sockets for what no client would send.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// A request's body, whole or streamed.
pub type Body = BoxBody<Bytes, Infallible>;

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
    /// The trailer fields, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a header field, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// Reads a reply to its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn read(reply: Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = reply.into_parts();
        let collected = body.collect().await.context("the reply's body broke off")?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }
}

/// One connection of a caller.
#[derive(Debug)]
pub enum Caller {
    /// HTTP/1.1 with keep-alive: one call at a time.
    H1(http1::SendRequest<Body>),
    /// HTTP/2 with prior knowledge: many calls at once.
    H2(http2::SendRequest<Body>),
}

impl Caller {
    /// Connects with HTTP/1.1.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn h1(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = connect(address).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self::H1(sender))
    }

    /// Connects with HTTP/2.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn h2(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = connect(address).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self::H2(sender))
    }

    /// One call and its whole reply.
    ///
    /// # Errors
    /// When the connection or the reply breaks, or takes longer than [`PATIENCE`].
    pub async fn call(&mut self, request: Request<Body>) -> anyhow::Result<Answer> {
        timeout(PATIENCE, async { Answer::read(self.send(request).await?).await })
            .await
            .context("no reply in time")?
    }

    /// One call up to the head of its reply.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(in_origin_form(request)?).await?)
            }
            Self::H2(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }
}

/// The same request as an HTTP/1.1 client sends it to an origin: the authority is in `host`.
fn in_origin_form(mut request: Request<Body>) -> anyhow::Result<Request<Body>> {
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().parse()?;
        let target = request
            .uri()
            .path_and_query()
            .context("an URL without a path")?
            .as_str()
            .parse()?;
        request.headers_mut().insert("host", host);
        *request.uri_mut() = target;
    }
    Ok(request)
}

/// A request with a whole body. `target` is a path or, for HTTP/2, a full URL.
///
/// # Panics
/// If a part is not valid HTTP.
#[track_caller]
pub fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) && target.starts_with('/') {
        request = request.header("host", "service.test");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(body.into()).boxed())
        .expect("the test's request is valid HTTP")
}

/// GET on a connection of its own.
///
/// # Errors
/// When the connection or the reply breaks.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    call(address, request("GET", path, &[], "")).await
}

/// POST of a JSON body on a connection of its own, to the address itself.
///
/// # Errors
/// When the connection or the reply breaks.
pub async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
    let headers = [
        ("content-type", "application/json"),
        ("host", &address.to_string()),
    ];
    call(address, request("POST", path, &headers, body)).await
}

/// One HTTP/1.1 call on a connection of its own.
///
/// # Errors
/// When the connection or the reply breaks.
pub async fn call(address: SocketAddr, request: Request<Body>) -> anyhow::Result<Answer> {
    Caller::h1(address).await?.call(request).await
}

/// Sends bytes as they are and reads until the other side closes or `patience` is over.
///
/// # Errors
/// When nobody listens there.
pub async fn raw(address: SocketAddr, bytes: &[u8], patience: Duration) -> anyhow::Result<Vec<u8>> {
    let mut socket = connect(address).await?;
    // A refusal may arrive and close before everything is written.
    let _refused_early = socket.write_all(bytes).await;
    let mut reply = Vec::new();
    let _ended = timeout(patience, socket.read_to_end(&mut reply)).await;
    Ok(reply)
}

/// A socket without Nagle's delay.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The sum of the samples of one metric whose label set contains `labels`, of an admin endpoint.
///
/// # Panics
/// If the admin endpoint does not answer or a sample is not a number.
pub async fn metric(admin: SocketAddr, name: &str, labels: &str) -> f64 {
    let answer = get(admin, "/metrics").await;
    let text = answer.expect("the admin endpoint answers").text();
    let of_name = text.lines().filter_map(|line| line.strip_prefix(name));
    let samples = of_name.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels));
    let value = |rest: &str| {
        let value = rest.split(' ').next_back().unwrap_or("");
        value.parse::<f64>().expect("a sample is a number")
    };
    samples.map(value).sum()
}
