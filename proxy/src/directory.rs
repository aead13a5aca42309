//! Where the connections go that the kernel handed over: each to where it was meant to go, with the policy
//! for that.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jitney_api::{InboundMtls, Ports};
use jitney_core::policy::Policy;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::accept::{Direct, Directed};
use crate::admin::inspect::{BackendView, MoreBackends};
use crate::batching::alarm::now;
use crate::connection::ConnInfo;
use crate::guard::Guard;
use crate::headers::Received;
use crate::metrics::{Label as _, Metrics, Refusal};
use crate::original;
use crate::send::{Backend, BackendSettings, CONNECT_TIMEOUT, InCommon, Reach, Speaks, Target};
use crate::serve::Sidecar;
use crate::upstream::{Others, Upstream};

/// Which way the connections of a listener cross the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the service beside it.
    Inbound,
    /// From there to others.
    Outbound,
}

/// What is known of destinations.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Those that stand for a backend.
    pub backends: HashMap<SocketAddr, Arc<Upstream>>,
    /// Those that are one endpoint of a backend: what is meant for it goes nowhere else.
    pub endpoints: HashMap<SocketAddr, Named>,
    /// The policies for others.
    pub policies: HashMap<SocketAddr, Arc<Policy>>,
    /// Those for others on these ports.
    pub policies_by_port: HashMap<u16, Arc<Policy>>,
    /// The policy for all the rest.
    pub policy: Arc<Policy>,
    /// What callers have to prove; `None` for those beside this sidecar.
    pub mtls: Option<InboundMtls>,
    /// Ports on which nobody looks at what is spoken, and other such destinations.
    pub opaque_ports: Ports,
    /// See `opaque_ports`.
    pub opaque: HashSet<SocketAddr>,
    /// What only this machine may reach.
    pub forbidden: Vec<SocketAddr>,
}

/// One endpoint of a backend, for those who have named it and not the backend.
#[derive(Clone, Debug)]
pub struct Named {
    /// How the backend is reached, under whose name its calls are counted.
    pub reach: Reach,
    /// The endpoint.
    pub target: Target,
    /// The backend's policy. What it says of other backends to go to is not for these calls.
    pub policy: Arc<Policy>,
}

/// A destination that no backend stands for.
#[derive(Debug)]
struct Made {
    upstream: Arc<Upstream>,
    /// What it was made as: an endpoint of this backend, reached in this way.
    reach: Option<Reach>,
}

/// The destinations of one direction.
#[derive(Debug)]
pub struct Directory {
    direction: Direction,
    metrics: Metrics,
    /// What this sidecar itself has made is remembered there, and here when it was last said that it came back.
    in_common: InCommon,
    others: Others,
    warned: Mutex<Option<Instant>>,
    map: ArcSwap<Map>,
    /// Destinations that no backend stands for. At most [`MADE_MAX`].
    made: Mutex<HashMap<SocketAddr, Made>>,
}

/// A listener's way to the directory.
#[derive(Clone, Debug)]
pub(crate) struct Redirected {
    pub(crate) directory: Arc<Directory>,
    /// What becomes of the heads of its requests.
    pub(crate) received: Arc<Received>,
    /// Whether calls are let in; `None`: all are.
    pub(crate) guard: Option<Guard>,
}

impl Map {
    fn policy_for(&self, address: SocketAddr) -> Policy {
        if let Some(named) = self.endpoints.get(&address) {
            let mut policy = (*named.policy).clone();
            policy.traffic.detours.split = None;
            return policy;
        }
        let by_port = || self.policies_by_port.get(&address.port());
        let policy = self.policies.get(&address).or_else(by_port);
        (**policy.unwrap_or(&self.policy)).clone()
    }

    fn declares(&self, address: SocketAddr) -> bool {
        self.policies.contains_key(&address) || self.policies_by_port.contains_key(&address.port())
    }

    fn is_opaque(&self, address: SocketAddr) -> bool {
        self.opaque_ports.contains(address.port()) || self.opaque.contains(&address)
    }
}

impl Direct for Redirected {
    type Service = Sidecar;

    fn direct(&self, stream: &TcpStream, info: ConnInfo) -> Option<Directed<Sidecar>> {
        let directory = &self.directory;
        let local = canonical(info.local);
        let meant = canonical(original::destination(stream).unwrap_or(local));
        let found = match meant == local {
            true => Err(Refusal::NotRedirected),
            false => directory.find(meant, info.peer.ip()),
        };
        let map = directory.map.load();
        match found {
            Ok(upstream) => Some(Directed {
                is_opaque: upstream.backend.is_opaque || map.is_opaque(meant),
                opaque: Arc::clone(&upstream),
                service: Sidecar {
                    upstream,
                    received: Arc::clone(&self.received),
                },
                info: ConnInfo {
                    local: meant,
                    guard: self.guard.clone(),
                    ..info
                },
                mtls: map.mtls.as_ref().map(|mtls| mtls.on(meant.port())),
            }),
            Err(why) => {
                directory.metrics.process().refused_connections.inc(why);
                tracing::debug!(peer = %info.peer, destination = %meant, why = why.text(), "a connection was refused");
                None
            }
        }
    }

    fn is_own(&self, info: &ConnInfo) -> bool {
        let directory = &self.directory;
        let is_own = directory.in_common.ours.include(info.peer, info.local);
        if is_own {
            directory.metrics.process().refused_connections.inc(Refusal::Own);
            directory.warn_of_loop(info);
        }
        is_own
    }
}

impl MoreBackends for Directory {
    fn backends(&self) -> Vec<Arc<dyn BackendView>> {
        let made = self.made.lock();
        let view = |made: &Made| Arc::clone(&made.upstream) as Arc<dyn BackendView>;
        made.values().map(view).collect()
    }
}

impl Directory {
    /// One that knows nothing yet.
    pub(crate) fn new(
        direction: Direction,
        metrics: &Metrics,
        in_common: &InCommon,
        others: &Others,
    ) -> Arc<Self> {
        Arc::new(Self {
            direction,
            metrics: metrics.clone(),
            in_common: in_common.clone(),
            others: others.clone(),
            warned: Mutex::default(),
            map: ArcSwap::default(),
            made: Mutex::default(),
        })
    }

    /// Has connections that come from now on go by this map; those that are open go on as they are, with
    /// the policies of now. Must be called within a tokio runtime.
    pub(crate) fn install(&self, map: Map) {
        let mut made = self.made.lock();
        let map = Arc::new(map);
        made.retain(|address, made| {
            let named = map.endpoints.get(address);
            if let Some(named) = named {
                made.upstream.backend.reach(std::slice::from_ref(&named.target));
            }
            made.upstream.install(map.policy_for(*address));
            let stays =
                made.reach.as_ref() == named.map(|named| &named.reach) && !map.backends.contains_key(address);
            if !stays {
                // Whoever is connected goes on; who comes is led elsewhere.
                made.upstream.drain();
            }
            stays
        });
        self.map.store(map);
    }

    /// From now on no call is held back for companions.
    pub(crate) fn drain(&self) {
        self.made.lock().values().for_each(|made| made.upstream.drain());
    }

    /// Says how to mend it, now and then: whoever is handed its own connections is handed many.
    fn warn_of_loop(&self, info: &ConnInfo) {
        let now = now();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|before| now.saturating_duration_since(before) >= BETWEEN_WARNINGS) {
            *warned = Some(now);
            let user = nix::unistd::geteuid();
            tracing::warn!(
                destination = %info.local,
                "this sidecar's own connections are handed back to it and refused: \
                 run `jitney-proxy redirect install --user {user}`, with the other flags as they were",
            );
        }
    }

    /// What serves the connections to an address that somebody makes from another one.
    fn find(&self, address: SocketAddr, from: IpAddr) -> Result<Arc<Upstream>, Refusal> {
        if let Some(found) = self.declared(&self.map.load(), address, from)? {
            return Ok(found);
        }
        let mut made = self.made.lock();
        // It may be another one by now; whoever replaces it waits for the lock that is held here.
        let map = self.map.load();
        if let Some(found) = self.declared(&map, address, from)? {
            return Ok(found);
        }
        if let Some(made) = made.get(&address) {
            return Ok(Arc::clone(&made.upstream));
        }
        if made.len() == MADE_MAX {
            // Whoever is connected holds a handle.
            made.retain(|_, made| Arc::strong_count(&made.upstream) > 1);
        }
        let backend = Arc::new(Backend::new(&self.settings(address, &map)));
        let upstream = Upstream::start(backend, &self.metrics, &self.others);
        upstream.install(map.policy_for(address));
        if made.len() < MADE_MAX {
            let known = Made {
                upstream: Arc::clone(&upstream),
                reach: map.endpoints.get(&address).map(|named| named.reach.clone()),
            };
            made.insert(address, known);
        }
        Ok(upstream)
    }

    fn declared(
        &self,
        map: &Map,
        address: SocketAddr,
        from: IpAddr,
    ) -> Result<Option<Arc<Upstream>>, Refusal> {
        let mut forbidden = map.forbidden.iter();
        if forbidden.any(|one| self.is_within(address, from, *one)) {
            return Err(Refusal::Forbidden);
        }
        Ok(map.backends.get(&address).cloned())
    }

    fn settings(&self, address: SocketAddr, map: &Map) -> BackendSettings {
        let unknown = || Reach {
            name: self.name(address, map),
            speaks: Speaks::Auto,
            connect_timeout: CONNECT_TIMEOUT,
        };
        let (reach, target) = match map.endpoints.get(&address) {
            Some(named) => (named.reach.clone(), named.target.clone()),
            None => (unknown(), address.into()),
        };
        reach.settings(vec![target], &self.metrics, &self.in_common)
    }

    /// Whether a destination is this one of this machine, which may stand for all of the machine's addresses. What
    /// comes in is for this machine; of what leaves, that is which has a machine's own address at both ends.
    fn is_within(&self, destination: SocketAddr, from: IpAddr, one: SocketAddr) -> bool {
        let one = canonical(one);
        let is_here = || match self.direction {
            Direction::Inbound => true,
            Direction::Outbound => destination.ip().is_loopback() || destination.ip() == from.to_canonical(),
        };
        let is_it = destination.ip() == one.ip() || (one.ip().is_unspecified() && is_here());
        destination.port() == one.port() && is_it
    }

    /// What is declared is told apart. Whatever else somebody connects to is counted as one: a scan of all ports
    /// must not use up the names.
    fn name(&self, address: SocketAddr, map: &Map) -> Arc<str> {
        match self.direction {
            Direction::Inbound if map.declares(address) => format!("inbound/{}", address.port()).into(),
            Direction::Inbound => "inbound".into(),
            Direction::Outbound => "passthrough".into(),
        }
    }
}

/// IPv4 in the form of IPv6 is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The most destinations without a backend that are known at one time. At the bound, those that nobody is
/// connected to are forgotten; without any, one more is its first caller's alone, and forgotten with that connection.
const MADE_MAX: usize = 1024;

/// How often it is said that connections go round.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn directory(direction: Direction) -> Arc<Directory> {
        Directory::new(
            direction,
            &Metrics::new(),
            &InCommon::default(),
            &Others::default(),
        )
    }

    fn address(n: usize) -> SocketAddr {
        let [.., high, low] = n.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(192, 0, high, low), 80))
    }

    #[tokio::test]
    async fn destinations_are_told_apart_and_found_again() {
        let directory = directory(Direction::Inbound);
        let one = directory.find(address(1), HERE).unwrap();
        assert!(Arc::ptr_eq(&one, &directory.find(address(1), HERE).unwrap()));
        assert!(!Arc::ptr_eq(&one, &directory.find(address(2), HERE).unwrap()));
        assert_eq!(&*one.backend.name, "inbound");
        directory.install(Map {
            policies: HashMap::from([(address(3), Arc::default())]),
            ..Map::default()
        });
        let declared = directory.find(address(3), HERE).unwrap();
        assert_eq!(&*declared.backend.name, "inbound/80");
    }

    #[tokio::test]
    async fn only_what_nobody_uses_makes_room() {
        let directory = directory(Direction::Outbound);
        let mut used: Vec<_> = (0..MADE_MAX)
            .map(|n| directory.find(address(n), HERE).unwrap())
            .collect();
        let more = || directory.find(address(MADE_MAX), HERE).unwrap();
        assert!(!Arc::ptr_eq(&more(), &more()), "it is known to nobody else");
        used.pop();
        assert!(Arc::ptr_eq(&more(), &more()));
        assert_eq!(directory.backends().len(), MADE_MAX);
    }

    #[tokio::test]
    async fn what_only_this_machine_may_reach_is_refused() {
        let directories = [Direction::Inbound, Direction::Outbound].map(directory);
        let everywhere: SocketAddr = "0.0.0.0:9901".parse().unwrap();
        let here: SocketAddr = "127.0.0.1:9902".parse().unwrap();
        for (destination, refused) in [
            ("10.0.0.1:9901", [true, true]),
            ("10.0.0.2:9901", [true, false]),
            ("[::1]:9901", [true, true]),
            ("127.0.0.1:9902", [true, true]),
            ("10.0.0.1:9902", [false, false]),
            ("10.0.0.1:9903", [false, false]),
        ] {
            for (directory, refused) in directories.iter().zip(refused) {
                directory.install(Map {
                    forbidden: vec![everywhere, here],
                    ..Map::default()
                });
                let found = directory.find(destination.parse().unwrap(), HERE);
                assert_eq!(found.is_err(), refused, "{:?} {destination}", directory.direction);
            }
        }
    }
}
