//! A call that is not batched: passed to the backend and back, streamed both ways with its trailers.

use std::future::pending;

use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::passage::Passage;
use crate::send::{Backend, Sending};

/// Passes a call on and returns the reply, whose body is still to come. Its place is empty afterwards.
///
/// # Errors
/// What went wrong upstream.
///
/// # Cancellation
/// Dropping the future ends the upstream call.
pub async fn forward(
    call: &mut Option<Request<Body>>,
    backend: &Backend,
    sending: &Sending,
) -> Result<Response<Body>, Error> {
    if let Some(protocol) = call.as_mut().and_then(headers::outbound)
        && let Some(request) = call.take()
    {
        return Box::pin(switch(request, protocol, backend, sending)).await;
    }
    backend.send(call, sending).await
}

/// Passes on a call that asks to switch protocols. Nothing but the request goes upstream before the 101. Until then,
/// and if it is answered in any other way, it is a call like others, with their bounds: anybody can ask.
async fn switch(
    mut request: Request<Body>,
    protocol: HeaderValue,
    backend: &Backend,
    sending: &Sending,
) -> Result<Response<Body>, Error> {
    let passage = request.extensions_mut().remove::<Passage>();
    let Some(caller) = request.extensions_mut().remove::<OnUpgrade>() else {
        return backend.send(&mut Some(request), sending).await;
    };
    headers::switch(request.headers_mut(), protocol);
    let sending = Sending {
        switches: true,
        ..*sending
    };
    let mut reply = backend.send(&mut Some(request), &sending).await?;
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(server) = reply.extensions_mut().remove::<OnUpgrade>() else {
            return Err(ErrorKind::UpstreamProtocol("a 101 that nobody asked for").into());
        };
        tokio::spawn(async move {
            tokio::select! {
                () = tunnel(caller, server) => {}
                () = revoked(passage) => {}
            }
        });
    }
    Ok(reply)
}

async fn revoked(passage: Option<Passage>) {
    match passage {
        Some(passage) => passage.revoked().await,
        None => pending().await,
    }
}

/// Passes bytes both ways once both sides have switched.
async fn tunnel(caller: OnUpgrade, server: OnUpgrade) {
    let (caller, server) = match tokio::try_join!(caller, server) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection ended before it switched protocols");
            return;
        }
    };
    if let Err(error) = copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(server)).await {
        tracing::debug!(%error, "a switched connection broke");
    }
}
