//! Probes of the service beside the sidecar, which kubelet asks for here: its own connection to the service would
//! come without a certificate, and be refused where one is asked for.
//!
//! Only what `--probes` names is asked, on the loopback, and of each one call at a time.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, HOST, USER_AGENT};
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Admin;

/// What may be asked of the service, by where it is asked for: `users/liveness` for `/probes/users/liveness`.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<HashMap<String, Probe>>);

#[derive(Debug)]
struct Probe {
    port: NonZeroU16,
    path: PathAndQuery,
    headers: HeaderMap,
    timeout: Duration,
    /// Held by who asks: others wait.
    turn: Mutex<()>,
}

/// A probe as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    port: NonZeroU16,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default = "one")]
    timeout_seconds: NonZeroU16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

/// Why the service gave no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("no connection to 127.0.0.1 or [::1], port {0}: {1}")]
    Connect(NonZeroU16, #[source] io::Error),
    #[error("no reply: {0}")]
    Reply(#[from] hyper::Error),
    #[error("no reply within {0:?}")]
    Timeout(Duration),
}

impl FromStr for Probes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written: HashMap<String, Written> =
            serde_json::from_str(text).map_err(|error| format!("{error}, expected {EXAMPLE}"))?;
        if written.len() > PROBES_MAX {
            return Err(format!(
                "found {} probes, expected at most {PROBES_MAX}",
                written.len()
            ));
        }
        let probes = written.into_iter().map(|(name, written)| {
            let probe = Probe::of(&written).map_err(|error| format!("{name:?}: {error}"))?;
            Ok((name, probe))
        });
        probes
            .collect::<Result<_, String>>()
            .map(|probes| Self(Arc::new(probes)))
    }
}

impl Probes {
    /// The longest that one of them may take; none without any.
    pub fn longest(&self) -> Duration {
        let all = self.0.values().map(|probe| probe.timeout);
        all.max().unwrap_or_default()
    }
}

impl Probe {
    fn of(written: &Written) -> Result<Self, String> {
        let path = written.path.parse::<PathAndQuery>();
        let path =
            path.map_err(|_| format!("path: found {:?}, expected one such as /ready", written.path))?;
        let mut headers = HeaderMap::new();
        for header in &written.headers {
            let name = HeaderName::from_str(&header.name);
            let name = name.map_err(|_| format!("headers: {:?} is no field name", header.name))?;
            let value = HeaderValue::from_str(&header.value);
            let value = value.map_err(|_| format!("headers: {name}: {:?} is no value", header.value))?;
            headers.append(name, value);
        }
        Ok(Self {
            port: written.port,
            path,
            headers,
            timeout: Duration::from_secs(written.timeout_seconds.get().into()),
            turn: Mutex::new(()),
        })
    }

    /// Asks as kubelet would: with its name and its word for the host, where the probe says nothing else.
    async fn ask(&self, by: &HeaderMap) -> Result<(StatusCode, Bytes), Unanswered> {
        let asking = async {
            let _turn = self.turn.lock().await;
            let stream = self
                .connect()
                .await
                .map_err(|error| Unanswered::Connect(self.port, error))?;
            let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let request = self.request(by);
            let reply = async {
                let reply = send.send_request(request).await?;
                let (head, body) = reply.into_parts();
                // What kubelet shows of it; of a longer one, nothing.
                let body = Limited::new(body, BODY_MAX).collect().await;
                Ok((head.status, body.map(|body| body.to_bytes()).unwrap_or_default()))
            };
            tokio::select! {
                biased;
                reply = reply => reply,
                Err(error) = connection => Err(error.into()),
            }
        };
        let asked = timeout(self.timeout, asking).await;
        asked.unwrap_or(Err(Unanswered::Timeout(self.timeout)))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let port = self.port.get();
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let other = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await;
                other.map_err(|_| error)
            }
            connected => connected,
        }
    }

    fn request(&self, by: &HeaderMap) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.clone().into();
        let headers = request.headers_mut();
        headers.insert(HOST, host(by, self.port));
        for name in [USER_AGENT, ACCEPT] {
            if let Some(value) = by.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        for name in self.headers.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        request
    }
}

/// `/probes/CONTAINER/PROBE`: what the service says to it, in kubelet's sense.
pub(super) async fn probe(
    State(admin): State<Admin>,
    Path((container, probe)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(probe) = admin.probes.0.get(&format!("{container}/{probe}")) else {
        return (StatusCode::NOT_FOUND, "no such probe\n").into_response();
    };
    answer(probe.ask(&headers).await)
}

fn answer(asked: Result<(StatusCode, Bytes), Unanswered>) -> Response {
    match asked {
        // A redirect is a good answer to a probe, and leads nowhere from here.
        Ok((status, body)) if status.is_redirection() => body.into_response(),
        Ok(told) => told.into_response(),
        Err(error) => {
            let status = match error {
                Unanswered::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
                Unanswered::Connect(..) | Unanswered::Reply(_) => StatusCode::BAD_GATEWAY,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

/// The host as kubelet knows it, with the service's port.
fn host(by: &HeaderMap, port: NonZeroU16) -> HeaderValue {
    let asked = by.get(HOST).and_then(|host| host.to_str().ok());
    let asked = asked.and_then(|host| host.parse::<Authority>().ok());
    let host = asked.as_ref().map_or("127.0.0.1", Authority::host);
    let host = HeaderValue::from_str(&format!("{host}:{port}"));
    host.unwrap_or_else(|_| HeaderValue::from_static("127.0.0.1"))
}

fn root() -> String {
    "/".to_owned()
}

const fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

const EXAMPLE: &str = r#"a map such as {"users/liveness": {"port": 8080, "path": "/live"}}"#;
/// A pod with twenty containers, of three probes each.
const PROBES_MAX: usize = 64;
/// What kubelet reads of a reply.
const BODY_MAX: usize = 10 << 10;

#[cfg(test)]
mod tests;
