//! The stream to a control plane: opened, kept, and opened again.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use jitney_api::push::Kind;
use jitney_api::push::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use jitney_api::push::config::reports_client::ReportsClient;
use jitney_api::push::config::{BatchFinding, FailingRoute};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::backoff::{Backoff, any_of};
use super::channel::{Channel, ControlPlaneUrl, tls_error};
use super::duty::Duty;
use super::identity::{Identity, IdentityError};
use super::snapshot::Disk;
use super::trust::Trust;
use crate::metrics::Metrics;

/// Everything that outlives a stream.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) urls: Vec<ControlPlaneUrl>,
    pub(super) trust: Trust,
    pub(super) identity: Identity,
    pub(super) duty: Duty,
    pub(super) disk: Option<Disk>,
    pub(super) standing: Shared,
    pub(super) metrics: Metrics,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("{}", told(.0))]
    Stream(Box<tonic::Status>),
}

impl Broken {
    /// How long the control plane asks to be left alone (gRFC A6), at most a minute.
    fn pushback(&self) -> Option<Duration> {
        let asked = self
            .status()?
            .metadata()
            .get("grpc-retry-pushback-ms")?
            .to_str()
            .ok()?;
        let asked = Duration::from_millis(asked.parse().ok()?);
        Some(asked.min(PUSHBACK_MAX))
    }

    /// What the control plane said that answered, and would not.
    fn refusal(&self) -> Option<String> {
        use tonic::Code::{
            FailedPrecondition, InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated,
            Unimplemented,
        };
        let status = self.status()?;
        let is_refusal = matches!(
            status.code(),
            FailedPrecondition
                | InvalidArgument
                | PermissionDenied
                | ResourceExhausted
                | Unauthenticated
                | Unimplemented
        );
        is_refusal.then(|| match self {
            Self::Identity(error @ IdentityError::TokenRefused { .. }) => error.to_string(),
            Self::Identity(_) | Self::Connect(_) | Self::Stream(_) => status.message().to_owned(),
        })
    }

    fn status(&self) -> Option<&tonic::Status> {
        match self {
            Self::Stream(status)
            | Self::Identity(IdentityError::Refused(status) | IdentityError::TokenRefused { status, .. }) => {
                Some(status)
            }
            Self::Identity(_) | Self::Connect(_) => None,
        }
    }

    /// Whether somebody answered whom no root that is trusted knows. Roots of one mesh have one name, so that
    /// another one's signature may be what is wrong.
    pub(super) fn is_about_trust(&self) -> bool {
        use rustls::CertificateError::{BadSignature, UnknownIssuer};
        let Self::Connect(error) = self else { return false };
        matches!(
            tls_error(error),
            Some(rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature))
        )
    }

    /// Whether it may be the certificate that is not taken, as long as nothing was answered: said so, or by the end
    /// of TLS, which has no code and may come before the call is sent.
    pub(super) fn is_about_identity(&self) -> bool {
        use tonic::Code::{Cancelled, Unknown};
        let code = self.status().map(tonic::Status::code);
        self.denies_identity() || matches!(code, Some(Unknown | Cancelled))
    }

    /// Whether it was said that the certificate is not taken. A stream that was open may end without a word because
    /// its control plane has died.
    fn denies_identity(&self) -> bool {
        use tonic::Code::{PermissionDenied, Unauthenticated};
        let code = self.status().map(tonic::Status::code);
        matches!(code, Some(Unauthenticated | PermissionDenied))
    }
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

/// How a stream ended that was not broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The control plane closed it: another one may take over.
    Closed,
    /// There is a new certificate to be used.
    Renewed,
}

impl Session {
    /// Keeps a stream open, for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        // Any of them: each has its share of the sidecars.
        let mut turn = any_of(self.urls.len());
        loop {
            let url = self.urls[turn % self.urls.len()].clone();
            let began = Instant::now();
            let ended = self.stream(&url).await;
            // One that ends streams as soon as they begin is to be left alone, too.
            if self.disconnected(&url, &ended) && began.elapsed() > STABLE {
                backoff.reset();
            }
            if matches!(ended, Ok(Ended::Renewed)) {
                continue;
            }
            turn += 1;
            let asked = ended.err().and_then(|broken| broken.pushback());
            tokio::time::sleep(asked.unwrap_or_default() + backoff.next()).await;
        }
    }

    async fn stream(&mut self, url: &ControlPlaneUrl) -> Result<Ended, Broken> {
        if self.identity.fresh_for(&self.trust, SystemTime::now()).is_zero() {
            self.renewed_before(url).await?;
        }
        let Some(id) = self.identity.id() else {
            return Ok(Ended::Renewed);
        };
        let channel = Channel::connect(url, self.identity.tls(&self.trust)?).await?;
        self.duty.open(&id.workload);
        let (requests, sent) = mpsc::channel(REQUESTS);
        self.speak(&requests).await?;
        let mut reports = ReportsClient::with_origin(channel.clone(), url.origin());
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel, url.origin());
        let opening = client.delta_aggregated_resources(ReceiverStream::new(sent));
        let opened = tokio::time::timeout(PATIENCE, opening).await;
        let mut responses = opened.map_err(|_| stuck())??.into_inner();
        self.connected(url);
        self.identity.connected();
        let (mut save_at, mut listeners) = (None, self.duty.listeners());
        let (mut told, mut look_at) = (BTreeMap::new(), Instant::now());
        loop {
            let fresh_for = self.identity.fresh_for(&self.trust, SystemTime::now());
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response? else { return Ok(Ended::Closed) };
                    self.take(response);
                    self.speak(&requests).await?;
                    if self.duty.is_unsaved() {
                        save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
                    }
                }
                () = sleep_until(save_at) => {
                    save_at = None;
                    if let Some(disk) = &self.disk {
                        self.duty.save(disk);
                    }
                }
                () = sleep_until(self.duty.retry_at()) => {
                    self.duty.retry();
                    self.speak(&requests).await?;
                }
                Ok(()) = listeners.changed() => {
                    self.duty.complain();
                    self.speak(&requests).await?;
                }
                () = sleep_until(self.duty.look_at()) => {
                    self.report(&mut reports).await;
                }
                () = tokio::time::sleep_until(look_at) => {
                    self.report_batches(&mut reports, &mut told).await;
                    look_at = Instant::now() + LOOK_AT_BATCHES;
                }
                // Clocks are set, and sleeps do not notice.
                () = tokio::time::sleep(fresh_for.min(LOOK_EVERY)) => {
                    if fresh_for > LOOK_EVERY {
                        continue;
                    }
                    match self.identity.renew(url, &self.trust).await {
                        Ok(()) => return Ok(Ended::Renewed),
                        Err(error) => {
                            tracing::warn!(%error, "the certificate is not renewed");
                            self.doubt(&error);
                            self.identity.postpone(&self.trust, SystemTime::now());
                        }
                    }
                }
            }
        }
    }

    /// Gets a certificate before a stream is opened. One that is good still does where the control plane is there
    /// and has none.
    async fn renewed_before(&mut self, url: &ControlPlaneUrl) -> Result<(), Broken> {
        let Err(error) = self.identity.renew(url, &self.trust).await else {
            return Ok(());
        };
        let now = SystemTime::now();
        if matches!(error, Broken::Connect(_)) || !self.identity.is_good(now) {
            return Err(error);
        }
        tracing::warn!(%error, "the certificate is not renewed");
        self.identity.postpone(&self.trust, now);
        Ok(())
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        let is_about_trust = response.type_url == Kind::TrustBundle.type_url();
        self.duty.take(response, &self.trust);
        if is_about_trust {
            self.identity.show(&self.trust);
        }
    }

    async fn report(&mut self, reports: &mut ReportsClient<Channel>) {
        for finding in self.duty.look() {
            let (policy, before, since) = (&finding.name, finding.before, finding.since);
            tracing::warn!(
                policy,
                before,
                since,
                "calls fail more often since a policy changed"
            );
            // Told again by whoever looks at the metrics.
            let told = tokio::time::timeout(REPORT, reports.report(finding)).await;
            if let Ok(Err(status)) = told {
                tracing::debug!(%status, "the control plane took no report");
            }
        }
    }

    /// Tells how the batches of policies do, where that is another thing than was told on this stream.
    async fn report_batches(
        &mut self,
        reports: &mut ReportsClient<Channel>,
        told: &mut BTreeMap<String, BatchFinding>,
    ) {
        let present = self.duty.batches();
        let is_over = |policy: &&BatchFinding| !present.contains_key(&policy.name);
        let over = told.values().filter(is_over).map(|finding| BatchFinding {
            routes: Vec::new(),
            ..finding.clone()
        });
        let is_news = |finding: &&BatchFinding| told.get(&finding.name) != Some(finding);
        let news = present.values().filter(is_news).cloned();
        for finding in over.chain(news).collect::<Vec<_>>() {
            for FailingRoute { name: route, reason } in &finding.routes {
                tracing::warn!(
                    policy = finding.name,
                    route,
                    reason,
                    "the batches of a route fail"
                );
            }
            let noted = tokio::time::timeout(REPORT, reports.batches(finding)).await;
            if let Ok(Err(status)) = noted {
                tracing::debug!(%status, "the control plane took no report");
            }
        }
        *told = present;
    }

    async fn speak(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), Broken> {
        while let Some(request) = self.duty.say() {
            match requests.send_timeout(request, PATIENCE).await {
                Ok(()) => {}
                // The stream has ended, which the reader of responses notices.
                Err(SendTimeoutError::Closed(_)) => break,
                Err(SendTimeoutError::Timeout(_)) => return Err(stuck()),
            }
        }
        Ok(())
    }

    fn connected(&self, url: &ControlPlaneUrl) {
        self.trust.believe();
        tracing::info!(control_plane = %url, "connected");
        let mut standing = self.standing.lock();
        standing.connected = Some(url.to_string());
        standing.fault = None;
        self.metrics.process().control_plane.connected();
    }

    /// Told once for each reason: it is tried again many times. True when there was a stream.
    fn disconnected(&mut self, url: &ControlPlaneUrl, ended: &Result<Ended, Broken>) -> bool {
        if self.duty.is_unsaved()
            && let Some(disk) = &self.disk
        {
            self.duty.save(disk);
        }
        let mut standing = self.standing.lock();
        let was_connected = standing.connected.take().is_some();
        if was_connected {
            self.metrics.process().control_plane.disconnected();
        }
        match ended {
            Ok(Ended::Renewed) => {}
            Ok(Ended::Closed) => tracing::info!(control_plane = %url, "the control plane closed the stream"),
            Err(broken) => {
                let refusal = broken.refusal();
                let is_refusal = refusal.is_some();
                let fault = match refusal {
                    Some(reason) => format!("refused: {reason}"),
                    None if broken.is_about_trust() => format!("{broken}: {}", self.trust.who_is_unknown()),
                    None => broken.to_string(),
                };
                if was_connected || standing.fault.as_ref() != Some(&fault) {
                    match (is_refusal, broken) {
                        (true, _) => {
                            tracing::warn!("the control plane at {url} {fault}; what is in force stays");
                        }
                        (false, Broken::Identity(_)) => {
                            tracing::warn!(control_plane = %url, fault, "no certificate; what is in force stays");
                        }
                        (false, Broken::Connect(_) | Broken::Stream(_)) => {
                            tracing::warn!(control_plane = %url, fault, "no control plane; what is in force stays");
                        }
                    }
                }
                standing.fault = Some(fault);
                drop(standing);
                let is_turned_away = match was_connected {
                    true => broken.denies_identity(),
                    false => broken.is_about_identity(),
                };
                if matches!(broken, Broken::Stream(_)) && is_turned_away {
                    self.identity.doubt();
                }
                self.doubt(broken);
            }
        }
        was_connected
    }

    /// It may be that the roots are no longer the right ones.
    fn doubt(&self, broken: &Broken) {
        if broken.is_about_trust() {
            self.trust.doubt();
        }
    }
}

/// What the control plane has said, or that it has said nothing: its connection broke.
fn told(status: &tonic::Status) -> String {
    let mut cause = std::error::Error::source(status);
    if cause.is_none() {
        return format!("{}: {}", status.code(), status.message());
    }
    // Of what ended it only a refusal by TLS is of use.
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("fatal alert") {
            return format!("the connection was ended: {text}");
        }
        cause = error.source();
    }
    "the connection was lost".to_owned()
}

/// It answers for its connection, and not for what is asked on it.
fn stuck() -> Broken {
    tonic::Status::deadline_exceeded("the control plane does not answer").into()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Requests that are not sent yet: a slow control plane holds up only this thread.
const REQUESTS: usize = 16;

/// A stream that lasts so long is one.
const STABLE: Duration = Duration::from_secs(5);

/// The longest that a control plane may take to open a stream, or to read from it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a certificate is trusted to be fresh without a look at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// A control plane that asks for more is not there.
const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// The longest that the taking of a report may hold up what is pushed.
const REPORT: Duration = Duration::from_secs(1);

/// How often a sidecar looks whether batches fail: people are told, and they have time.
const LOOK_AT_BATCHES: Duration = Duration::from_secs(5);

/// What changes in quick succession is written once.
const SAVE_AFTER: Duration = Duration::from_millis(100);
