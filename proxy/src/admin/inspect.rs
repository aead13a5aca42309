//! What the data path lets the admin endpoint see. Everything is read when somebody asks; the only
//! thing that a batch writes is one entry of a ring.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_core::policy::Policy;
use parking_lot::Mutex;
use serde::Serialize;

use crate::metrics::{BackendMetrics, Gauges};

/// One backend as the admin endpoint sees it.
pub trait BackendView: Send + Sync {
    /// The backend's name.
    fn name(&self) -> &str;
    /// What is counted of it.
    fn metrics(&self) -> Arc<BackendMetrics>;
    /// The policy in force.
    fn policy(&self) -> Policy;
    /// The state of its dispatcher.
    fn gauges(&self) -> Gauges;
    /// The lanes that are open: one per batch key.
    fn lanes(&self) -> Vec<LaneView>;
    /// Its endpoints.
    fn endpoints(&self) -> Vec<EndpointView>;
    /// Its latest batches, newest first.
    fn recent(&self) -> Vec<BatchView>;
    /// What an operator should know about it besides: quarantines, say.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The backends that run now; a cheap handle.
#[derive(Clone, Default)]
pub struct Views(Arc<Shown>);

#[derive(Default)]
struct Shown {
    planned: Mutex<Vec<Arc<dyn BackendView>>>,
    more: Mutex<Vec<Arc<dyn MoreBackends>>>,
}

/// Knows backends that come and go by themselves.
pub trait MoreBackends: Send + Sync {
    /// Those that there are now.
    fn backends(&self) -> Vec<Arc<dyn BackendView>>;
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.list().iter().map(|view| view.name().to_owned()))
            .finish()
    }
}

impl Views {
    /// The backends.
    pub fn list(&self) -> Vec<Arc<dyn BackendView>> {
        let mut all = self.0.planned.lock().clone();
        let more = self.0.more.lock().clone();
        all.extend(more.iter().flat_map(|more| more.backends()));
        all
    }

    /// Says which backends run from now on.
    pub fn replace(&self, views: impl IntoIterator<Item = Arc<dyn BackendView>>) {
        *self.0.planned.lock() = views.into_iter().collect();
    }

    /// Has backends be shown that come and go by themselves.
    pub fn add(&self, more: Arc<dyn MoreBackends>) {
        self.0.more.lock().push(more);
    }
}

/// The calls that wait under one key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaneView {
    /// The route's name.
    pub route: Arc<str>,
    /// The key in words, credentials masked.
    pub key: String,
    /// Items that wait.
    pub items: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How long the oldest has waited.
    #[serde(rename = "oldest_ms", serialize_with = "as_ms")]
    pub oldest: Duration,
    /// The most items of one batch, as learned.
    pub max_size: usize,
}

/// One endpoint of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointView {
    /// Its address.
    pub address: String,
    /// Whose sidecar it is, where new connections to it are secured.
    pub secured: Option<String>,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// True while calls may go there.
    pub is_healthy: bool,
    /// Why not, or what else there is to say.
    pub note: String,
    /// Its load as the balancer sees it: the lower, the more calls it gets.
    pub load: f64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Connections that are open.
    pub connections: usize,
}

/// A batch that left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchView {
    /// Its number, unique in this process.
    pub id: u64,
    /// When it left: seconds since 1970.
    pub at: f64,
    /// The route's name.
    pub route: Arc<str>,
    /// The key in words, credentials masked.
    pub key: String,
    /// Members.
    pub members: usize,
    /// Items.
    pub items: usize,
    /// Bytes of the merged body.
    pub bytes: usize,
    /// Why it left.
    pub reason: &'static str,
    /// The longest that a member waited.
    #[serde(rename = "wait_ms", serialize_with = "as_ms")]
    pub wait: Duration,
    /// From sending it to the end of its reply; absent while it is in flight.
    #[serde(rename = "duration_ms", serialize_with = "as_optional_ms")]
    pub duration: Option<Duration>,
    /// What came of it; `in flight` until then.
    pub outcome: String,
}

/// The latest batches of one backend: a ring, so that it never grows.
#[derive(Debug, Default)]
pub struct RecentBatches {
    ring: Mutex<VecDeque<Left>>,
}

/// A batch as it is noted when it leaves; its key is put into words only when somebody looks.
#[derive(Clone, Debug)]
pub struct Left {
    /// Its number, unique in this process.
    pub id: u64,
    /// The route's name.
    pub route: Arc<str>,
    /// Its key.
    pub key: Arc<[u8]>,
    /// Members.
    pub members: usize,
    /// Items.
    pub items: usize,
    /// Bytes of the merged body.
    pub bytes: usize,
    /// Why it left.
    pub reason: &'static str,
    /// The longest that a member waited.
    pub wait: Duration,
    /// When it left.
    pub at: SystemTime,
    /// How long it took and what came of it, once that is known.
    pub outcome: Option<(Duration, Outcome)>,
}

/// What came of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every member got its part of the reply.
    Split,
    /// So many members had to be asked alone.
    AskedAlone(usize),
    /// It failed as a whole; the text is a `kind` of `jitney_batch_failures_total`.
    Failed(&'static str),
    /// Its callers had all left.
    Abandoned,
}

impl RecentBatches {
    /// Notes a batch that leaves.
    pub fn note(&self, left: Left) {
        let mut ring = self.ring.lock();
        if ring.len() == RING_LEN {
            ring.pop_front();
        }
        ring.push_back(left);
    }

    /// Notes what came of a batch, if it is still in the ring.
    pub fn finish(&self, id: u64, duration: Duration, outcome: Outcome) {
        let mut ring = self.ring.lock();
        // The newest are the likeliest to be in flight.
        if let Some(left) = ring.iter_mut().rev().find(|left| left.id == id) {
            left.outcome = Some((duration, outcome));
        }
    }

    /// The latest batches, newest first. `describe` puts a key into words.
    pub fn view(&self, describe: impl Fn(&[u8]) -> String) -> Vec<BatchView> {
        let ring = self.ring.lock().clone();
        ring.into_iter().rev().map(|left| left.view(&describe)).collect()
    }
}

impl Left {
    fn view(self, describe: impl Fn(&[u8]) -> String) -> BatchView {
        BatchView {
            id: self.id,
            at: self
                .at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            route: self.route,
            key: describe(&self.key),
            members: self.members,
            items: self.items,
            bytes: self.bytes,
            reason: self.reason,
            wait: self.wait,
            duration: self.outcome.map(|(duration, _)| duration),
            outcome: match self.outcome {
                None => "in flight".to_owned(),
                Some((_, Outcome::Split)) => "split".to_owned(),
                Some((_, Outcome::AskedAlone(count))) => format!("split, {count} asked alone"),
                Some((_, Outcome::Failed(kind))) => format!("failed: {kind}"),
                Some((_, Outcome::Abandoned)) => "abandoned".to_owned(),
            },
        }
    }
}

fn as_ms<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}

fn as_optional_ms<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_ms(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// A screenful.
const RING_LEN: usize = 64;
