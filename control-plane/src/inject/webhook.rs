//! The webhook: the API server asks over HTTPS what becomes of each new pod.
//!
//! Whoever calls it learns no more than the settings, and so it asks nobody for a certificate.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use clap::Args;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

mod configuration;
mod keeping;
mod papers;
mod places;

pub use configuration::configuration;
pub(crate) use configuration::said;
pub use keeping::{InCluster, Keep, KeepError, Version};
pub use papers::{Authorities, PapersError};

use papers::Present;
use places::{Place, Places};

use super::review::{self, Outcome};
use super::{Asked, SettingsArgs};
use crate::faults::{Doing, Faults};
use crate::kubernetes::Owner;
use crate::lifecycle::Lifecycle;
use crate::metrics::Counts;

/// Whether there is a webhook.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sidecars for pods")]
pub struct WebhookArgs {
    /// Where the API server of Kubernetes asks what becomes of new pods; not served unless given. The key of
    /// its certificate's authority is in the Secret jitney-webhook of the control plane's namespace.
    #[arg(long, env = "JITNEY_WEBHOOK", value_name = "ADDR", value_parser = address)]
    pub webhook: Option<SocketAddr>,

    /// The MutatingWebhookConfiguration whose webhooks are told which authority to believe.
    #[arg(
        long,
        env = "JITNEY_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        default_value = configuration::NAME
    )]
    pub webhook_configuration: String,

    /// What pods are given.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl WebhookArgs {
    /// Serves the webhook until the control plane goes away, if there is to be one. What it keeps in the cluster is
    /// the owner's, a ClusterRole.
    ///
    /// # Errors
    /// When its address cannot be listened on, which is given, too.
    pub fn start(
        &self,
        owner: Option<String>,
        counts: &Counts,
        faults: &Arc<Faults>,
        lifecycle: &Lifecycle,
    ) -> Result<Option<JoinHandle<()>>, (SocketAddr, io::Error)> {
        let Some(address) = self.webhook else {
            return Ok(None);
        };
        let listener = listen(address).map_err(|error| (address, error))?;
        let webhook = Webhook::new(self.settings.clone(), counts.clone());
        let (faults, lifecycle) = (Arc::clone(faults), lifecycle.clone());
        lifecycle.webhook(false);
        let (namespace, configuration) = (
            self.settings.control_plane_namespace.clone(),
            self.webhook_configuration.clone(),
        );
        Ok(Some(tokio::spawn(async move {
            let keeping = async {
                let name = format!("{}.{namespace}.svc", configuration::SERVICE);
                let client = client().await;
                let owner = Owner::find(&client, owner.as_deref()).await;
                let keeper = InCluster::new(&client, &namespace, &configuration, owner);
                webhook.keep(&keeper, &name, &faults).await;
            };
            let presenting = async {
                drop(webhook.present.subscribe().wait_for(Option::is_some).await);
                lifecycle.webhook(true);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = webhook.clone().serve(listener, lifecycle.draining()) => {}
                () = keeping => {}
                () = presenting => {}
            }
        })))
    }
}

/// A client of the cluster that this runs in, or that a kubeconfig names.
async fn client() -> kube::Client {
    loop {
        match kube::Client::try_default().await {
            Ok(client) => return client,
            Err(error) => tracing::warn!(%error, "no cluster to keep the webhook's authority in"),
        }
        sleep(TRY_AGAIN).await;
    }
}

/// What answers the API server.
#[derive(Clone, Debug)]
pub struct Webhook {
    settings: Arc<SettingsArgs>,
    counts: Counts,
    /// What connections are accepted with, once there is something.
    present: watch::Sender<Option<Present>>,
}

impl Webhook {
    /// One that has no certificate yet: connections wait until [`Webhook::keep`] has one.
    pub fn new(settings: SettingsArgs, counts: Counts) -> Self {
        Self {
            settings: Arc::new(settings),
            counts,
            present: watch::Sender::new(None),
        }
    }

    /// Serves connections until the control plane goes away and those in flight are answered.
    ///
    /// # Cancellation
    /// Ends every connection at once.
    pub async fn serve(self, listener: TcpListener, draining: watch::Receiver<bool>) {
        let places = Places::new(CONNECTIONS_MAX);
        let router = self.router();
        let mut present = self.present.subscribe();
        let accepting = async {
            // Whoever comes before there is a certificate waits in the listen queue.
            drop(present.wait_for(Option::is_some).await);
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        let place = places.take(peer.ip().to_canonical()).await;
                        let (webhook, router, draining) = (self.clone(), router.clone(), draining.clone());
                        tokio::spawn(async move {
                            Box::pin(webhook.converse(stream, router, draining, place)).await;
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: another try at once would spin.
                        tracing::warn!(%error, "no connection of the API server accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        let mut ending = draining.clone();
        tokio::select! {
            () = accepting => {}
            () = begun(&mut ending) => {}
        }
        drop(timeout(ANSWERING, places.emptied()).await);
    }

    /// Until it ends, or somebody needs its place while nothing is asked.
    async fn converse(
        self,
        stream: TcpStream,
        router: Router,
        draining: watch::Receiver<bool>,
        place: Place,
    ) {
        let place = Arc::new(place);
        tokio::select! {
            () = self.served(stream, router, draining, &place) => {}
            () = place.is_needed() => tracing::debug!("a connection that asked nothing has made room"),
        }
    }

    async fn served(
        self,
        stream: TcpStream,
        router: Router,
        mut draining: watch::Receiver<bool>,
        place: &Arc<Place>,
    ) {
        drop(stream.set_nodelay(true));
        let Some(config) = self
            .present
            .borrow()
            .as_ref()
            .map(|present| Arc::clone(&present.config))
        else {
            return;
        };
        let stream = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::info!(%error, "no TLS with a caller of the webhook"),
            Err(_) => return,
        };
        let service =
            service_fn(|request: Request<Incoming>| answered(router.clone(), request, Arc::clone(place)));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = begun(&mut draining) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of the API server ended");
        }
    }

    fn router(&self) -> Router {
        Router::new()
            .route(FOR_ALL, post(for_all))
            .route(BY_THE_POD, post(by_the_pod))
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(self.clone())
    }

    fn answer(&self, body: &[u8], asked: Asked) -> Response<Body> {
        match review::answer(body, asked, &self.settings) {
            Ok((answer, outcome)) => {
                self.counts.injection(outcome);
                ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
            }
            Err(error) => {
                self.counts.injection(Outcome::Failed);
                tracing::info!(%error, "the webhook was asked nothing that it knows");
                (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
            }
        }
    }

    /// Keeps the certificate good, and the API server told whom to believe, for as long as this is polled.
    ///
    /// # Cancellation
    /// Safe: what is kept is written whole or not at all.
    pub async fn keep(&self, keeper: &impl Keep, name: &str, faults: &Faults) {
        loop {
            let looked = self.look(keeper, name, SystemTime::now()).await;
            let is_good = looked.is_ok();
            faults.note(Doing::Webhook, looked);
            sleep(if is_good { LOOK_EVERY } else { TRY_AGAIN }).await;
        }
    }

    /// Makes what is missing of authority and certificate, and publishes the former before the latter is used.
    async fn look(&self, keeper: &impl Keep, name: &str, now: SystemTime) -> Result<(), KeepError> {
        let authorities = agreed(keeper, now).await?;
        let published = keeper.publish(&authorities.certificates()).await;
        let before = self.present.borrow().clone();
        if let Some(present) = authorities.present(before.as_ref(), name, now)? {
            tracing::debug!(?present, "the webhook has a certificate");
            self.present.send_replace(Some(present));
        }
        // One that is not published is presented all the same: whoever configures it may do that by hand.
        published
    }
}

/// The authorities that all replicas have, which are made or renewed if need be.
async fn agreed(keeper: &impl Keep, now: SystemTime) -> Result<Authorities, KeepError> {
    for _ in 0..TURNS_MAX {
        let (wanted, version) = match keeper.load().await? {
            None => (Authorities::generate(now)?, None),
            Some((kept, version)) => match kept.renewed(now)? {
                None => return Ok(kept),
                Some(renewed) => (renewed, Some(version)),
            },
        };
        // Another replica may have been first: its word is as good.
        if keeper.store(&wanted, version).await? {
            return Ok(wanted);
        }
    }
    Err(KeepError::Contended)
}

/// Returns when the control plane goes away.
async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, and that is the same.
    drop(draining.wait_for(|draining| *draining).await);
}

async fn for_all(State(webhook): State<Webhook>, body: Bytes) -> Response<Body> {
    webhook.answer(&body, Asked::ForAll)
}

async fn by_the_pod(State(webhook): State<Webhook>, body: Bytes) -> Response<Body> {
    webhook.answer(&body, Asked::ByThePod)
}

async fn answered(
    router: Router,
    request: Request<Incoming>,
    place: Arc<Place>,
) -> Result<Response<Body>, Infallible> {
    let answering = async {
        let (head, body) = request.into_parts();
        let Ok(body) = to_bytes(Body::new(body), BODY_MAX).await else {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        };
        // Before that it asks nothing yet, however slowly it says so.
        let Some(_asking) = place.ask() else {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        let Ok(response) = router.oneshot(Request::from_parts(head, Body::from(body))).await;
        response
    };
    let answered = timeout(ANSWERING, answering).await;
    Ok(answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response()))
}

/// Listens where the API server is to ask.
///
/// # Errors
/// The system's own.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(address = %listener.local_addr()?, "webhook listening");
    Ok(listener)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ip:port, such as 0.0.0.0:15017 or [::]:15017".to_owned())
}

/// Asked about pods whose namespace wants sidecars, unless they say otherwise.
pub(crate) const FOR_ALL: &str = "/inject";
/// Asked about pods of other namespaces, which have to say so themselves.
pub(crate) const BY_THE_POD: &str = "/inject/pods";

/// The API server holds on to a few; a rollout of thousands of pods opens some more.
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// As long as the API server waits by default.
const ANSWERING: Duration = Duration::from_secs(10);
/// How long a head may take, and a connection be of no use: whoever holds all of them open holds up the API
/// server for no longer.
const IDLE: Duration = Duration::from_secs(15);
/// An object is at most 1.5 MiB (etcd), and a review holds little else.
const BODY_MAX: usize = 3 << 20;
/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether anything is to be renewed, or was changed by somebody.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon after a fault.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// How many replicas may be first.
const TURNS_MAX: usize = 4;

#[cfg(test)]
mod tests;
