//! A backend: its endpoints, which of them gets a call, and the connections to them.
//! Knows nothing of batches: a batch is one request like any other.

mod address;
mod again;
mod balance;
mod breaker;
mod ending;
mod endpoint;
mod failed;
mod gate;
mod http1;
mod http2;
mod lease;
mod ours;
mod roster;
mod secured;
mod silence;
mod treatment;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use jitney_core::concurrency::Who;
use jitney_core::grpc;
use jitney_core::policy::{Replay, Traffic};
use parking_lot::Mutex;

use crate::body::{Body, Passing};
use crate::error::{Error, ErrorKind};
use crate::memory::Memory;
use crate::metrics::{BackendMetrics, Metrics, UpstreamCall};
use crate::mtls::Mesh;
use crate::transport::Transport;

pub use address::{Address, Peer, Target};
pub(crate) use ending::{Due, Ending, Told};
pub use endpoint::EndpointView;
pub(crate) use gate::Gate;
pub use lease::Lease;
pub use ours::Ours;
pub(crate) use ours::Outgoing;

use again::Again;
use balance::Balancer;
use breaker::Watch;
use endpoint::Endpoint;
use roster::{Roster, Tried};
use silence::Silence;
use treatment::Treatment;

/// What the endpoints of a backend speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// What the caller spoke, as far as the endpoint speaks it.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What is not looked at, and never a call.
    Bytes,
}

/// How a backend is reached.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Its name in logs, metrics and the admin endpoint.
    pub name: Arc<str>,
    /// Its endpoints. Without any, calls fail with [`ErrorKind::NoEndpoint`].
    pub endpoints: Vec<Target>,
    /// What they speak.
    pub speaks: Speaks,
    /// The longest that making a connection may take. Default: [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// The most idle connections kept to one endpoint.
    pub max_idle: usize,
    /// How long a connection is kept without a call, at least; at most twice as long.
    pub idle_timeout: Duration,
    /// Where its calls and connections are counted.
    pub metrics: Arc<BackendMetrics>,
    /// What it has in common with the other backends of this sidecar.
    pub in_common: InCommon,
}

/// What cannot change while connections are open; a backend that is reached in another way is
/// another backend. Its endpoints are not part of it: they come and go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reach {
    /// The backend's name in logs, metrics and the admin endpoint.
    pub name: Arc<str>,
    /// What it speaks.
    pub speaks: Speaks,
    /// The longest that making a connection may take.
    pub connect_timeout: Duration,
}

/// What all backends of a sidecar have in common. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct InCommon {
    /// Who it is to those that answer at their endpoints.
    pub mesh: Mesh,
    /// Where their connections are remembered.
    pub ours: Ours,
    /// How short of memory the process is.
    pub memory: Memory,
    /// The zone that this sidecar is in, if it knows.
    pub zone: Option<Arc<str>>,
}

/// A named destination.
#[derive(Debug)]
pub struct Backend {
    /// Its name in logs, metrics and the admin endpoint.
    pub name: Arc<str>,
    /// Connections to it are passed on without a look at what they speak.
    pub is_opaque: bool,
    /// It is said to speak HTTP, in which callers speak first.
    is_http: bool,
    roster: ArcSwap<Roster>,
    balancer: Balancer,
    pub(crate) gate: Arc<Gate>,
    /// How short of memory the process is.
    pub(crate) memory: Memory,
    /// What new endpoints are made of. Locked while the roster changes, so that no change undoes another.
    settings: Mutex<BackendSettings>,
}

/// The bounds of one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// When the caller stops waiting for the head of the reply.
    pub deadline: Option<Instant>,
    /// Whether silence until then speaks against the endpoint. It does not where the caller chose how
    /// long that is: whoever is in a hurry could have endpoints taken out that work for everybody else.
    pub blames: bool,
    /// The longest that one try may take to the head of its reply. What the caller takes to send its body is not
    /// counted.
    pub per_try: Option<Duration>,
    /// Why it is made. Only a [`UpstreamCall::Single`] is tried again by the policy's `retry`.
    pub why: UpstreamCall,
    /// When it may be sent a second time.
    pub replay: Replay,
    /// Whether the dispatcher has seen to it that there is room for it.
    pub who: Who,
    /// It asks to switch protocols: it has a connection of its own, which is never pooled. A 101 in reply carries
    /// hyper's handle on that, and is bounded by nothing.
    pub switches: bool,
}

impl Sending {
    /// When silence speaks against the endpoint.
    fn blamed_after(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.blames)
    }

    /// Whether it matters how long an endpoint is silent.
    const fn is_timed(&self) -> bool {
        self.per_try.is_some() || (self.blames && self.deadline.is_some())
    }
}

/// The longest that making a connection may take where nobody says otherwise: as a Backend has it, and as Envoy.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A call whose connection failed is tried on so many other endpoints.
const OTHER_ENDPOINTS: usize = 3;

impl Reach {
    /// How a backend with these endpoints is reached so, counted by its name.
    pub(crate) fn settings(
        &self,
        endpoints: Vec<Target>,
        metrics: &Metrics,
        in_common: &InCommon,
    ) -> BackendSettings {
        BackendSettings {
            metrics: metrics.backend(&self.name),
            in_common: in_common.clone(),
            speaks: self.speaks,
            connect_timeout: self.connect_timeout,
            ..BackendSettings::new(Arc::clone(&self.name), endpoints)
        }
    }
}

impl BackendSettings {
    /// The defaults for these endpoints, counted on their own.
    pub fn new(name: impl Into<Arc<str>>, endpoints: Vec<Target>) -> Self {
        let name = name.into();
        Self {
            metrics: Metrics::new().backend(&name),
            name,
            endpoints,
            speaks: Speaks::Auto,
            connect_timeout: CONNECT_TIMEOUT,
            max_idle: 1024,
            idle_timeout: Duration::from_secs(45),
            in_common: InCommon::default(),
        }
    }
}

impl Backend {
    /// A backend without any connection yet. Must be called within a tokio runtime.
    pub fn new(settings: &BackendSettings) -> Self {
        let backend = Self {
            name: Arc::clone(&settings.name),
            is_opaque: settings.speaks == Speaks::Bytes,
            is_http: matches!(settings.speaks, Speaks::Http1 | Speaks::Http2),
            roster: ArcSwap::default(),
            balancer: Balancer::default(),
            gate: Arc::new(Gate::open()),
            memory: settings.in_common.memory.clone(),
            settings: Mutex::new(BackendSettings {
                endpoints: Vec::new(),
                ..settings.clone()
            }),
        };
        backend.reach(&settings.endpoints);
        backend
    }

    /// Has tries that begin from now on go to these endpoints; without any, calls fail with
    /// [`ErrorKind::NoEndpoint`]. An endpoint that stays keeps its connections and what was learned of it.
    /// One that goes finishes the calls it has, and its idle connections are closed at once. Must be
    /// called within a tokio runtime.
    pub fn reach(&self, endpoints: &[Target]) {
        let mut settings = self.settings.lock();
        if settings.endpoints == endpoints {
            return;
        }
        let before = self.roster.load_full();
        let start = |target: &Target| Endpoint::start(target.clone(), &settings, &self.gate);
        let next = Arc::new(before.moved(endpoints, start));
        if let Some(breaker) = &next.treatment.breaker {
            breaker.replace(&next.endpoints);
        }
        self.roster.store(Arc::clone(&next));
        before.gone(&next).for_each(|endpoint| endpoint.retire());
        settings.endpoints = endpoints.to_vec();
    }

    /// Has calls that begin from now on be treated so. What was learned stays, where its rule does.
    pub fn install(&self, traffic: &Traffic) {
        let _changing = self.settings.lock();
        self.gate
            .limit(traffic.circuit_breaker.map(|breaker| breaker.max_requests));
        self.gate.learn(traffic.adaptive_concurrency);
        let before = self.roster.load();
        let treatment = Treatment::of(traffic, &before.endpoints, &before.treatment);
        self.roster.store(Arc::new(before.treated(treatment)));
    }

    /// Sends a request and waits for the head of the reply. The head must have been through
    /// [`crate::headers::outbound`]; the reply's has been through [`crate::headers::inbound`].
    ///
    /// What was certainly not sent is tried on another connection or endpoint; an idempotent call
    /// without body is also tried once more when the idle connection that it was given proved dead. Beyond
    /// that, the policy's `retry` decides.
    ///
    /// # Errors
    /// The last attempt's.
    ///
    /// # Cancellation
    /// Dropping the future closes the connection, or resets the stream, that the call was sent on.
    ///
    /// The request stays in its place, which is empty once it may have been sent: moving it about costs
    /// more than anything else here does.
    pub async fn send(
        &self,
        unsent: &mut Option<Request<Body>>,
        sending: &Sending,
    ) -> Result<Response<Body>, Error> {
        let timed = unsent.as_mut().filter(|_| sending.is_timed());
        // Before what has passed of it is kept: then it has come.
        let body = timed.and_then(|request| request.body_mut().watched());
        // Pinned here, so that the future holds one copy of it and not one for each branch.
        let trying = pin!(self.try_endpoints(unsent, sending, body.as_ref()));
        match sending.deadline {
            None => trying.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), trying).await {
                Ok(Ok(mut reply)) => {
                    // Callers that say how long they wait end their calls themselves. A batch is bounded by those
                    // who wait for it.
                    if sending.blames && sending.why == UpstreamCall::Single {
                        reply.body_mut().limit(deadline, body.clone());
                    }
                    Ok(reply)
                }
                Ok(failed) => failed,
                Err(_) => Err(ErrorKind::DeadlineExceeded.into()),
            },
        }
    }

    async fn try_endpoints(
        &self,
        unsent: &mut Option<Request<Body>>,
        sending: &Sending,
        body: Option<&Arc<Passing>>,
    ) -> Result<Response<Body>, Error> {
        let from_http2 = unsent
            .as_ref()
            .is_some_and(|request| request.version() == Version::HTTP_2);
        let mut again = self.again(unsent.as_mut(), sending);
        let mut tried = Tried::new();
        let mut sending = *sending;
        loop {
            let headers = unsent.as_ref().map(Request::headers);
            let silence = Silence::begin(sending.blamed_after(), body);
            let (endpoint, watch) = self.choose(headers, &tried, &silence)?;
            let mut sent = endpoint.send(unsent, from_http2, &sending, &silence).await;
            if let Some(watch) = watch {
                watch.tell(&mut sent);
            }
            let may_go_on = tried.len() < OTHER_ENDPOINTS;
            tried.push(endpoint.id);
            if may_go_on && unsent.is_some() && is_better_elsewhere(&sent) && self.has_untried(&tried) {
                sending.why = UpstreamCall::Elsewhere;
                continue;
            }
            sending.why = UpstreamCall::Retry;
            let Some(again) = &mut again else { return sent };
            if !again.prepare(&sent, unsent) {
                return sent;
            }
            // Its connection is free for the next try.
            drop(sent);
            if !self.has_untried(&tried) {
                tried.clear();
                // Boxed as all that is rare.
                Box::pin(again.pause(self.balancer.random())).await;
            }
        }
    }

    /// An endpoint for the next try, not one of those tried already.
    fn choose(
        &self,
        headers: Option<&HeaderMap>,
        tried: &Tried,
        silence: &Silence,
    ) -> Result<(Arc<Endpoint>, Option<Watch>), Error> {
        let roster = self.roster.load();
        roster.choose(&self.balancer, headers, tried, silence)
    }

    /// Whether there is an endpoint left that was not tried yet.
    fn has_untried(&self, tried: &Tried) -> bool {
        self.roster.load().has_untried(tried)
    }

    /// The tries that the policy grants a call; a batch is isolated instead.
    fn again(&self, request: Option<&mut Request<Body>>, sending: &Sending) -> Option<Box<Again>> {
        if sending.why != UpstreamCall::Single {
            return None;
        }
        let retries = self.roster.load().treatment.retries.clone()?;
        request.map(|request| Again::new(retries, request, sending.replay))
    }

    /// A connection to an endpoint, for bytes that are not HTTP. Where none can be made nothing was sent: it is
    /// tried on other endpoints, as a call is.
    ///
    /// # Errors
    /// When none can be made; why not at the last endpoint.
    ///
    /// # Cancellation
    /// Nothing is left open.
    pub(crate) async fn connect(&self) -> Result<Transport<Outgoing>, Error> {
        let mut tried = Tried::new();
        loop {
            let (endpoint, watch) = self.choose(None, &tried, &Silence::begin(None, None))?;
            let (connected, outcome) = endpoint.connect_for_bytes().await;
            if let Some(mut watch) = watch {
                watch.end(outcome);
            }
            let may_go_on = tried.len() < OTHER_ENDPOINTS;
            tried.push(endpoint.id);
            if connected.is_ok() || !may_go_on || !self.has_untried(&tried) {
                return connected;
            }
        }
    }

    /// Counts a connection for which there was none.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        self.settings.lock().metrics.errors.inc(kind);
    }

    /// Whether its endpoints may be something that speaks before it is spoken to.
    pub(crate) const fn may_speak_first(&self) -> bool {
        !self.is_http
    }

    /// What is known of each endpoint.
    pub fn endpoints_snapshot(&self) -> Vec<EndpointView> {
        let roster = self.roster.load();
        let rest = |id| roster.treatment.breaker.as_ref()?.rest_left(id);
        let endpoints = roster.endpoints.iter();
        endpoints
            .map(|endpoint| EndpointView {
                rest: rest(endpoint.id),
                ..endpoint.view()
            })
            .collect()
    }
}

/// True for an error that another endpoint may not have.
fn is_better_elsewhere(sent: &Result<Response<Body>, Error>) -> bool {
    let own = |kind| matches!(kind, ErrorKind::TryTimeout | ErrorKind::Shed(..));
    sent.as_ref().is_err_and(|error| !own(error.kind()))
}

/// What a reply says of its call: of one of gRPC that is all head, what its code stands for.
fn said(reply: &Response<Body>) -> StatusCode {
    grpc::status(reply.status(), reply.headers())
}

/// True for a status that says the endpoint, not the request, is at fault.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED
}

#[cfg(test)]
mod tests;
