//! Who may call, asked for every call before it may join a batch; and for a connection of bytes when it begins,
//! and again whenever the rules change.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Request};
use jitney_api::{InboundMtls, Mtls};
use jitney_core::access::{Access, Asked};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::accept::Seat;
use crate::batching::alarm::now;
use crate::connection::ConnInfo;
use crate::log::Seldom;
use crate::metrics::{Metrics, Unauthorized};
use crate::mtls::Standing;

/// The rules in force, which change while connections are open. Clones are the same.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: Arc<ArcSwap<Rules>>,
    /// Told of when the rules change.
    changed: watch::Sender<()>,
    metrics: Metrics,
    /// Connections may be older than what is asked of them now.
    asks_again: bool,
    refusals: Arc<Seldom<Refused>>,
}

/// Refusals of which one stands for all.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Refused {
    port: u16,
    caller: Caller,
    why: &'static str,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Caller {
    Proven(Arc<str>),
    Unproven(IpAddr),
}

/// Who may call; nobody else is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// `None`: everybody.
    pub(crate) access: Option<Access>,
    /// What callers have to have proven.
    pub(crate) mtls: InboundMtls,
    /// Ports of listeners whose callers have to have proven who they are, also those that came before.
    pub(crate) strict: Vec<u16>,
}

/// That bytes are passed on for somebody, until the rules say otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    connection: Arc<ConnInfo>,
    /// With which they began; `None`: they were bytes from the beginning.
    call: Option<(Method, String)>,
    /// Since before it was asked for; `None`: nobody guards it.
    changed: Option<watch::Receiver<()>>,
}

impl Guard {
    /// One that lets everybody in.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            rules: Arc::default(),
            changed: watch::Sender::default(),
            metrics: metrics.clone(),
            asks_again: false,
            refusals: Arc::default(),
        }
    }

    /// The same for a listener that goes on with its connections when other proofs are asked for: every call
    /// is asked for them, where others are asked when they connect, and closed when that changes.
    pub(crate) fn asking_again(&self) -> Self {
        Self {
            asks_again: true,
            ..self.clone()
        }
    }

    /// Has calls that come from now on go by these rules.
    pub(crate) fn install(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
        self.changed.send_replace(());
    }

    fn is_strict(&self, rules: &Rules, port: u16) -> bool {
        rules.strict.contains(&port) || self.asks_again && rules.mtls.on(port) == Mtls::Strict
    }

    fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether a call is let in; without `call`, bytes that are not HTTP. One that is not, or would not be if the
    /// rules were enforced, is counted and told of.
    pub(crate) fn admits(&self, connection: &ConnInfo, call: Option<(&Method, &str)>) -> bool {
        self.lets(connection, call, self.objects(connection, call))
    }

    /// Counts and tells of what there is against a call, or would be; whether it is let in all the same.
    fn lets(
        &self,
        connection: &ConnInfo,
        call: Option<(&Method, &str)>,
        objection: Option<(Unauthorized, &'static str)>,
    ) -> bool {
        let Some((mode, why)) = objection else { return true };
        self.metrics.process().unauthorized.inc(mode);
        self.tell(connection, call, why);
        mode == Unauthorized::DryRun
    }

    /// Whether bytes would be let in, of a caller who has not sent any yet.
    pub(crate) fn would_admit_bytes(&self, connection: &ConnInfo) -> bool {
        let objection = self.objects(connection, None);
        objection.is_none_or(|(mode, _)| mode == Unauthorized::DryRun)
    }

    fn objects(
        &self,
        connection: &ConnInfo,
        call: Option<(&Method, &str)>,
    ) -> Option<(Unauthorized, &'static str)> {
        if connection.has_lapsed() {
            return Some((
                Unauthorized::Enforced,
                "refused: what the caller had proven is over",
            ));
        }
        self.rules_object(connection, call)
    }

    /// The same of one whose caller is who it was when it was let in first.
    fn rules_object(
        &self,
        connection: &ConnInfo,
        call: Option<(&Method, &str)>,
    ) -> Option<(Unauthorized, &'static str)> {
        let rules = self.rules.load();
        let caller = connection.identity.as_ref().map(|identity| &*identity.id);
        let port = connection.local.port();
        if caller.is_none() && self.is_strict(&rules, port) {
            return Some((Unauthorized::Enforced, "refused: the caller shows no certificate"));
        }
        let access = rules.access.as_ref()?;
        match (access.allows(&Asked { caller, port, call }), access.is_enforced) {
            (Some(_), _) => None,
            (None, true) => Some((Unauthorized::Enforced, "refused: no rule allows it")),
            (None, false) => Some((Unauthorized::DryRun, "served (DryRun): no rule allows it")),
        }
    }

    /// Says who is refused, or would be, and why: of each caller, port and reason seldom, so that a flood of refused
    /// calls is none of lines. `call` is `None` for what is not HTTP, or was not let say what it is.
    pub(crate) fn tell(&self, connection: &ConnInfo, call: Option<(&Method, &str)>, why: &'static str) {
        let (peer, port) = (connection.peer, connection.local.port());
        let id = connection.identity.as_ref().map(|identity| &identity.id);
        let caller = match id {
            Some(id) => Caller::Proven(Arc::clone(id)),
            None => Caller::Unproven(peer.ip().to_canonical()),
        };
        let Some(left_out) = self.refusals.tell(Refused { port, caller, why }, now()) else {
            return;
        };
        let caller = id.map_or("unauthenticated", |id| &**id);
        let (method, path) = call.unzip();
        let (method, path) = (method.map(Method::as_str), path.map(beginning));
        tracing::info!(caller, %peer, port, method, path, left_out, "{why}");
    }
}

/// Returns when a connection has been bare for so long on a port that is strict, or the root of its caller has been
/// dropped for so long. Calls that began before are let finish until then, and others are not let in.
///
/// # Cancellation
/// Nothing is lost.
pub(crate) async fn overstays(connection: ConnInfo, seat: Arc<Seat>, grace: Duration) {
    if let Some(identity) = &connection.identity {
        // Boxed as it holds timers, which bare connections have none of.
        return Box::pin(lapses(&connection, &identity.standing, &seat, grace)).await;
    }
    let Some(guard) = &connection.guard else {
        return pending().await;
    };
    let mut changed = guard.changed();
    let is_strict = || guard.is_strict(&guard.rules.load(), connection.local.port());
    loop {
        until(&mut changed, is_strict).await;
        if timeout(grace, until(&mut changed, || !is_strict()))
            .await
            .is_err()
        {
            let (peer, destination) = (connection.peer, connection.local);
            tracing::debug!(%peer, %destination, "calls on a bare connection are cut off: its port is strict");
            return;
        }
    }
}

/// Tells the caller before that it is to come again: one that has another certificate by then loses no call.
async fn lapses(connection: &ConnInfo, standing: &Standing, seat: &Seat, grace: Duration) {
    standing.nears_its_end().await;
    seat.close();
    // From then on no call is let in. Those that are under way may go on, unless their caller's root is dropped.
    standing.ended().await;
    standing.disowned().await;
    tokio::time::sleep(grace).await;
    let (peer, destination) = (connection.peer, connection.local);
    tracing::debug!(%peer, %destination, "calls are cut off: the root of their caller was dropped");
}

/// As much of a path as a line of the log may hold.
fn beginning(path: &str) -> &str {
    path.char_indices()
        .nth(PATH_MAX)
        .map_or(path, |(end, _)| &path[..end])
}

async fn until(changed: &mut watch::Receiver<()>, fact: impl Fn() -> bool) {
    while !fact() {
        if changed.changed().await.is_err() {
            return pending().await;
        }
    }
}

impl Leave {
    /// Whose they are.
    pub(crate) fn connection(&self) -> &ConnInfo {
        &self.connection
    }

    /// For bytes that are not HTTP; `None`: there is none.
    pub(crate) fn of_bytes(connection: ConnInfo) -> Option<Self> {
        let leave = Self {
            changed: connection.guard.as_ref().map(Guard::changed),
            connection: Arc::new(connection),
            call: None,
        };
        leave.connection.admits(None).then_some(leave)
    }

    /// For what a call may switch to that is let in; `None` where nobody guards it.
    pub(crate) fn of_call<B>(connection: &Arc<ConnInfo>, call: &Request<B>) -> Option<Self> {
        if connection.guard.is_none() && connection.identity.is_none() {
            return None;
        }
        Some(Self {
            changed: connection.guard.as_ref().map(Guard::changed),
            connection: Arc::clone(connection),
            call: Some((call.method().clone(), call.uri().path().to_owned())),
        })
    }

    /// Returns when there is none any more.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn revoked(mut self) {
        let changed = self.changed.take();
        tokio::select! {
            () = self.is_taken_back(changed) => {}
            () = self.lapses() => {}
        }
    }

    async fn lapses(&self) {
        match &self.connection.identity {
            Some(identity) => identity.standing.disowned().await,
            None => return pending().await,
        }
        let (peer, destination) = (self.connection.peer, self.connection.local);
        tracing::debug!(%peer, %destination, "a connection of bytes ends: the root of its caller was dropped");
    }

    async fn is_taken_back(&self, changed: Option<watch::Receiver<()>>) {
        let (Some(guard), Some(mut changed)) = (&self.connection.guard, changed) else {
            return pending().await;
        };
        loop {
            if changed.changed().await.is_err() {
                return pending().await;
            }
            if !self.is_given(guard) {
                let (peer, destination) = (self.connection.peer, self.connection.local);
                tracing::debug!(%peer, %destination, "a connection of bytes ends: the rules have changed");
                return;
            }
        }
    }

    fn is_given(&self, guard: &Guard) -> bool {
        let call = self.call.as_ref().map(|(method, path)| (method, &**path));
        guard.lets(&self.connection, call, guard.rules_object(&self.connection, call))
    }
}

const PATH_MAX: usize = 256;
