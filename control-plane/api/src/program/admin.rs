//! The thread that serves the admin endpoint, with bounds of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::flowing::Flowing;
use super::local::ServedAt;
use super::seats::{Seat, Seats};

/// Serves `router` on `listener` until the process ends, or `until` does, when nobody new is let in: 64
/// connections at a time and 64 more of this machine's own, 10 s for an answer, 5 s for one that is not read.
/// Where all are taken, the host with the most gives one to whoever comes. Handlers learn the peer's address as
/// a [`ConnectInfo`].
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
    let router = router.layer(Extension(ServedAt(listener.local_addr()?)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            let room = Room::new();
            tokio::select! {
                () = accept(listener, router, patience, &room) => {}
                () = until => {}
            }
            // Those who are in are answered.
            room.near.left().await;
            room.far.left().await;
        });
    })?;
    Ok(())
}

/// Who may be in at once.
struct Room {
    /// Of this machine.
    near: Arc<Seats>,
    far: Arc<Seats>,
}

impl Room {
    fn new() -> Self {
        Self {
            near: Seats::new(CONNECTIONS_MAX),
            far: Seats::new(CONNECTIONS_MAX),
        }
    }

    fn seat(&self, peer: SocketAddr) -> Option<Seat> {
        let is_near = peer.ip().to_canonical().is_loopback();
        let seats = if is_near { &self.near } else { &self.far };
        seats.take(peer.ip())
    }
}

async fn accept(listener: TcpListener, router: Router, patience: Duration, room: &Room) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin endpoint cannot be served");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Nobody waits for one here, and so there always is one.
                let Some(seat) = room.seat(peer) else { continue };
                tokio::spawn(converse(stream, peer, router.clone(), patience, Arc::new(seat)));
            }
            Err(error) => {
                // Out of file descriptors, most likely: another try at once would spin.
                tracing::debug!(%error, "no connection accepted on the admin endpoint");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, patience: Duration, seat: Arc<Seat>) {
    let by = Arc::clone(&seat);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, seat) = (router.clone(), Arc::clone(&by));
        async move {
            let _served = seat.served();
            answer(router, peer, patience, request).await
        }
    });
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Flowing::new(stream, STALLED)), service);
    let ended = tokio::select! {
        ended = &mut served => Some(ended),
        () = seat.lost() => None,
    };
    match &ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "connection to the admin endpoint ended"),
        None => tracing::debug!(%peer, "a connection to the admin endpoint gave way to another one"),
    }
    let stream = served.into_parts().io.into_inner();
    if ended.is_none() || stream.is_stuck() {
        // What it was to be told is dropped: the system would keep it in case that it is read some time.
        drop(stream.into_inner().set_zero_linger());
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

/// A few browsers, probes and scrapers, or as many programs of this machine and of who comes through a forwarded
/// port; each costs a file descriptor that a call or a sidecar could need.
const CONNECTIONS_MAX: u16 = 64;

/// The longest that a head may take, and that a connection may idle. A scraper that comes less often connects
/// again.
const IDLE: Duration = Duration::from_secs(3);

/// The longest that a connection may read nothing of what it is told.
const STALLED: Duration = Duration::from_secs(5);

/// The longest that one answer may take, the reading of its request included.
const PATIENCE: Duration = Duration::from_secs(10);

const HEAD_BYTES_MAX: usize = 64 * 1024;
