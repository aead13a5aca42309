//! A backend with the policy in force for it, the calls that wait for it, and what is remembered
//! of its routes from one policy to the next.

mod caller;
mod conduct;
mod limit;
mod others;
mod view;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use jitney_core::batch::{Expired, Settings};
use jitney_core::policy::{Detours, Faults, Injected, Policy, Timeouts};
use jitney_core::pressure::Pressure;
use jitney_core::route::{Head, Route};
use tokio::sync::Semaphore;

pub use conduct::RouteState;
pub(crate) use conduct::{Cover, Culprit};
pub use others::Others;

use limit::Limit;
use others::Chance;

use crate::admin::inspect::RecentBatches;
use crate::batching::dispatcher::{Departure, Dispatcher};
use crate::batching::flight;
use crate::batching::pending::Pending;
use crate::batching::shadow::{self, Trial};
use crate::error::{Bound, ErrorKind};
use crate::metrics::{BackendMetrics, GaugeSource, Metrics};
use crate::mirror::Copies;
use crate::send::Backend;

/// Everything that calls to one backend share.
#[derive(Debug)]
pub struct Upstream {
    /// Its endpoints and their connections.
    pub backend: Arc<Backend>,
    /// Its counts.
    pub metrics: Arc<BackendMetrics>,
    all_metrics: Metrics,
    others: Others,
    chance: Chance,
    policy: ArcSwap<Installed>,
    /// What is remembered of a route, by its name. Bounded by the policies that were installed.
    routes: DashMap<Arc<str>, Arc<RouteState>>,
    pub(crate) batches: Dispatcher<Box<Pending>>,
    /// The same decisions for routes in `mode: Shadow`, whose calls are all sent alone.
    pub(crate) trials: Dispatcher<Arc<Trial>>,
    next_id: AtomicU64,
    next_batch: AtomicU64,
    /// What the bounds of the queues are divided by.
    squeeze: AtomicUsize,
    is_draining: AtomicBool,
    /// Copies of calls of other backends that go here.
    pub(crate) copies: Copies,
    /// Places for calls that wait on purpose.
    pub(crate) delays: Semaphore,
    pub(crate) recent: RecentBatches,
}

/// A policy in force.
#[derive(Debug)]
struct Installed {
    policy: Policy,
    /// Invariant: one for each route of the policy, in its order.
    states: Vec<Arc<RouteState>>,
    limit: Option<Arc<Limit>>,
    /// `None` for nearly all, which pay for no more than finding that out.
    detours: Option<Arc<Detours>>,
}

/// What the policy in force says of a call that has just arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its route and what is remembered of it; `None`: the call passes through.
    pub(crate) route: Option<(Arc<Route>, Arc<RouteState>)>,
    pub(crate) timeouts: Timeouts,
    /// What is done to it before it is sent on; `None`: nothing.
    pub(crate) detours: Option<Arc<Detours>>,
    /// It is to be refused: memory or its rate limit is used up.
    pub(crate) refused: Option<ErrorKind>,
}

impl Upstream {
    /// An upstream with an empty policy; policies may name these others. Must be called within a tokio runtime.
    pub fn start(backend: Arc<Backend>, metrics: &Metrics, others: &Others) -> Arc<Self> {
        let upstream = Arc::new_cyclic(|me: &Weak<Self>| {
            let (batches, trials) = (me.clone(), me.clone());
            let gate = Arc::clone(&backend.gate);
            Self {
                metrics: metrics.backend(&backend.name),
                all_metrics: metrics.clone(),
                others: others.clone(),
                chance: Chance::new(),
                policy: ArcSwap::from_pointee(Installed {
                    policy: Policy::default(),
                    states: Vec::new(),
                    limit: None,
                    detours: None,
                }),
                routes: DashMap::new(),
                batches: Dispatcher::start(Settings::default(), Some(gate), move |left| {
                    depart(&batches, left)
                }),
                trials: Dispatcher::start(Settings::default(), None, move |left| {
                    shadow::depart(&trials, left)
                }),
                next_id: AtomicU64::new(1),
                next_batch: AtomicU64::new(1),
                squeeze: AtomicUsize::new(1),
                is_draining: AtomicBool::new(false),
                copies: Copies::default(),
                delays: Semaphore::new(DELAYED_MAX),
                recent: RecentBatches::default(),
                backend,
            }
        });
        let source: Arc<dyn GaugeSource> = upstream.clone();
        upstream.metrics.read_from(Arc::downgrade(&source));
        upstream
    }

    /// Puts a policy in force for the calls that arrive from now on. Calls that wait keep theirs.
    pub fn install(&self, policy: Policy) {
        let remembered = |route: &Arc<Route>| Some(Arc::clone(&self.routes.get(&route.name)?.metrics));
        let names = policy
            .routes()
            .iter()
            .map(|route| (&*route.name, remembered(route)));
        let metrics = self.all_metrics.routes(&self.metrics, names);
        let known = policy.routes().iter().zip(metrics).map(|(route, metrics)| {
            let class = u32::try_from(self.routes.len()).unwrap_or(u32::MAX);
            let state = self.routes.entry(Arc::clone(&route.name));
            let state = Arc::clone(&state.or_insert_with(|| Arc::new(RouteState::new(class, metrics))));
            state.is_of(route.generation);
            state
        });
        let states = known.collect();
        let limit = Limit::of(policy.traffic.rate_limit, self.policy.load().limit.as_ref());
        self.backend.install(&policy.traffic);
        let detours = &policy.traffic.detours;
        let detours = (!detours.is_none()).then(|| Arc::new(detours.clone()));
        self.policy.store(Arc::new(Installed {
            policy,
            states,
            limit,
            detours,
        }));
    }

    /// Which policy is in force.
    pub fn generation(&self) -> u64 {
        self.policy.load().policy.generation
    }

    /// The policy in force.
    pub fn policy(&self) -> Policy {
        self.policy.load().policy.clone()
    }

    /// Whether the policy in force has routes.
    pub(crate) fn is_batching(&self) -> bool {
        !self.policy.load().states.is_empty()
    }

    /// Counts a call that arrived, and says what is to be done with it.
    pub(crate) fn arrival(&self, head: &Head<'_>) -> Arrival {
        let installed = self.policy.load();
        let limit = installed.limit.as_ref();
        Arrival {
            route: installed.route(head),
            timeouts: installed.policy.traffic.timeouts,
            detours: installed.detours.clone(),
            refused: self.short_of_memory().or_else(|| {
                let wait = limit?.admit(head.headers).err()?;
                Some(ErrorKind::RateLimited(wait))
            }),
        }
    }

    /// The other backend that a call goes to which came here; `None`: it stays.
    pub(crate) fn diverts(&self, detours: &Detours) -> Option<Arc<Self>> {
        let other = detours.split.as_ref()?.choose(self.chance.next())?;
        self.others.find(other)
    }

    /// The backend that a call which came here is copied to; `None`: to none.
    pub(crate) fn mirrors<'d>(&self, detours: &'d Detours) -> Option<&'d Arc<str>> {
        let mirror = detours.mirror.as_ref()?;
        mirror.share.takes(self.chance.next()).then_some(&mirror.name)
    }

    /// How long a call that came here waits, and what it is answered with then.
    pub(crate) fn strikes(&self, faults: &Faults) -> (Option<Duration>, Option<Injected>) {
        faults.strike([self.chance.next(), self.chance.next()])
    }

    /// Another backend of the plan in force.
    pub(crate) fn other(&self, name: &str) -> Option<Arc<Self>> {
        self.others.find(name)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The backend that a connection goes to which came here and is not HTTP.
    pub(crate) fn for_bytes(&self) -> Arc<Backend> {
        let detours = self.policy.load().detours.clone();
        let other = detours.and_then(|detours| self.diverts(&detours));
        Arc::clone(other.as_ref().map_or(&self.backend, |other| &other.backend))
    }

    /// Has as much be queued as memory allows now, and says whether no more calls may be taken on.
    fn short_of_memory(&self) -> Option<ErrorKind> {
        let pressure = self.backend.memory.pressure();
        if self.squeeze.load(Ordering::Relaxed) != pressure.squeeze() {
            self.squeeze.store(pressure.squeeze(), Ordering::Relaxed);
            self.batches.squeeze(pressure.squeeze());
        }
        (pressure == Pressure::Full).then_some(ErrorKind::Shed(Bound::Memory, MEMORY_RETRY_AFTER))
    }

    /// What is remembered of the route of this number.
    fn state_of(&self, class: u32) -> Option<Arc<RouteState>> {
        self.routes
            .iter()
            .find(|state| state.class == class)
            .map(|state| Arc::clone(&state))
    }

    /// The first of `count` numbers that this process uses once.
    pub(crate) fn next_ids(&self, count: usize) -> u64 {
        self.next_id.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// The next batch's number.
    pub(crate) fn next_batch(&self) -> u64 {
        self.next_batch.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on no call is held back for companions.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.batches.drain();
        self.trials.drain();
    }
}

impl Installed {
    fn route(&self, head: &Head<'_>) -> Option<(Arc<Route>, Arc<RouteState>)> {
        let matched = self.policy.route(head)?;
        let at = usize::try_from(matched.route.id.0).ok()?;
        Some((Arc::clone(matched.route), Arc::clone(self.states.get(at)?)))
    }
}

fn depart(upstream: &Weak<Upstream>, left: Departure<Box<Pending>>) {
    let Some(upstream) = upstream.upgrade() else {
        return;
    };
    match left {
        Departure::Batch(batch) => {
            tokio::spawn(flight::fly(upstream, batch));
        }
        Departure::Expired(call, Expired::Deadline) => {
            call.answer(Err(ErrorKind::DeadlineExceeded.into()));
        }
        Departure::Expired(call, Expired::QueueTimeout) => {
            // The queue did not move for that long; a second is the least that can be said.
            let shed = ErrorKind::Shed(Bound::QueueTimeout, Duration::from_secs(1));
            call.answer(Err(shed.into()));
        }
    }
}

/// Calls that wait on purpose at one time; more do not wait. Each holds its head: some 30 MiB in all.
const DELAYED_MAX: usize = 10_000;

/// The next reading of memory comes after this.
const MEMORY_RETRY_AFTER: Duration = Duration::from_secs(1);
