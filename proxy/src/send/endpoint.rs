//! One address of a backend: its connections, and how one request is exchanged over one of them.

use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use jitney_core::bias::{is_plea, retry_after};
use jitney_core::breaker::Outcome;
use jitney_core::concurrency::Answer;
use jitney_core::grpc;
use jitney_core::policy::Replay;

use super::address::{Address, Peer, Target};
use super::balance::Load;
use super::breaker::verdict;
use super::failed::{KEPT, broken, copy, is_idempotent_and_bodiless, is_of_stream, is_repeatable};
use super::gate::Gate;
use super::http1::Idle;
use super::http2::{Made, Shared};
use super::lease::{Held, Lease, Place};
use super::ours::{Ours, Outgoing};
use super::secured::{Secured, Via};
use super::silence::Silence;
use super::{BackendSettings, Sending, Speaks, said};
use crate::body::{Body, await_leave};
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::metrics::{BackendMetrics, OpenConnection};
use crate::mtls::{Connected, Inside};
use crate::transport::Transport;

/// One address of a backend.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// No other endpoint of this process ever has it.
    pub(super) id: u64,
    pub(super) target: Target,
    /// It is in the zone of this sidecar.
    pub(super) is_near: bool,
    pub(super) http1: Arc<Idle>,
    pub(super) load: Load,
    http2: Shared,
    secured: Secured,
    host: HeaderValue,
    speaks: Speaks,
    connect_timeout: Duration,
    /// Shared by all endpoints of the backend.
    pub(super) gate: Arc<Gate>,
    metrics: Arc<BackendMetrics>,
    ours: Ours,
    /// Set while no connection can be made, so that this is logged once.
    unreachable: AtomicBool,
}

/// What is known of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Where it is.
    pub address: Address,
    /// Whose sidecar it is, where new connections to it are secured.
    pub secured: Option<Peer>,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// Calls in flight.
    pub in_flight: usize,
    /// Idle HTTP/1.1 connections.
    pub idle: usize,
    /// Shared HTTP/2 connections.
    pub http2_connections: usize,
    /// The moving average of the time to the head of a reply; zero before the first.
    pub latency: Duration,
    /// The moving share of calls that failed, 0 to 1.
    pub failing: f64,
    /// How long it gets fewer calls because it said 429 or 503; `None` when it did not.
    pub spared: Option<Duration>,
    /// How long it gets no calls because they fail; zero while it is tried out, `None` when it works.
    pub rest: Option<Duration>,
}

/// How often a call that HTTP/2 connections refuse unread is sent again.
const HTTP2_ATTEMPTS: usize = 3;
/// The number of the next endpoint.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Endpoint {
    pub(super) fn start(target: Target, settings: &BackendSettings, gate: &Arc<Gate>) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            host: target.address.host(),
            is_near: target.zone.is_some() && target.zone == settings.in_common.zone,
            secured: Secured::new(&settings.in_common.mesh, target.peer.clone()),
            target,
            http1: Idle::start(settings.max_idle, settings.idle_timeout),
            load: Load::default(),
            http2: Shared::default(),
            speaks: settings.speaks,
            connect_timeout: settings.connect_timeout,
            gate: Arc::clone(gate),
            metrics: Arc::clone(&settings.metrics),
            ours: settings.in_common.ours.clone(),
            unreachable: AtomicBool::new(false),
        })
    }

    /// Closes the idle connections, and each of the others when its calls are done. Calls may still come
    /// from those who chose it before; they get connections of their own.
    pub(super) fn retire(&self) {
        self.http1.close();
        self.http2.close();
        self.secured.connections.close();
    }

    /// Sends a request. When this fails and the request is still in its place, it was certainly not sent.
    pub(super) async fn send(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        from_http2: bool,
        sending: &Sending,
        silence: &Silence,
    ) -> Result<Response<Body>, Error> {
        let probe = self.gate.admit(sending.who, silence)?;
        let place = Place::take(self)?;
        self.metrics.upstream_calls.inc(sending.why);
        let began = Load::clock();
        let exchange = pin!(self.exchange(unsent, from_http2, place, sending));
        let sent = match sending.per_try {
            None => exchange.await,
            Some(limit) => silence.within(limit, exchange).await,
        };
        let ended = Load::clock();
        let said = sent.as_ref().map(said);
        match &sent {
            Ok(reply) => {
                self.metrics.upstream_replies.inc(reply.status().into());
                self.metrics.upstream_duration.observe_time(ended - began);
                self.was_reached();
                if said.is_ok_and(is_plea) {
                    self.load.spare(retry_after(reply.headers()));
                }
            }
            Err(error) => self.was_not_reached(error),
        }
        probe.tell(match verdict(said) {
            // It comes sooner than a reply: taken for latency it would attract more calls.
            Outcome::Good if said.is_ok_and(is_plea) => Some(Answer::Failed),
            Outcome::Good => {
                self.load.succeeded(began, ended);
                Some(Answer::Good)
            }
            Outcome::Failed => {
                self.load.failed();
                Some(Answer::Failed)
            }
            Outcome::Unknown => None,
        });
        sent
    }

    async fn exchange(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        from_http2: bool,
        place: Place,
        sending: &Sending,
    ) -> Result<Response<Body>, Error> {
        match self.secured.is_used() {
            _ if sending.switches => Box::pin(self.send_to_switch(unsent, place)).await,
            false => self.send_bare(unsent, from_http2, place, sending.replay).await,
            true => Box::pin(self.send_secured(unsent, from_http2, place, sending.replay)).await,
        }
    }

    /// Whether connections could be made when one was last tried.
    pub(super) fn is_reachable(&self) -> bool {
        !self.unreachable.load(Ordering::Relaxed)
    }

    /// True when it could not be before.
    fn was_reached(&self) -> bool {
        let is_news = !self.is_reachable() && self.unreachable.swap(false, Ordering::Relaxed);
        if is_news {
            tracing::info!(endpoint = %self.target.address, "an endpoint can be reached again");
        }
        is_news
    }

    fn was_not_reached(&self, error: &Error) {
        let no_connection = matches!(error.kind(), ErrorKind::Connect | ErrorKind::ConnectTimeout);
        if no_connection && !self.unreachable.swap(true, Ordering::Relaxed) {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(endpoint = %self.target.address, %error, cause, "an endpoint cannot be reached");
        }
    }

    async fn send_bare(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        from_http2: bool,
        place: Place,
        replay: Replay,
    ) -> Result<Response<Body>, Error> {
        if let Some(request) = unsent
            .as_mut()
            .filter(|request| request.version() == Version::HTTP_2)
        {
            // It was made ready for a sidecar.
            headers::take_version(request);
        }
        let is_lost = || {
            unsent
                .as_ref()
                .is_some_and(|call| grpc::needs_http2(call.headers()))
        };
        match self.speaks_http2(from_http2, is_lost).await {
            Ok(false) => self.send_http1(unsent, place, replay).await,
            Ok(true) => Box::pin(self.send_http2(unsent, place, replay, Via::Bare)).await,
            Err(error) => Err(error),
        }
    }

    /// Between sidecars every call is one of HTTP/2, which says what it was before.
    async fn send_secured(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        from_http2: bool,
        place: Place,
        replay: Replay,
    ) -> Result<Response<Body>, Error> {
        let sent = self.send_http2(unsent, place, replay, Via::Secured).await;
        match sent {
            Err(error) if self.secured.gives_way(&error) => {
                self.send_bare(unsent, from_http2, Place::take(self)?, replay)
                    .await
            }
            sent => sent,
        }
    }

    /// Whether HTTP/2 is spoken to it; of a call that is `lost` over HTTP/1.1, whether it may be.
    async fn speaks_http2(&self, from_http2: bool, is_lost: impl FnOnce() -> bool) -> Result<bool, Error> {
        match self.speaks {
            Speaks::Http1 => Ok(false),
            Speaks::Http2 => Ok(true),
            Speaks::Auto if from_http2 => {
                Box::pin(self.http2.is_spoken(is_lost(), || self.connect_bare())).await
            }
            Speaks::Auto | Speaks::Bytes => Ok(false),
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        place: Place,
        replay: Replay,
    ) -> Result<Response<Body>, Error> {
        let mut idle = self.http1.take();
        // Whether a connection that idled is still alive shows only when it is used.
        let mut again = None;
        if let Some(request) = unsent {
            headers::to_http1(request, &self.host);
            await_leave(request);
            if idle.is_some() && replay != Replay::Never && is_idempotent_and_bodiless(request) {
                again = copy(request);
            }
        }
        loop {
            let is_reused = idle.is_some();
            let sender = match idle.take() {
                Some(sender) => sender,
                // Boxed as all that is rare: what every call's future holds is moved with it.
                None => Box::pin(self.new_http1()).await?,
            };
            let request = unsent.take().ok_or(ErrorKind::UpstreamReset)?;
            let (sending, held) = super::http1::send(sender, request);
            let mut failure = match sending.await {
                Ok(reply) => return finish(reply, held, place, false),
                Err(failure) => failure,
            };
            *unsent = failure.take_message();
            if unsent.is_none() && !failure.error().is_parse() {
                *unsent = again.take();
            }
            if !is_reused || unsent.is_none() {
                return Err(broken(failure));
            }
        }
    }

    async fn new_http1(&self) -> Result<http1::SendRequest<Body>, Error> {
        let stream = self.connect_bare().await?;
        super::http1::handshake(stream, false).await
    }

    async fn send_http2(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        place: Place,
        replay: Replay,
        via: Via,
    ) -> Result<Response<Body>, Error> {
        let shared = self.shared(via);
        let (mut again, mut attempts) = (None, 0);
        let is_head = unsent
            .as_ref()
            .is_some_and(|request| request.method() == Method::HEAD);
        loop {
            attempts += 1;
            let (sender, mut stream) = shared.sender(|| self.new_http2(via)).await?;
            if attempts == 1
                && let Some(request) = unsent
            {
                if via == Via::Secured {
                    headers::tell_version(request);
                }
                headers::to_http2(request, &self.host);
                // Whatever its method: a peer that ends the connection leaves out what has just been sent on it.
                request.body_mut().keep(KEPT);
                again = copy(request);
            }
            let request = unsent.take().ok_or(ErrorKind::UpstreamReset)?;
            let mut failure = match shared.send(sender, request).await {
                Ok(reply) => {
                    stream.answered();
                    return finish(reply, Held::Http2(stream), place, is_head);
                }
                Err(failure) => failure,
            };
            *unsent = failure.take_message();
            if unsent.is_none() {
                let repeatable = |copy: &Request<Body>| is_repeatable(failure.error(), copy, replay);
                *unsent = again.take().filter(repeatable);
                // Too much of the body may have passed.
                *unsent = unsent.take_if(|copy| copy.body_mut().claim());
            }
            if attempts == HTTP2_ATTEMPTS || unsent.is_none() {
                if !is_of_stream(failure.error()) {
                    // What listens there may have been replaced by something of HTTP/1.1.
                    self.http2.forget();
                }
                return Err(broken(failure));
            }
        }
    }

    const fn shared(&self, via: Via) -> &Shared {
        match via {
            Via::Bare => &self.http2,
            Via::Secured => &self.secured.connections,
        }
    }

    async fn new_http2(&self, via: Via) -> Result<Made, Error> {
        let (stream, standing) = match via {
            Via::Bare => (self.connect_bare().await?, None),
            Via::Secured => {
                let Connected { stream, standing } = self.connect_secured(Inside::Http2).await?;
                (stream, Some(standing))
            }
        };
        let shared = self.shared(via);
        super::http2::handshake(stream, standing, shared.queue()).await
    }

    /// Sends a request that asks to switch protocols, over a connection of its own.
    async fn send_to_switch(
        self: &Arc<Self>,
        unsent: &mut Option<Request<Body>>,
        place: Place,
    ) -> Result<Response<Body>, Error> {
        let stream = self.connect(Inside::Http1).await?;
        let sender = super::http1::handshake(stream, true).await?;
        let mut request = unsent.take().ok_or(ErrorKind::UpstreamReset)?;
        headers::to_http1(&mut request, &self.host);
        let is_head = request.method() == Method::HEAD;
        let (sending, _held) = super::http1::send(sender, request);
        let mut failure = match sending.await {
            // What is switched to may last for hours, and says nothing of load: its place is given back.
            Ok(reply) if reply.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Ok(reply.map(|_| Body::empty()));
            }
            Ok(reply) => return finish(reply, Held::Nothing, place, is_head),
            Err(failure) => failure,
        };
        *unsent = failure.take_message();
        Err(broken(failure))
    }

    /// A connection for bytes, and what that says of the endpoint.
    pub(super) async fn connect_for_bytes(&self) -> (Result<Transport<Outgoing>, Error>, Outcome) {
        let began = Load::clock();
        let connected = self.connect(Inside::Bytes).await;
        let outcome = match &connected {
            Ok(_) if self.speaks == Speaks::Bytes => {
                self.was_reached();
                self.load.succeeded(began, Load::clock());
                Outcome::Good
            }
            Ok(_) if self.was_reached() => Outcome::Good,
            // It says nothing of the calls on other connections.
            Ok(_) => Outcome::Unknown,
            Err(error) => {
                self.was_not_reached(error);
                self.load.failed();
                Outcome::Failed
            }
        };
        (connected, outcome)
    }

    /// A connection for bytes, or for one call that is to switch protocols.
    async fn connect(&self, inside: Inside) -> Result<Transport<Outgoing>, Error> {
        if self.secured.is_used() {
            match self.connect_secured(inside).await {
                Err(error) if self.secured.gives_way(&error) => {}
                connected => return connected.map(|connected| connected.stream),
            }
        }
        self.connect_bare().await
    }

    async fn connect_secured(&self, inside: Inside) -> Result<Connected<Outgoing>, Error> {
        self.in_time(async { self.secured.connect(self.dial().await?, inside).await })
            .await
    }

    async fn connect_bare(&self) -> Result<Transport<Outgoing>, Error> {
        self.in_time(async { self.dial().await.map(Transport::Bare) })
            .await
    }

    async fn in_time<C>(&self, connecting: impl Future<Output = Result<C, Error>>) -> Result<C, Error> {
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        connected.unwrap_or_else(|_| Err(ErrorKind::ConnectTimeout.into()))
    }

    async fn dial(&self) -> Result<Outgoing, Error> {
        let dialled = self.target.address.connect().await;
        let stream = dialled.map_err(|error| Error::caused(ErrorKind::Connect, error))?;
        Ok(self.ours.remember(stream, OpenConnection::count(&self.metrics)))
    }

    pub(super) fn view(&self) -> EndpointView {
        let (latency, failing) = self.load.averages();
        EndpointView {
            address: self.target.address.clone(),
            secured: self.secured.is_used().then(|| self.target.peer.clone()).flatten(),
            zone: self.target.zone.clone(),
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
            idle: self.http1.len(),
            http2_connections: self.http2.len() + self.secured.connections.len(),
            latency,
            failing,
            spared: self.load.spared(),
            rest: None,
        }
    }
}

/// Makes a reply of the head; its body gives the connection back when it was read to its end.
fn finish(
    reply: Response<Incoming>,
    held: Held,
    place: Place,
    is_head: bool,
) -> Result<Response<Body>, Error> {
    // Nobody asked this connection to switch protocols: what follows cannot be trusted.
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ErrorKind::UpstreamProtocol("a 101 that nobody asked for").into());
    }
    let (mut head, stream) = reply.into_parts();
    headers::inbound(&mut head)?;
    head.version = Version::HTTP_11;
    let mut lease = Lease::new(held, place);
    let body = if http_body::Body::is_end_stream(&stream) {
        lease.give_back(None);
        Body::empty()
    } else if is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        lease.only_ends(stream);
        Body::empty()
    } else {
        Body::leased(stream, lease)
    };
    Ok(Response::from_parts(head, body))
}
