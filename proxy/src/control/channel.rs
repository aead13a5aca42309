//! A connection to a control plane: HTTP/2 over TLS, and what is sent over it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, InvalidMessage};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::Service;

/// `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneUrl {
    origin: Uri,
    authority: String,
    name: ServerName<'static>,
}

/// A text that is no [`ControlPlaneUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, expected https://host:port")]
pub struct NotAControlPlane(String);

impl FromStr for ControlPlaneUrl {
    type Err = NotAControlPlane;

    fn from_str(text: &str) -> Result<Self, NotAControlPlane> {
        let read = || {
            let uri: Uri = text.parse().ok()?;
            let authority = uri.authority()?;
            let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
            let is_good = uri.scheme_str() == Some("https") && is_bare && !text.contains('@');
            let port = authority.port_u16().unwrap_or(443);
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            is_good.then_some(Self {
                name: ServerName::try_from(host.to_owned()).ok()?,
                authority: format!("{}:{port}", authority.host()),
                origin: uri.clone(),
            })
        };
        read().ok_or_else(|| NotAControlPlane(text.to_owned()))
    }
}

impl fmt::Display for ControlPlaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

impl ControlPlaneUrl {
    pub(super) fn origin(&self) -> Uri {
        self.origin.clone()
    }
}

/// A connection. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    sender: http2::SendRequest<Body>,
}

impl Channel {
    /// Makes a connection.
    pub(super) async fn connect(url: &ControlPlaneUrl, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let connected = tokio::time::timeout(PATIENCE, Self::connect_now(url, tls)).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn connect_now(url: &ControlPlaneUrl, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(&url.authority).await?;
        stream.set_nodelay(true)?;
        let secured = TlsConnector::from(tls).connect(url.name.clone(), stream);
        let stream = secured.await.map_err(|error| without_tls(url, error))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the control plane ended");
            }
        });
        Ok(Self { sender })
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// An answer that is no TLS is most likely another port of the control plane's.
fn without_tls(url: &ControlPlaneUrl, error: io::Error) -> io::Error {
    let is_tls = !matches!(
        tls_error(&error),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
    );
    if is_tls {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!("{url} does not speak TLS (is it the admin port?)"),
    )
}

/// What TLS found wrong with a connection.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The longest that a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(5);
/// A control plane that vanished without a word is noticed after these two. It says something ten
/// thousand times as often as each of ten thousand sidecars asks it to.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
