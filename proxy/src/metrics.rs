//! What the sidecar counts: handles that a call writes without a lock or a look-up.
//!
//! A route's handles are made once per policy, never per call; a label never holds text from the
//! network; and what does not fit the cap on series is counted together as `other`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

mod cell;
mod control_plane;
mod exposition;
mod families;
mod labels;
mod open;
mod process;
mod trouble;

pub use cell::{Counter, Gauge, Histogram, Label, Labelled, Measure};
pub use control_plane::ControlPlane;
pub use labels::{
    BatchFailure, CancelStage, Fault, ItemOutcome, MirrorOutcome, Protocol, Refusal, StatusClass,
    Unauthorized, UpstreamCall,
};
pub use open::{OpenConnection, OpenDownstream};
pub use trouble::Trouble;

use crate::error::ErrorKind;
use cell::Buckets;
use jitney_core::Bypass;
use jitney_core::batch::{FlushReason, Snapshot};
use jitney_core::decline::Tally;

/// Every metric of the process; a cheap handle.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: ProcessMetrics,
    /// Invariant: at most [`BACKENDS_MAX`], and [`ROUTES_MAX`] routes over all of them.
    backends: Mutex<Vec<Arc<BackendMetrics>>>,
    other: Arc<BackendMetrics>,
    other_route: Arc<RouteMetrics>,
}

/// What belongs to no backend.
#[derive(Debug, Default)]
pub struct ProcessMetrics {
    /// Downstream connections that are open.
    pub downstream_connections: Gauge,
    /// Downstream connections by what they turned out to speak.
    pub downstream_connections_total: Labelled<Protocol>,
    /// Connections that were closed as soon as they were accepted, by why.
    pub refused_connections: Labelled<Refusal>,
    /// Calls and connections that no rule of the workload's authorization allows.
    pub unauthorized: Labelled<Unauthorized>,
    /// Generation of the policy in force: how many were applied since start.
    pub policy_generation: Gauge,
    /// Policies refused since start.
    pub policy_refusals: Counter,
    /// 1 while the policy files hold something that was refused.
    pub policy_faulty: Gauge,
    /// Resources of the control plane that were rejected.
    pub config_rejected: Counter,
    /// The stream to the control plane.
    pub control_plane: ControlPlane,
    /// Listeners whose addresses cannot be bound.
    pub listeners_pending: Gauge,
    /// 1 while the process drains.
    pub draining: Gauge,
    /// 1 while memory is short, 2 while calls are shed for it.
    pub memory_pressure: Gauge,
}

/// The handles of one backend.
pub struct BackendMetrics {
    name: Arc<str>,
    /// Calls to this backend that matched no route.
    pub pass_through: CallMetrics,
    /// Requests sent, by why.
    pub upstream_calls: Labelled<UpstreamCall>,
    /// Replies received, by class of status.
    pub upstream_replies: Labelled<StatusClass>,
    /// From sending a request to the head of its reply.
    pub upstream_duration: Histogram,
    /// Connections to the endpoints that are open.
    pub upstream_connections: Gauge,
    /// Connections made since start.
    pub upstream_connects: Counter,
    /// Bytes read from endpoints.
    pub upstream_received: Counter,
    /// Bytes written to endpoints.
    pub upstream_sent: Counter,
    /// Replies that came for a caller, or for a batch, that was gone.
    pub late_replies: Counter,
    /// Errors and sheds of calls to this backend, by reason.
    pub errors: Labelled<ErrorKind>,
    /// Copies of calls that came to this backend, by what became of them.
    pub mirrored: Labelled<MirrorOutcome>,
    /// Calls that came to this backend and waited or failed on purpose.
    pub faults: Labelled<Fault>,
    sources: Mutex<Vec<Weak<dyn GaugeSource>>>,
    routes: Mutex<Vec<Arc<RouteMetrics>>>,
}

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Arc<str>,
    /// Every call that matched the route, batched or not.
    pub calls: CallMetrics,
    /// Items of each batch that left.
    pub batch_size: Histogram,
    /// Body bytes of each batch that left.
    pub batch_bytes: Histogram,
    /// Batches by why they left.
    pub dispatch: Labelled<FlushReason>,
    /// How long each member had waited when its batch left.
    pub queue_wait: Histogram,
    /// Calls that travelled alone, by reason.
    pub bypass: Labelled<Bypass>,
    /// Items by what became of them.
    pub items: Labelled<ItemOutcome>,
    /// Calls that needed no upstream call of their own.
    pub calls_saved: Counter,
    /// Upstream calls that `mode: Shadow` would have saved.
    pub shadow_calls_saved: Counter,
    /// Batches that failed as a whole, by how.
    pub batch_failures: Labelled<BatchFailure>,
    /// Whether they fail one after the other.
    pub trouble: Trouble,
    /// Extra calls made to find the bad item of a failed batch.
    pub bisect_calls: Counter,
    /// Items found to fail a whole batch.
    pub poison_items: Counter,
    /// Callers that left, by where their call was.
    pub cancelled: Labelled<CancelStage>,
    /// Learned cost of a batch of no items, in seconds. Set when gauges are read.
    pub cost_fixed: Measure,
    /// Learned cost of one more item, in seconds. Set when gauges are read.
    pub cost_per_item: Measure,
}

/// Downstream calls and how they ended.
#[derive(Debug)]
pub struct CallMetrics {
    /// Calls answered, by class of status.
    pub replies: Labelled<StatusClass>,
    /// From the end of the request's head to the head of its reply.
    pub duration: Histogram,
}

/// What is read from a backend at each scrape rather than counted.
pub trait GaugeSource: Send + Sync {
    /// The state now. Whoever has learned costs sets those of its routes before it returns.
    fn gauges(&self) -> Gauges;
}

/// The state of one backend's dispatcher.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Items that wait.
    pub queue_items: usize,
    /// How long the oldest of them has waited.
    pub queue_oldest_age: Duration,
    /// Batches in flight.
    pub batches_in_flight: usize,
    /// How many may be.
    pub window: f64,
    /// How many requests may be, as far as that is learned.
    pub concurrency_limit: Option<usize>,
    /// Duration of batches over what was learned: 1 while nothing queues upstream.
    pub latency_inflation: f64,
    /// Keys that are open.
    pub keys: usize,
    /// Idle keys forgotten since start, to make room.
    pub key_evictions: u64,
}

impl Gauges {
    /// Those of two dispatchers for one backend.
    fn and(self, other: Self) -> Self {
        Self {
            queue_items: self.queue_items + other.queue_items,
            queue_oldest_age: self.queue_oldest_age.max(other.queue_oldest_age),
            batches_in_flight: self.batches_in_flight + other.batches_in_flight,
            window: self.window + other.window,
            concurrency_limit: match (self.concurrency_limit, other.concurrency_limit) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            },
            latency_inflation: self.latency_inflation.max(other.latency_inflation),
            keys: self.keys + other.keys,
            key_evictions: self.key_evictions + other.key_evictions,
        }
    }
}

impl From<&Snapshot> for Gauges {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            queue_items: snapshot.queued_items,
            queue_oldest_age: snapshot
                .lanes
                .iter()
                .map(|lane| lane.oldest_age)
                .max()
                .unwrap_or_default(),
            batches_in_flight: snapshot.in_flight,
            window: snapshot.window,
            concurrency_limit: None,
            latency_inflation: snapshot.inflation,
            keys: snapshot.keys,
            key_evictions: snapshot.key_evictions,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of a process that has counted nothing yet.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                process: ProcessMetrics::default(),
                backends: Mutex::default(),
                other: Arc::new(BackendMetrics::new(OTHER.into())),
                other_route: Arc::new(RouteMetrics::new(OTHER.into())),
            }),
        }
    }

    /// What belongs to no backend.
    pub fn process(&self) -> &ProcessMetrics {
        &self.inner.process
    }

    /// The handles of a backend, made at the first call for its name.
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        let mut backends = self.inner.backends.lock();
        if let Some(known) = backends.iter().find(|backend| &*backend.name == name) {
            return Arc::clone(known);
        }
        if backends.len() == BACKENDS_MAX {
            return Arc::clone(&self.inner.other);
        }
        let backend = Arc::new(BackendMetrics::new(name.into()));
        backends.push(Arc::clone(&backend));
        backend
    }

    /// Declares the routes of a backend, in the order of its policy: one handle for each.
    ///
    /// A route that was there before keeps its counts; one that is no longer named is forgotten, unless
    /// whoever names it again still has its handle.
    pub fn routes<'n>(
        &self,
        backend: &BackendMetrics,
        names: impl IntoIterator<Item = (&'n str, Option<Arc<RouteMetrics>>)>,
    ) -> Vec<Arc<RouteMetrics>> {
        let backends = self.inner.backends.lock();
        let is_same = |other: &Arc<BackendMetrics>| std::ptr::eq(Arc::as_ptr(other), backend);
        let (same, others): (Vec<_>, Vec<_>) = backends.iter().partition(|other| is_same(other));
        let elsewhere: usize = others.iter().map(|other| other.routes.lock().len()).sum();
        // The backend that stands for the overflow has no series for routes either.
        let room = if same.is_empty() {
            0
        } else {
            ROUTES_MAX.saturating_sub(elsewhere)
        };
        let mut routes = backend.routes.lock();
        let before = std::mem::take(&mut *routes);
        let mut handles = Vec::new();
        for (name, remembered) in names {
            if let Some(twin) = routes.iter().find(|route| &*route.name == name) {
                handles.push(Arc::clone(twin));
                continue;
            }
            if routes.len() == room {
                handles.push(Arc::clone(&self.inner.other_route));
                continue;
            }
            let is_meant = |route: &&Arc<RouteMetrics>| &*route.name == name;
            let known = before.iter().find(is_meant).cloned();
            let known = known.or_else(|| remembered.filter(|route| is_meant(&route)));
            let handle = known.unwrap_or_else(|| Arc::new(RouteMetrics::new(name.into())));
            routes.push(Arc::clone(&handle));
            handles.push(handle);
        }
        handles
    }

    /// Calls that were answered since start, to backends of these names, and those of them that failed: with
    /// a status of 5xx.
    pub fn tally(&self, is_of: impl Fn(&str) -> bool) -> Tally {
        let mut tally = Tally::default();
        let mut add = |calls: &CallMetrics| {
            tally.calls += calls.replies.total();
            tally.failed += calls.replies.value(StatusClass::ServerError);
        };
        let backends = self.inner.backends.lock();
        for backend in backends.iter().filter(|backend| is_of(&backend.name)) {
            add(&backend.pass_through);
            backend.routes.lock().iter().for_each(|route| add(&route.calls));
        }
        tally
    }

    /// Routes whose batches fail, and why: those with counts of their own.
    pub fn troubles(&self) -> BTreeMap<Arc<str>, String> {
        let backends = self.inner.backends.lock();
        let routes = backends.iter().flat_map(|backend| backend.routes());
        let troubles = routes.filter_map(|route| Some((Arc::clone(&route.name), route.trouble.reason()?)));
        troubles.collect()
    }

    /// Everything as OpenMetrics text, which Prometheus' own text parser reads as well.
    pub fn render(&self) -> String {
        exposition::render(self)
    }
}

impl std::fmt::Debug for BackendMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendMetrics")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl BackendMetrics {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            pass_through: CallMetrics::default(),
            upstream_calls: Labelled::default(),
            upstream_replies: Labelled::default(),
            upstream_duration: Histogram::new(&SECONDS),
            upstream_connections: Gauge::default(),
            upstream_connects: Counter::default(),
            upstream_received: Counter::default(),
            upstream_sent: Counter::default(),
            late_replies: Counter::default(),
            errors: Labelled::default(),
            mirrored: Labelled::default(),
            faults: Labelled::default(),
            sources: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// The backend's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The routes with counts of their own.
    pub fn routes(&self) -> Vec<Arc<RouteMetrics>> {
        self.routes.lock().clone()
    }

    /// Says where the state is read at each scrape from now on: from all that live of those that were named.
    pub fn read_from(&self, source: Weak<dyn GaugeSource>) {
        let mut sources = self.sources.lock();
        if sources.len() == sources.capacity() {
            // There may be one for each of thousands of connections, of which few stay.
            sources.retain(|known| known.strong_count() > 0);
        }
        sources.push(source);
    }

    fn gauges(&self) -> Gauges {
        let sources: Vec<_> = self.sources.lock().iter().filter_map(Weak::upgrade).collect();
        let gauges = sources.iter().map(|source| source.gauges());
        gauges.reduce(Gauges::and).unwrap_or_default()
    }
}

impl RouteMetrics {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            calls: CallMetrics::default(),
            batch_size: Histogram::new(&SIZES),
            batch_bytes: Histogram::new(&BYTES),
            dispatch: Labelled::default(),
            queue_wait: Histogram::new(&SECONDS),
            bypass: Labelled::default(),
            items: Labelled::default(),
            calls_saved: Counter::default(),
            shadow_calls_saved: Counter::default(),
            batch_failures: Labelled::default(),
            trouble: Trouble::default(),
            bisect_calls: Counter::default(),
            poison_items: Counter::default(),
            cancelled: Labelled::default(),
            cost_fixed: Measure::default(),
            cost_per_item: Measure::default(),
        }
    }

    /// The route's name: `policy/route`, or `other`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            replies: Labelled::default(),
            duration: Histogram::new(&SECONDS),
        }
    }
}

impl CallMetrics {
    /// Counts a call that was answered.
    pub fn answered(&self, status: http::StatusCode, duration: Duration) {
        self.replies.inc(status.into());
        self.duration.observe_time(duration);
    }
}

/// This process's resident memory, in bytes; 0 where the kernel does not say.
pub(crate) fn resident_bytes() -> i64 {
    process::resident_bytes()
}

/// Stands for every route or backend that the caps leave no series of its own.
const OTHER: &str = "other";

/// Backends with series of their own. With [`ROUTES_MAX`] and the labels as they are, the worst
/// case stays below the 3,000 series that are promised; a test adds it up.
const BACKENDS_MAX: usize = 8;

/// Routes with series of their own, over all backends.
const ROUTES_MAX: usize = 18;

/// Powers of two, as batch sizes are chosen.
static SIZES: Buckets = Buckets {
    bounds: &[1, 2, 4, 8, 16, 32, 64, 128],
    unit: 1.0,
};

/// 1 KiB to 4 MiB.
static BYTES: Buckets = Buckets {
    bounds: &[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22],
    unit: 1.0,
};

/// 100 us to 10 s, in nanoseconds: waits of a batch are a few milliseconds.
static SECONDS: Buckets = Buckets {
    bounds: &[
        100_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        10_000_000_000,
    ],
    unit: 1e-9,
};

#[cfg(test)]
mod tests;
