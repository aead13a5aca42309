//! The listeners and backends that run, and how they become what a new plan says: make before
//! break, so that no call is dropped.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::plan::{Plan, PlannedBackend, PlannedListener, Reach};
use crate::accept::{Acceptor, bind};
use crate::admin::inspect::{BackendView, Views};
use crate::admin::shared_identities;
use crate::connection::Limits;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::send::Backend;
use crate::serve::Sidecar;
use crate::upstream::Upstream;

/// The listeners and backends that run.
#[derive(Debug)]
pub(super) struct Fleet {
    metrics: Metrics,
    views: Views,
    runtime: Handle,
    max_connections: NonZeroUsize,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    upstreams: Vec<(Reach, Arc<Upstream>)>,
    listeners: Vec<RunningListener>,
    /// Listeners that no plan names any more, while calls are still served on their connections.
    leaving: Vec<Drain>,
    is_draining: bool,
}

#[derive(Debug)]
struct RunningListener {
    planned: PlannedListener,
    upstream: Arc<Upstream>,
    /// Held, so that another acceptor can take over without closing it.
    socket: Arc<TcpListener>,
    drain: Drain,
}

impl Fleet {
    pub(super) fn new(
        metrics: Metrics,
        views: Views,
        runtime: Handle,
        max_connections: NonZeroUsize,
    ) -> Self {
        Self {
            metrics,
            views,
            runtime,
            max_connections,
            running: Mutex::default(),
        }
    }

    /// Makes what runs be what `plan` says.
    ///
    /// # Errors
    /// Why it cannot; then everything is as it was.
    pub(super) fn apply(&self, plan: &Plan) -> Result<(), String> {
        let _in_runtime = self.runtime.enter();
        let mut running = self.running.lock();
        if running.is_draining {
            return Ok(());
        }
        let upstreams = self.upstreams(plan, &running)?;
        let listeners = self.listeners(plan, &running, &upstreams)?;
        // Nothing fails from here on.
        for (planned, (_, upstream)) in plan.backends.iter().zip(&upstreams) {
            upstream.backend.reach(&planned.endpoints);
            upstream.install((*planned.policy).clone());
            for route in shared_identities(&planned.policy) {
                tracing::warn!("{route}");
            }
        }
        let before = std::mem::take(&mut running.listeners);
        for made in listeners {
            let same = |old: &&RunningListener| {
                old.planned == made.planned && Arc::ptr_eq(&old.upstream, &made.upstream)
            };
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
        self.views.replace(
            upstreams
                .iter()
                .map(|(_, upstream)| Arc::clone(upstream) as Arc<dyn BackendView>),
        );
        running.upstreams = upstreams;
        Ok(())
    }

    /// The backends of a plan, in its order: those that run and are reached as planned, whatever
    /// their endpoints, or new ones.
    fn upstreams(&self, plan: &Plan, running: &Running) -> Result<Vec<(Reach, Arc<Upstream>)>, String> {
        let upstream = |planned: &PlannedBackend| {
            let mut known = running.upstreams.iter();
            match known.find(|(reach, _)| *reach == planned.reach) {
                Some((_, upstream)) => Ok(Arc::clone(upstream)),
                None => Upstream::start(
                    Arc::new(Backend::new(&planned.settings(&self.metrics))),
                    &self.metrics,
                ),
            }
        };
        plan.backends
            .iter()
            .map(|planned| match upstream(planned) {
                Ok(upstream) => Ok((planned.reach.clone(), upstream)),
                Err(error) => Err(format!("backend {}: {error}", planned.reach.name)),
            })
            .collect()
    }

    /// The listeners of a plan with their sockets; those that are not bound yet are.
    fn listeners(
        &self,
        plan: &Plan,
        running: &Running,
        upstreams: &[(Reach, Arc<Upstream>)],
    ) -> Result<Vec<RunningListener>, String> {
        let mut made = Vec::new();
        for planned in &plan.listeners {
            let bound = running
                .listeners
                .iter()
                .find(|old| is_same_place(&old.planned, planned));
            let socket = match bound {
                Some(old) => Ok(Arc::clone(&old.socket)),
                None => bind(planned.address).map(Arc::new),
            };
            let socket = socket.map_err(|error| cannot_listen(planned.address, &error))?;
            let upstream = upstreams.iter().find(|(reach, _)| reach.name == planned.backend);
            let Some((_, upstream)) = upstream else {
                return Err(format!(
                    "listener {}: no backend {}",
                    planned.name, planned.backend
                ));
            };
            let (planned, upstream) = (planned.clone(), Arc::clone(upstream));
            made.push(RunningListener {
                planned,
                upstream,
                socket,
                drain: Drain::new(),
            });
        }
        Ok(made)
    }

    /// Has a listener accept; returns what ends it.
    fn serve(&self, listener: &RunningListener) -> Drain {
        let acceptor = Acceptor {
            service: Sidecar(Arc::clone(&listener.upstream)),
            opaque: Arc::clone(&listener.upstream.backend),
            limits: Limits::default(),
            max_connections: self.max_connections.get(),
            metrics: self.metrics.clone(),
            drain: listener.drain.clone(),
        };
        let socket = Arc::clone(&listener.socket);
        let address = socket.local_addr().unwrap_or(listener.planned.address);
        let backend = &*listener.planned.backend;
        tracing::info!(%address, backend, "listening");
        // Held from now on, so that a drain that begins at once waits for it.
        let guard = listener.drain.guard();
        self.runtime.spawn(async move {
            acceptor.run(socket).await;
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
            let drains = running.listeners.drain(..).map(|listener| listener.drain);
            let drains: Vec<Drain> = drains.collect();
            drains.into_iter().chain(running.leaving.drain(..)).collect()
        };
        drains.iter().for_each(Drain::signal);
        for drain in drains {
            drain.drained().await;
        }
    }
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}")
}

/// Whether a listener can go on with another one's socket. Port 0 is another port for each name.
fn is_same_place(one: &PlannedListener, other: &PlannedListener) -> bool {
    one.address == other.address && (one.address.port() != 0 || one.name == other.name)
}
