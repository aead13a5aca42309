//! A backend: its endpoints, which of them gets a call, and the connections to them.
//! Knows nothing of batches: a batch is one request like any other.

mod address;
mod balance;
mod endpoint;
mod http1;
mod http2;
mod lease;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode, Version};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::metrics::{BackendMetrics, Metrics, UpstreamCall};

pub use address::Address;
pub use balance::Balance;
pub use endpoint::EndpointView;
pub use lease::Lease;

use balance::Balancer;
use endpoint::Endpoint;

/// What the endpoints of a backend speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// What the caller spoke, as far as the endpoint speaks it.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// How a backend is reached.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Its name in logs, metrics and the admin endpoint.
    pub name: Arc<str>,
    /// Its endpoints.
    pub endpoints: Vec<Address>,
    /// What they speak.
    pub speaks: Speaks,
    /// How one is chosen.
    pub balance: Balance,
    /// The longest that making a connection may take.
    pub connect_timeout: Duration,
    /// The most idle connections kept to one endpoint.
    pub max_idle: usize,
    /// How long a connection is kept without a call, at least; at most twice as long.
    pub idle_timeout: Duration,
    /// Where its calls and connections are counted.
    pub metrics: Arc<BackendMetrics>,
}

/// A named destination.
#[derive(Debug)]
pub struct Backend {
    /// Its name in logs, metrics and the admin endpoint.
    pub name: Arc<str>,
    endpoints: Box<[Arc<Endpoint>]>,
    balancer: Balancer,
}

/// The bounds of one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// When the caller stops waiting for the head of the reply.
    pub deadline: Option<Instant>,
    /// The longest that one try may take to the head of its reply.
    pub per_try: Option<Duration>,
    /// Why it is made.
    pub why: UpstreamCall,
}

/// A call whose connection failed is tried on so many other endpoints.
const OTHER_ENDPOINTS: usize = 3;

impl BackendSettings {
    /// The defaults for these endpoints, counted on their own.
    pub fn new(name: impl Into<Arc<str>>, endpoints: Vec<Address>) -> Self {
        let name = name.into();
        Self {
            metrics: Metrics::new().backend(&name),
            name,
            endpoints,
            speaks: Speaks::Auto,
            balance: Balance::PeakEwma,
            connect_timeout: Duration::from_secs(1),
            max_idle: 1024,
            idle_timeout: Duration::from_secs(45),
        }
    }
}

impl Backend {
    /// A backend without any connection yet.
    pub fn new(settings: &BackendSettings) -> Self {
        let endpoints = settings
            .endpoints
            .iter()
            .map(|address| Endpoint::start(address.clone(), settings))
            .collect();
        Self {
            name: Arc::clone(&settings.name),
            endpoints,
            balancer: Balancer::new(settings.balance.clone()),
        }
    }

    /// Sends a request and waits for the head of the reply. The head must have been through
    /// [`crate::headers::outbound`]; the reply's has been through [`crate::headers::inbound`].
    ///
    /// What was certainly not sent is tried on another connection or endpoint; an idempotent call
    /// without body is also tried once more when the idle connection that it was given proved dead.
    ///
    /// # Errors
    /// The last attempt's.
    ///
    /// # Cancellation
    /// Dropping the future closes the connection, or resets the stream, that the call was sent on.
    pub async fn send(&self, request: Request<Body>, sending: &Sending) -> Result<Response<Body>, Error> {
        let mut unsent = Some(request);
        // Pinned here, so that the future holds one copy of it and not one for each branch.
        let trying = pin!(self.try_endpoints(&mut unsent, sending));
        match sending.deadline {
            None => trying.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), trying).await {
                Ok(sent) => sent,
                Err(_) => Err(ErrorKind::DeadlineExceeded.into()),
            },
        }
    }

    /// The request stays in its place, which is empty once it may have been sent: moving it about costs more
    /// than anything else here does.
    async fn try_endpoints(
        &self,
        unsent: &mut Option<Request<Body>>,
        sending: &Sending,
    ) -> Result<Response<Body>, Error> {
        let from_http2 = unsent
            .as_ref()
            .is_some_and(|request| request.version() == Version::HTTP_2);
        let mut tried: SmallVec<[usize; OTHER_ENDPOINTS]> = SmallVec::new();
        loop {
            let at = self
                .balancer
                .pick(&self.endpoints, unsent.as_ref().map(Request::headers), &tried)?;
            let why = if tried.is_empty() {
                sending.why
            } else {
                UpstreamCall::Retry
            };
            let sending = Sending { why, ..*sending };
            let sent = attempt(&self.endpoints[at], unsent, from_http2, &sending).await;
            let may_go_on = tried.len() < OTHER_ENDPOINTS && tried.len() + 1 < self.endpoints.len();
            match sent {
                Err(error) if unsent.is_some() && may_go_on && error.kind() != ErrorKind::TryTimeout => {
                    tried.push(at);
                }
                sent => return sent,
            }
        }
    }

    /// Sends a request that asks to switch protocols, over a connection of its own that is never pooled.
    /// A 101 in reply carries hyper's handle on the connection.
    ///
    /// # Errors
    /// As [`Backend::send`].
    pub(crate) async fn upgrade(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let at = self
            .balancer
            .pick(&self.endpoints, Some(request.headers()), &[])?;
        self.endpoints[at].upgrade(request).await
    }

    /// A bare connection to an endpoint, for bytes that are not HTTP.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) async fn connect(&self) -> Result<TcpStream, Error> {
        let at = self.balancer.pick(&self.endpoints, None, &[])?;
        self.endpoints[at].connect().await
    }

    /// What is known of each endpoint.
    pub fn endpoints_snapshot(&self) -> Vec<EndpointView> {
        self.endpoints.iter().map(|endpoint| endpoint.view()).collect()
    }
}

/// One try, with its bound.
async fn attempt(
    endpoint: &Arc<Endpoint>,
    unsent: &mut Option<Request<Body>>,
    from_http2: bool,
    sending: &Sending,
) -> Result<Response<Body>, Error> {
    let sent = pin!(endpoint.send(unsent, from_http2, sending.why));
    let Some(limit) = sending.per_try else {
        return sent.await;
    };
    if let Ok(sent) = tokio::time::timeout(limit, sent).await {
        return sent;
    }
    endpoint.load.failed();
    Err(ErrorKind::TryTimeout.into())
}

/// True for a status that says the endpoint, not the request, is at fault.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED
}
