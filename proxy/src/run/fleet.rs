//! The listeners and backends that run, and how they become what a new plan says: make before
//! break, so that no call is dropped.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jitney_api::Mtls;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

mod listener;

use super::hand_over::{self, Inherited, Name};
use super::plan::{Plan, PlannedBackend, PlannedListener};
use super::to::{Bounds, Destinations};
use crate::accept::{Acceptor, bind, listening};
use crate::admin::inspect::{BackendView, Views};
use crate::admin::shared_identities;
use crate::connection::Limits;
use crate::drain::Drain;
use crate::guard::{Guard, Rules};
use crate::listeners::{ListenerView, Listeners, Pending};
use crate::metrics::Metrics;
use crate::send::{Backend, InCommon, Reach};
use crate::upstream::Upstream;
use listener::{Opened, PendingListener, RunningListener, cannot_listen, is_same_place, stand_in};

/// The listeners and backends that run.
#[derive(Debug)]
pub(super) struct Fleet {
    metrics: Metrics,
    views: Views,
    runtime: Handle,
    bounds: Bounds,
    destinations: Destinations,
    guard: Guard,
    /// Sockets of the process before this one.
    inherited: Arc<Inherited>,
    /// Begins when this process has its place: until then another one takes the connections.
    placed: Drain,
    running: Mutex<Running>,
    shown: watch::Sender<Arc<[ListenerView]>>,
    is_strict: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Running {
    upstreams: Vec<(Reach, Arc<Upstream>)>,
    listeners: Vec<RunningListener>,
    /// All that the plan in force says, bound or not.
    planned: Vec<PlannedListener>,
    /// Those of them that are not bound.
    pending: Vec<PendingListener>,
    is_trying_again: bool,
    /// What is to be was put in force, and be it that there is nothing to do.
    is_in_force: bool,
    needs_certificate: bool,
    /// Listeners that no plan names any more, while calls are still served on their connections.
    leaving: Vec<Drain>,
    is_draining: bool,
}

/// What calls would fail for want of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("the control plane has not said what to serve")]
    Plan,
    #[error("calls have to be secured, and there is no certificate")]
    Certificate,
}

impl Fleet {
    pub(super) fn new(
        metrics: Metrics,
        views: Views,
        runtime: Handle,
        bounds: Bounds,
        in_common: InCommon,
        inherited: &Arc<Inherited>,
    ) -> Self {
        let placed = Drain::new();
        if !inherited.is_some() {
            placed.signal();
        }
        Self {
            placed,
            destinations: Destinations::new(&metrics, &views, in_common),
            guard: Guard::new(&metrics),
            metrics,
            views,
            runtime,
            bounds,
            inherited: Arc::clone(inherited),
            running: Mutex::default(),
            shown: watch::Sender::default(),
            is_strict: watch::Sender::default(),
        }
    }

    /// Where it listens, from now on.
    pub(super) fn listeners(&self) -> Listeners {
        self.shown.subscribe()
    }

    /// Whether callers have to be secured, on some port at least; from now on.
    pub(super) fn is_strict(&self) -> watch::Receiver<bool> {
        self.is_strict.subscribe()
    }

    /// Makes what runs be what `plan` says, but for listeners that may wait for their addresses.
    ///
    /// # Errors
    /// Why it cannot; then everything is as it was.
    pub(super) fn apply(self: &Arc<Self>, plan: &Plan) -> Result<(), String> {
        let _in_runtime = self.runtime.enter();
        let mut running = self.running.lock();
        self.put_in_force(plan, &mut running)?;
        running.is_in_force = true;
        running.needs_certificate = plan.needs_certificate();
        self.is_strict.send_replace(plan.is_strict());
        Ok(())
    }

    /// The same with a plan that stands for one that is still to come, unless that one has.
    ///
    /// # Errors
    /// As [`Fleet::apply`].
    pub(super) fn begin(self: &Arc<Self>, plan: &Plan) -> Result<(), String> {
        let _in_runtime = self.runtime.enter();
        let mut running = self.running.lock();
        match running.is_in_force {
            true => Ok(()),
            false => self.put_in_force(plan, &mut running),
        }
    }

    fn put_in_force(self: &Arc<Self>, plan: &Plan, running: &mut Running) -> Result<(), String> {
        if running.is_draining {
            // Nothing comes any more, but whoever is still here stays by these rules only.
            self.guard.install(rules(plan, &running.listeners));
            return Ok(());
        }
        let upstreams = self.upstreams(plan, running);
        let opened = self.open(&plan.listeners, running, &upstreams)?;
        // Nothing fails from here on. What policies name is there before they are in force.
        self.destinations
            .others
            .replace(upstreams.iter().map(|(_, upstream)| upstream));
        for (planned, (_, upstream)) in plan.backends.iter().zip(&upstreams) {
            upstream.backend.reach(&planned.endpoints);
            // Of equal generations nothing differs.
            if upstream.generation() != planned.policy.generation {
                upstream.install((*planned.policy).clone());
                for route in shared_identities(&planned.policy) {
                    tracing::warn!("{route}");
                }
            }
        }
        self.destinations.install(plan, &upstreams);
        self.guard.install(rules(plan, &opened.listeners));
        running.planned.clone_from(&plan.listeners);
        self.listen(running, opened);
        let upstream = |(_, upstream): &(Reach, Arc<Upstream>)| Arc::clone(upstream) as Arc<dyn BackendView>;
        self.views.replace(upstreams.iter().map(upstream));
        running.upstreams = upstreams;
        if !running.pending.is_empty() && !running.is_trying_again {
            running.is_trying_again = true;
            self.runtime.spawn(Arc::clone(self).try_again());
        }
        Ok(())
    }

    /// Tries to bind what is pending, until nothing is.
    async fn try_again(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = PAUSE.min(2 * pause);
            let mut running = self.running.lock();
            let opened = self.open(&running.planned, &running, &running.upstreams);
            // What could be opened but for addresses can be again.
            if let Ok(opened) = opened
                && !running.is_draining
            {
                self.listen(&mut running, opened);
            }
            if running.pending.is_empty() {
                running.is_trying_again = false;
                return;
            }
        }
    }

    /// Has these listeners take calls, and no others.
    fn listen(&self, running: &mut Running, opened: Opened) {
        let before = std::mem::take(&mut running.listeners);
        for made in opened.listeners {
            let same =
                |old: &&RunningListener| old.planned.is_same(&made.planned) && old.going.is_same(&made.going);
            let kept = before.iter().find(same).map(|old| old.drain.clone());
            let drain = kept.unwrap_or_else(|| self.serve(&made));
            running.listeners.push(RunningListener { drain, ..made });
        }
        for old in before {
            let is_kept = running
                .listeners
                .iter()
                .any(|new| Drain::is_same(&new.drain, &old.drain));
            if !is_kept {
                let RunningListener { socket, drain, .. } = old;
                // The acceptor that is left with the socket serves its listen queue before it closes it.
                drop(socket);
                drain.signal();
                running.leaving.push(drain);
            }
        }
        running.leaving.retain(|drain| drain.guards() > 0);
        for one in &opened.pending {
            one.tell_unless_told(&running.pending);
        }
        running.pending = opened.pending;
        self.show(running);
    }

    fn show(&self, running: &Running) {
        let bound = running.listeners.iter().map(RunningListener::view);
        let views = bound.chain(running.pending.iter().map(PendingListener::view));
        let views: Arc<[ListenerView]> = views.collect();
        let pending = i64::try_from(running.pending.len()).unwrap_or(i64::MAX);
        self.metrics.process().listeners_pending.set(pending);
        self.shown.send_if_modified(|shown| {
            let is_news = *shown != views;
            *shown = views;
            is_news
        });
    }

    /// The backends of a plan, in its order: those that run and are reached as planned, whatever
    /// their endpoints, or new ones.
    fn upstreams(&self, plan: &Plan, running: &Running) -> Vec<(Reach, Arc<Upstream>)> {
        let known = running.upstreams.iter();
        let known: HashMap<&Reach, &Arc<Upstream>> =
            known.map(|(reach, upstream)| (reach, upstream)).collect();
        let upstream = |planned: &PlannedBackend| {
            let upstream = match known.get(&planned.reach) {
                Some(upstream) => Arc::clone(upstream),
                None => Upstream::start(
                    Arc::new(Backend::new(
                        &planned.settings(&self.metrics, &self.destinations.in_common),
                    )),
                    &self.metrics,
                    &self.destinations.others,
                ),
            };
            (planned.reach.clone(), upstream)
        };
        plan.backends.iter().map(upstream).collect()
    }

    /// Opens the listeners of a plan; those that run already go on with their sockets.
    fn open(
        &self,
        planned: &[PlannedListener],
        running: &Running,
        upstreams: &[(Reach, Arc<Upstream>)],
    ) -> Result<Opened, String> {
        let mut opened = Opened::default();
        for one in planned {
            let going = self.destinations.going(&one.to, upstreams);
            let going =
                going.ok_or_else(|| format!("listener {}: no backend {}", one.name, one.to.shown()))?;
            let listener = |planned: PlannedListener, socket| RunningListener {
                planned,
                going: going.clone(),
                socket,
                drain: Drain::new(),
            };
            let (reason, place) = match (self.socket(one, running, &opened), &one.place) {
                (Ok(socket), _) => {
                    opened.listeners.push(listener(one.clone(), socket));
                    continue;
                }
                (Err(error), place) => (cannot_listen(one, &error), place.clone()),
            };
            let Some(place) = place else {
                return Err(reason);
            };
            if let Some(old) = stand_in(one, planned, &running.listeners) {
                let present = PlannedListener {
                    address: old.planned.address,
                    ..one.clone()
                };
                opened.listeners.push(listener(present, Arc::clone(&old.socket)));
            }
            opened.pending.push(PendingListener {
                planned: one.clone(),
                pending: Pending { place, reason },
            });
        }
        Ok(opened)
    }

    /// The socket that is bound to a listener's address, or the one of the process before this one, or a new one.
    fn socket(
        &self,
        planned: &PlannedListener,
        running: &Running,
        opened: &Opened,
    ) -> io::Result<Arc<TcpListener>> {
        let is_there = |one: &&RunningListener| is_same_place(&one.planned, planned);
        if opened.listeners.iter().any(|one| is_there(&one)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match running.listeners.iter().find(is_there) {
            Some(old) => Ok(Arc::clone(&old.socket)),
            None => match self.inherited.take(&planned.hand_over_name()) {
                Some(socket) => listening(socket).map(Arc::new),
                None => bind(planned.address).map(Arc::new),
            },
        }
    }

    /// Binds what a plan says, so that nothing is missing but that it is put in force; what is inherited
    /// already is.
    ///
    /// # Errors
    /// What cannot be bound.
    pub(super) fn reserve(&self, plan: &Plan) -> Result<(), String> {
        let _in_runtime = self.runtime.enter();
        for planned in &plan.listeners {
            let bind = || bind(planned.address)?.into_std();
            let reserved = self.inherited.reserve(planned.hand_over_name(), bind);
            reserved.map_err(|error| cannot_listen(planned, &error))?;
        }
        Ok(())
    }

    /// What it lacks, if it does.
    pub(super) fn lacks(&self) -> Option<Lack> {
        let running = self.running.lock();
        if !running.is_in_force {
            return Some(Lack::Plan);
        }
        let is_known = self.destinations.in_common.mesh.is_known();
        (running.needs_certificate && !is_known).then_some(Lack::Certificate)
    }

    /// Begins when this process has its place; whoever has it begin has this one take connections.
    pub(super) const fn placed(&self) -> &Drain {
        &self.placed
    }

    /// The sockets on which it listens, to be handed over.
    pub(super) fn sockets(&self) -> io::Result<Vec<(Name, OwnedFd)>> {
        let running = self.running.lock();
        let listeners = running.listeners.iter();
        listeners
            .map(|listener| hand_over::copy(listener.planned.hand_over_name(), &listener.socket))
            .collect()
    }

    /// Has a listener accept; returns what ends it.
    fn serve(&self, listener: &RunningListener) -> Drain {
        let socket = Arc::clone(&listener.socket);
        let address = socket.local_addr().unwrap_or(listener.planned.address);
        let backend = &*listener.planned.to.shown();
        tracing::info!(%address, backend, "listening");
        // Held from now on, so that a drain that begins at once waits for it.
        let guard = listener.drain.guard();
        let acceptor = Acceptor {
            direct: (),
            mesh: self.destinations.in_common.mesh.clone(),
            limits: Limits {
                max_age: self.bounds.max_age,
                bare_timeout: self.bounds.bare_timeout,
                ..Limits::default()
            },
            max_connections: self.bounds.max_connections.get(),
            metrics: self.metrics.clone(),
            drain: listener.drain.clone(),
        };
        let served = listener.going.serve(
            socket,
            listener.planned.mtls,
            listener.planned.is_inbound.then(|| self.guard.clone()),
            &listener.planned.received,
            acceptor,
        );
        let (placed, drain) = (self.placed.clone(), listener.drain.clone());
        self.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = placed.draining() => served.await,
                // What is in the queue is for the process that has the place.
                () = drain.draining() => {}
            }
            drop(guard);
        });
        listener.drain.clone()
    }

    /// Stops accepting, has every call finish, and returns when the last connection is closed.
    pub(super) async fn drain(&self) {
        let drains: Vec<Drain> = {
            let mut running = self.running.lock();
            running.is_draining = true;
            for (_, upstream) in &running.upstreams {
                upstream.drain();
            }
            self.destinations.drain();
            let drains = running.listeners.drain(..).map(|listener| listener.drain);
            let drains: Vec<Drain> = drains.collect();
            running.planned.clear();
            running.pending.clear();
            self.show(&running);
            drains.into_iter().chain(running.leaving.drain(..)).collect()
        };
        drains.iter().for_each(Drain::signal);
        for drain in drains {
            drain.drained().await;
        }
    }
}

/// Who may call by a plan, with these of its listeners open.
fn rules(plan: &Plan, open: &[RunningListener]) -> Rules {
    let port = |planned: &PlannedListener| {
        let open = open.iter().find(|one| one.planned.name == planned.name);
        let address = open.and_then(|one| one.socket.local_addr().ok());
        address.unwrap_or(planned.address).port()
    };
    let strict = plan.listeners.iter().filter(|one| one.mtls == Some(Mtls::Strict));
    Rules {
        access: plan.access.clone(),
        mtls: plan.mtls.clone(),
        strict: strict.map(port).collect(),
    }
}

/// How long an address that is taken is left alone: short at first, as what ends now lets go of it soon.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(3);
