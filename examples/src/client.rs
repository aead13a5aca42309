//! Calls and their replies, over connections that are kept open.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its body; JSON when it is not empty.
    pub body: Bytes,
}

impl Call {
    /// A GET.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            target: target.into(),
            body: Bytes::new(),
        }
    }

    /// A POST of JSON.
    pub fn post(target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            target: target.into(),
            body: body.into(),
        }
    }
}

/// One reply: what the verification compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The `content-type`.
    pub content_type: String,
    /// The body's bytes.
    pub body: Bytes,
}

/// One keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: impl ToSocketAddrs + ToString) -> anyhow::Result<Self> {
        let host = address.to_string();
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {host}"))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    /// False once the other end has closed it.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// The reply to a call, which is sent once the reply before it is here.
    ///
    /// # Errors
    /// When there is none.
    pub async fn call(&mut self, call: Call) -> anyhow::Result<Reply> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(&call.target)
            .header("host", &self.host);
        if !call.body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.sender.ready().await?;
        let (head, body) = self
            .sender
            .send_request(request.body(Full::new(call.body))?)
            .await?
            .into_parts();
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned();
        Ok(Reply {
            status: head.status.as_u16(),
            content_type,
            body: body.collect().await?.to_bytes(),
        })
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// When it does not answer.
pub async fn get(address: SocketAddr, target: &str) -> anyhow::Result<Reply> {
    Connection::open(address).await?.call(Call::get(target)).await
}
