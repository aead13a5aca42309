//! One downstream connection: an HTTP/1 or HTTP/2 server whose calls are checked and then served.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn, ready};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use jitney_api::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};

mod answering;
mod overdue;
mod plain;
mod streams;

use crate::accept::Seat;
use crate::body::{Body, note_expectation};
use crate::error::{Error, ErrorKind};
use crate::guard::{Guard, Leave};
use crate::headers;
use crate::inspect::{Inspected, Verdicts};
use crate::keepalive::Attended;
use crate::mtls::Standing;
use crate::passage::Passages;
use crate::reply;
pub use crate::reply::Reply;
use crate::retreat::{Retreat, Retreats};
use crate::transport::Transport;
use crate::waking::Turns;
use crate::wire::{Budget, CALLERS_WINDOW, CONNECTION_WINDOW, STREAM_WINDOW, Wire};
use answering::{Answering, Version};
use overdue::in_time;
use plain::Left;
use streams::Streams;

/// What serves the calls of a listener. Cheap to clone.
pub trait Serve: Clone + Send + Sync + 'static {
    /// Serves a call whose head is acceptable. Never fails: an error is a reply, too.
    ///
    /// # Cancellation
    /// The future is dropped when the caller leaves.
    fn serve(&self, call: Request<Body>, connection: &Arc<ConnInfo>) -> Serving;

    /// Answers a call whose head is not.
    fn refuse(&self, _call: &Request<Body>, error: Error) -> Serving {
        Box::pin(ready(reply::of_error(&error).into()))
    }

    /// Something came that is no request, and was answered so; the connection ends.
    fn refuse_bytes(&self, _connection: &ConnInfo) {}

    /// Whether there are calls now that are answered from memory.
    fn is_batching(&self) -> bool;
}

/// A call that is being served. Boxed: room for the largest of them in every connection, filled and
/// moved with every call, costs more than the allocation.
pub type Serving = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// What is known of a downstream connection.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The caller's address.
    pub peer: SocketAddr,
    /// The address that the caller connected to.
    pub local: SocketAddr,
    /// Who the caller is, as its sidecar's certificate says; `None`: nothing was proven.
    pub identity: Option<Identity>,
    /// Whether its calls are let in; `None`: all are.
    pub guard: Option<Guard>,
}

impl ConnInfo {
    /// Whether a call is let in; without one, bytes that are not HTTP.
    pub(crate) fn admits(&self, call: Option<(&Method, &str)>) -> bool {
        match &self.guard {
            Some(guard) => guard.admits(self, call),
            None => !self.has_lapsed(),
        }
    }

    /// Whether who it has proven to be is not proven any more.
    pub(crate) fn has_lapsed(&self) -> bool {
        let identity = self.identity.as_ref();
        identity.is_some_and(|identity| identity.standing.is_over())
    }
}

/// Who has proven to be at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Identity {
    /// A SPIFFE ID.
    pub id: Arc<str>,
    /// The same for a field.
    value: HeaderValue,
    /// For how long it is proven.
    pub(crate) standing: Standing,
}

impl Identity {
    pub(crate) fn new(id: &SpiffeId, standing: Standing) -> Self {
        let id = id.to_string();
        Self {
            // Its characters are those of a field, too.
            value: HeaderValue::try_from(&id).unwrap_or_else(|_| HeaderValue::from_static("")),
            id: id.into(),
            standing,
        }
    }

    /// What the service is told.
    pub(crate) fn value(&self) -> HeaderValue {
        self.value.clone()
    }
}

/// Bounds on a downstream connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest that a head may take from its first byte to its last.
    pub head_timeout: Duration,
    /// The most bytes of a head, or of a decoded header list.
    pub max_head: u32,
    /// The most HTTP/2 streams at once.
    pub max_streams: u32,
    /// How long a connection without calls is kept, at least; at most twice as long.
    pub idle_timeout: Duration,
    /// How old a connection may become before it finishes its calls and ends: a tenth less to a tenth more, so that
    /// those that came together do not go together. Default: as old as it likes.
    pub max_age: Option<Duration>,
    /// How long a caller of HTTP/2 may take to say that it has heard that its connection is to end, until streams are
    /// refused, and then to take the last reply. Default: 5 s, as Envoy's `drain_timeout`.
    pub heard_timeout: Duration,
    /// How long the calls of a bare connection may go on once its port is strict, and those of a secured one once its
    /// caller's certificate proves nothing any more. Default: 20 s.
    pub bare_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            max_head: 64 * 1024,
            max_streams: 100,
            idle_timeout: Duration::from_secs(300),
            max_age: None,
            heard_timeout: Duration::from_secs(5),
            bare_timeout: Duration::from_secs(20),
        }
    }
}

/// Everything that the calls of one connection share.
#[derive(Debug)]
struct Shared<S> {
    service: S,
    info: Arc<ConnInfo>,
    seat: Arc<Seat>,
    verdicts: Verdicts,
    passages: Passages,
}

/// The verdicts of a connection, for the side that reads.
#[derive(Debug)]
struct Reading<S>(Arc<Shared<S>>);

impl<S> AsRef<Verdicts> for Reading<S> {
    fn as_ref(&self) -> &Verdicts {
        &self.0.verdicts
    }
}

/// Streams that a peer may reset before they were served (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that a peer may make this side reset (CVE-2025-8671).
const MAX_ERROR_RESETS: usize = 1024;

/// What calls may come over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// How long an HTTP/1 connection that is to end still takes calls: one that is closed between two
/// calls may meet the next on its way, whose caller cannot know whether it was executed. With this,
/// whoever calls more often than that is told by `Connection: close` instead.
const LINGER: Duration = Duration::from_millis(250);

/// Serves HTTP/1, and what its calls switch to, until the connection ends.
pub(crate) async fn serve_http1<S: Serve>(
    mut stream: Transport<impl Stream>,
    prefix: Bytes,
    info: ConnInfo,
    service: S,
    seat: Arc<Seat>,
    limits: &Limits,
) {
    let is_batching = service.is_batching();
    let shared = Shared::new(service, info, seat);
    let left = match is_batching {
        true => plain::serve(&mut stream, prefix, &shared, limits.max_head as usize).await,
        false => Ok(Some(Left::unread(prefix))),
    };
    match left {
        Ok(Some(left)) => serve_rest(stream, left, shared, limits).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "downstream connection ended"),
    }
}

/// Serves what is not plain, and everything that comes after it.
async fn serve_rest<S: Serve>(
    stream: Transport<impl Stream>,
    left: Left,
    shared: Arc<Shared<S>>,
    limits: &Limits,
) {
    let io = Inspected::new(
        Wire::resuming(left.read, stream),
        Reading(Arc::clone(&shared)),
        limits.head_timeout,
    );
    {
        let mut connection = pin!(
            http1::Builder::new()
                .half_close(false)
                .auto_date_header(false)
                .max_buf_size(limits.max_head as usize)
                .serve_connection(
                    TokioIo::new(io),
                    Http1 {
                        shared: Arc::clone(&shared),
                        first: Cell::new(left.first),
                    },
                )
                .with_upgrades()
        );
        let mut turns = Turns::default();
        let serving = pin!(drive(
            connection.as_mut(),
            |connection, cx| turns.poll(connection, cx),
            &shared.seat,
            LINGER,
            || shared.verdicts.is_inside_head(),
            http1::UpgradeableConnection::graceful_shutdown,
        ));
        match in_time(serving).await {
            Some(ended) => shared.ended(ended),
            None => {
                let peer = shared.info.peer;
                tracing::debug!(%peer, "a connection is ended whose caller does not read its reply in time");
            }
        }
    }
    shared.passages.ended().await;
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn serve_http2<S: Serve>(
    stream: Transport<Attended>,
    prefix: Bytes,
    info: ConnInfo,
    service: S,
    seat: Arc<Seat>,
    limits: &Limits,
) {
    let shared = Shared::new(service, info, seat);
    let budget = Budget::default();
    let is_sidecars = matches!(stream, Transport::Secured(_));
    let io = Wire::resuming(prefix, stream).paced().of_client(&budget);
    let (window, io) = match is_sidecars {
        true => (STREAM_WINDOW, io),
        false => (CALLERS_WINDOW, io.counting_fields()),
    };
    let streams = Streams::default();
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        // Not adaptive: then one service's window would be all that there is, and the budget next to nothing.
        .initial_stream_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .auto_date_header(false)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_head)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .serve_connection(
            TokioIo::new(io),
            Http2 {
                shared: Arc::clone(&shared),
                retreats: Arc::default(),
                streams: streams.clone(),
                budget,
            },
        );
    let mut connection = pin!(connection);
    let serving = drive(
        connection.as_mut(),
        http2::Connection::poll,
        &shared.seat,
        // GOAWAY lets every stream in that is on its way.
        Duration::ZERO,
        || false,
        http2::Connection::graceful_shutdown,
    );
    tokio::select! {
        biased;
        ended = serving => shared.ended(ended),
        () = streams.outstay(&shared.seat, limits.heard_timeout) => {
            let peer = shared.info.peer;
            tracing::debug!(%peer, "a connection is ended whose caller does not say that it has heard");
        }
    }
}

/// Polls a connection to its end. Once its seat is to be left, what has arrived is still read, for
/// `linger` more comes in, and then, outside of a head, it is told to finish what it has and end.
async fn drive<C: Future>(
    mut connection: Pin<&mut C>,
    mut poll: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<C::Output>,
    seat: &Seat,
    linger: Duration,
    is_inside_head: impl Fn() -> bool,
    finish: fn(Pin<&mut C>),
) -> C::Output {
    let (mut is_known, mut is_told, mut lingering) = (false, false, None);
    poll_fn(|cx| {
        if !is_known {
            // A task's waker stays the same for all of its life.
            seat.wakes(cx.waker());
            is_known = true;
        }
        // First, since a connection that is told to end before it has read anything reads nothing.
        let polled = poll(connection.as_mut(), cx);
        if polled.is_ready() || is_told || !seat.is_closing() {
            return polled;
        }
        let lingering = lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(linger)));
        if !lingering.is_elapsed() {
            std::task::ready!(lingering.as_mut().poll(cx));
        }
        // The rest of the head wakes this task, as does the end of the time it may take.
        if is_inside_head() {
            return Poll::Pending;
        }
        is_told = true;
        finish(connection.as_mut());
        poll(connection.as_mut(), cx)
    })
    .await
}

impl<S: Serve> Shared<S> {
    fn new(service: S, info: ConnInfo, seat: Arc<Seat>) -> Arc<Self> {
        Arc::new(Self {
            service,
            info: Arc::new(info),
            seat,
            verdicts: Verdicts::default(),
            passages: Passages::default(),
        })
    }

    fn call(&self, mut call: Request<Body>) -> Serving {
        self.seat.call();
        if call.extensions().get::<OnUpgrade>().is_some() {
            let leave = Leave::of_call(&self.info, &call);
            call.extensions_mut().insert(self.passages.begin(leave));
        }
        match headers::check(&call) {
            Ok(()) => self.service.serve(call, &self.info),
            Err(error) => self.service.refuse(&call, error),
        }
    }

    fn ended(&self, ended: hyper::Result<()>) {
        if let Err(error) = ended {
            tracing::debug!(%error, "downstream connection ended");
            if error.is_parse() {
                self.service.refuse_bytes(&self.info);
            }
        }
    }
}

/// What became of a call that has been read before: behind its body lies the next.
async fn behind(mut body: Incoming, reply: Serving) -> Reply {
    while let Some(Ok(_)) = body.frame().await {}
    reply.await
}

/// The calls of an HTTP/1 connection.
struct Http1<S> {
    shared: Arc<Shared<S>>,
    /// The first, when it is being served already.
    first: Cell<Option<Serving>>,
}

/// The calls of an HTTP/2 connection.
struct Http2<S> {
    shared: Arc<Shared<S>>,
    retreats: Arc<Retreats>,
    streams: Streams,
    budget: Budget,
}

impl<S: Serve> Service<Request<Incoming>> for Http1<S> {
    type Response = Response<Body>;
    type Error = h2::Error;
    type Future = Answering<S>;

    fn call(&self, call: Request<Incoming>) -> Answering<S> {
        let serving = match (self.shared.verdicts.next_call(), self.first.take()) {
            (_, Some(first)) => Box::pin(behind(call.into_body(), first)),
            (None, None) => {
                let mut call = call.map(Into::into);
                if self.shared.verdicts.is_before_body() {
                    note_expectation(&mut call);
                }
                self.shared.call(call)
            }
            (Some(rule), None) => {
                let error = ErrorKind::BadRequest(rule).into();
                self.shared.service.refuse(&call.map(Into::into), error)
            }
        };
        Answering {
            serving,
            version: Version::Http1(Arc::clone(&self.shared)),
        }
    }
}

impl<S: Serve> Service<Request<Incoming>> for Http2<S> {
    type Response = Response<Body>;
    type Error = h2::Error;
    type Future = Answering<S>;

    fn call(&self, call: Request<Incoming>) -> Answering<S> {
        if self.streams.are_refused() {
            return Answering {
                serving: Box::pin(pending()),
                version: Version::Refused,
            };
        }
        if self.budget.is_worn() {
            // This call is still served.
            self.shared.seat.close();
        }
        Answering {
            serving: self
                .shared
                .call(call.map(|body| Body::sharing(body, &self.budget))),
            version: Version::Http2(Retreat::of(&self.retreats)),
        }
    }
}
