//! Where the connections of a listener go: to one backend, or each to where it was meant to go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jitney_api::Mtls;
use tokio::net::TcpListener;

use super::plan::{Plan, PlannedBackend, To};
use crate::accept::{Acceptor, Always};
use crate::admin::inspect::{MoreBackends, Views};
use crate::directory::{Direction, Directory, Map, Named, Redirected};
use crate::guard::Guard;
use crate::headers::Received;
use crate::metrics::Metrics;
use crate::send::{Address, InCommon, Peer, Reach, Speaks, Target};
use crate::serve::Sidecar;
use crate::upstream::{Others, Upstream};

/// Everything that connections can go to which no listener names.
#[derive(Debug)]
pub(super) struct Destinations {
    inbound: Arc<Directory>,
    outbound: Arc<Directory>,
    /// The connections that this sidecar makes, whichever way.
    pub(super) in_common: InCommon,
    /// The backends of the plan in force.
    pub(super) others: Others,
}

/// Bounds on the connections of each listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_connections: NonZeroUsize,
    /// As [`Limits::max_age`].
    pub(super) max_age: Option<Duration>,
    /// As [`Limits::bare_timeout`].
    pub(super) bare_timeout: Duration,
}

/// Where the connections of one listener go.
#[derive(Clone, Debug)]
pub(super) enum Going {
    Backend(Arc<Upstream>),
    Redirected(Arc<Directory>),
}

impl Destinations {
    pub(super) fn new(metrics: &Metrics, views: &Views, in_common: InCommon) -> Self {
        let others = Others::default();
        let directory = |direction| {
            let directory = Directory::new(direction, metrics, &in_common, &others);
            views.add(Arc::clone(&directory) as Arc<dyn MoreBackends>);
            directory
        };
        Self {
            inbound: directory(Direction::Inbound),
            outbound: directory(Direction::Outbound),
            in_common,
            others,
        }
    }

    /// Where a listener's connections go; `None` for a backend that the plan has not.
    pub(super) fn going(&self, to: &To, upstreams: &[(Reach, Arc<Upstream>)]) -> Option<Going> {
        match to {
            To::Backend(name) => {
                let (_, upstream) = upstreams.iter().find(|(reach, _)| reach.name == *name)?;
                Some(Going::Backend(Arc::clone(upstream)))
            }
            To::Redirected(Direction::Inbound) => Some(Going::Redirected(Arc::clone(&self.inbound))),
            To::Redirected(Direction::Outbound) => Some(Going::Redirected(Arc::clone(&self.outbound))),
        }
    }

    /// Has connections that come from now on go by this plan, whose backends are these.
    ///
    /// What leaves for an endpoint of a backend goes to that endpoint, in the backend's way: whoever names one of a
    /// primary and its replicas, or a member of a StatefulSet, means it. What comes in for one goes to that
    /// endpoint, which is here, with the backend's policy.
    pub(super) fn install(&self, plan: &Plan, upstreams: &[(Reach, Arc<Upstream>)]) {
        let ports = plan.inbound_ports.iter();
        let mut inbound = Map {
            policies_by_port: ports
                .clone()
                .map(|port| (port.number, Arc::clone(&port.policy)))
                .collect(),
            policy: Arc::clone(&plan.inbound),
            mtls: Some(plan.mtls.clone()),
            forbidden: plan.forbidden.clone(),
            opaque_ports: ports
                .filter(|port| port.is_opaque)
                .fold(plan.opaque_ports.clone(), |opaque, port| opaque.with(port.number)),
            ..Map::default()
        };
        for planned in &plan.backends {
            for (address, _) in named(planned) {
                if planned.reach.speaks == Speaks::Bytes {
                    inbound.opaque.insert(address);
                }
                if plan.is_by_backend {
                    let policy = inbound.policies.entry(address);
                    policy.or_insert_with(|| Arc::clone(&planned.policy));
                }
            }
        }
        self.outbound.install(Map {
            backends: standing_in(plan, upstreams),
            endpoints: endpoints(plan),
            forbidden: plan.forbidden.clone(),
            opaque_ports: plan.opaque_ports.clone(),
            // Whoever is beside this sidecar has no other.
            mtls: None,
            ..Map::default()
        });
        self.inbound.install(inbound);
    }

    pub(super) fn drain(&self) {
        self.inbound.drain();
        self.outbound.drain();
    }
}

/// The endpoints of a backend whose addresses are known; that of a name only its resolver knows.
fn named(planned: &PlannedBackend) -> impl Iterator<Item = (SocketAddr, &Target)> {
    let endpoints = planned.endpoints.iter();
    endpoints.filter_map(|target| match &target.address {
        Address::Socket(address) => Some((*address, target)),
        Address::Name(_) => None,
    })
}

/// The addresses of which whoever is connected to one has named the backend.
fn standing_in(plan: &Plan, upstreams: &[(Reach, Arc<Upstream>)]) -> HashMap<SocketAddr, Arc<Upstream>> {
    let all = plan.backends.iter().zip(upstreams);
    let addresses = all.flat_map(|(planned, (_, upstream))| {
        let addresses = planned.addresses.iter();
        addresses.map(|address| (*address, Arc::clone(upstream)))
    });
    addresses.collect()
}

/// Every endpoint, as the most careful of the backends has it that share it, or the first.
fn endpoints(plan: &Plan) -> HashMap<SocketAddr, Named> {
    let care = |peer: Option<&Peer>| peer.map_or(0, |peer| 1 + u8::from(peer.is_strict));
    let mut endpoints: HashMap<SocketAddr, Named> = HashMap::new();
    for planned in &plan.backends {
        for (address, target) in named(planned) {
            let known = endpoints
                .get(&address)
                .map(|known| care(known.target.peer.as_ref()));
            if known.is_none_or(|known| known < care(target.peer.as_ref())) {
                let named = Named {
                    reach: planned.reach.clone(),
                    target: target.clone(),
                    policy: match planned.is_service {
                        true => Arc::default(),
                        false => Arc::clone(&planned.policy),
                    },
                };
                endpoints.insert(address, named);
            }
        }
    }
    endpoints
}

impl Going {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Backend(one), Self::Backend(other)) => Arc::ptr_eq(one, other),
            (Self::Redirected(one), Self::Redirected(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Takes the connections of a listener until it drains.
    pub(super) fn serve(
        &self,
        socket: Arc<TcpListener>,
        mtls: Option<Mtls>,
        guard: Option<Guard>,
        received: &Arc<Received>,
        acceptor: Acceptor<()>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Backend(upstream) => {
                let direct = Always {
                    service: Sidecar {
                        upstream: Arc::clone(upstream),
                        received: Arc::clone(received),
                    },
                    opaque: Arc::clone(upstream),
                    mtls,
                    guard,
                };
                Box::pin(acceptor.directing(direct).run(socket))
            }
            Self::Redirected(directory) => {
                let direct = Redirected {
                    directory: Arc::clone(directory),
                    received: Arc::clone(received),
                    guard: guard.as_ref().map(Guard::asking_again),
                };
                Box::pin(acceptor.directing(direct).run(socket))
            }
        }
    }
}
