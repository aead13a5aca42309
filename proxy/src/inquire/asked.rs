//! `explain --admin`: what a sidecar that runs makes of a call, by what is in force there.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::admin::RawRequest;
use crate::send::Address;

/// Why a sidecar explains nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTold {
    #[error(transparent)]
    Connect(#[from] io::Error),
    #[error("{0}; expected the admin endpoint of a sidecar")]
    Http(#[from] hyper::Error),
    #[error("--backend: {0}")]
    Backend(#[from] http::Error),
    #[error("cannot read the answer: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("status {}: {text}", status.as_u16())]
    Status { status: StatusCode, text: String },
    #[error("no answer in {} s", DEADLINE.as_secs())]
    Late,
}

/// What the sidecar says whose admin endpoint is there; of one backend, if it is named.
pub(super) fn explanation(
    admin: &Address,
    backend: Option<&str>,
    call: &RawRequest,
) -> Result<String, NotTold> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asking = async { timeout(DEADLINE, ask(admin, backend, call)).await };
    runtime.block_on(asking).unwrap_or(Err(NotTold::Late))
}

async fn ask(admin: &Address, backend: Option<&str>, call: &RawRequest) -> Result<String, NotTold> {
    let which = backend.map_or_else(String::new, |backend| format!("?backend={backend}"));
    let target: Uri = format!("/explain{which}").parse().map_err(http::Error::from)?;
    let request = Request::post(target)
        .header(http::header::HOST, admin.host())
        .body(Full::<Bytes>::from(call.to_text()))?;
    let stream = admin.connect().await?;
    let (mut to, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async move {
        let response = to.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let text = String::from_utf8_lossy(&body.map_err(NotTold::Body)?.to_bytes()).into_owned();
        match status {
            StatusCode::OK => Ok(text),
            status => Err(NotTold::Status {
                status,
                text: text.trim().to_owned(),
            }),
        }
    };
    // The connection ends when nobody asks on it any more; its error is the answer's.
    tokio::join!(asking, connection).0
}

/// A sidecar answers at once, but may be far away.
const DEADLINE: Duration = Duration::from_secs(10);
/// An explanation is a few lines for each backend.
const MOST_BYTES: usize = 4 << 20;
