//! The thread that serves the admin endpoint, with bounds of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// Serves `router` on `listener` until the process ends, or `until` does, when nobody new is let in: 64 connections at a time, 10 s for an answer.
/// Handlers learn the peer's address as a [`ConnectInfo`].
///
/// # Errors
/// When the system grants no thread or no runtime.
pub fn serve(
    listener: TcpListener,
    router: Router,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_for(listener, router, Duration::ZERO, until)
}

/// As [`serve`], where an answer may take `longest`, and a second more to be told, if that is more than 10 s.
///
/// # Errors
/// When the system grants no thread or no runtime.
pub fn serve_for(
    listener: TcpListener,
    router: Router,
    longest: Duration,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let patience = PATIENCE.max(longest.saturating_add(Duration::from_secs(1)));
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            tokio::select! {
                () = accept(listener, router, patience, &room) => {}
                () = until => {}
            }
            // Those who are in are answered.
            drop(room.acquire_many(ALL_CONNECTIONS).await);
        });
    })?;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, patience: Duration, room: &Arc<Semaphore>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin endpoint cannot be served");
            return;
        }
    };
    // A closed semaphore is the only error, and nobody closes this one.
    while let Ok(permit) = Arc::clone(room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, peer, router, patience).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: another try at once would spin.
                tracing::debug!(%error, "no connection accepted on the admin endpoint");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, patience: Duration) {
    let service =
        service_fn(move |request: Request<Incoming>| answer(router.clone(), peer, patience, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection to the admin endpoint ended");
    }
}

async fn answer(
    router: Router,
    peer: SocketAddr,
    patience: Duration,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    let answered = tokio::time::timeout(patience, router.oneshot(request.map(Body::new))).await;
    answered.unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
        Ok(response)
    })
}

/// A few browsers and scrapers; each costs a file descriptor that a call or a sidecar could need.
const CONNECTIONS_MAX: usize = 64;
const ALL_CONNECTIONS: u32 = 64;

/// The longest that a head may take, and that a connection may idle: whoever holds them all open holds up
/// probes for no longer. A scraper that comes less often connects again.
const IDLE: Duration = Duration::from_secs(3);

/// The longest that one answer may take, the reading of its request included.
const PATIENCE: Duration = Duration::from_secs(10);

const HEAD_BYTES_MAX: usize = 64 * 1024;
