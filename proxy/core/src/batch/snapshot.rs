//! What the admin endpoint shows of a batcher.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Batcher;
use super::arena::Id;
use super::window::count;

/// A batcher at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Learned window: batches that may be in flight.
    pub window: f64,
    /// Batches in flight.
    pub in_flight: usize,
    /// Measured time over expected time of recent batches; 1.0 is an upstream without queue.
    pub inflation: f64,
    /// Calls queued over all lanes.
    pub queued_calls: usize,
    /// Items queued over all lanes.
    pub queued_items: usize,
    /// Bytes queued over all lanes.
    pub queued_bytes: usize,
    /// Keys held, idle ones included.
    pub keys: usize,
    /// Idle keys that had to make room since the start.
    pub key_evictions: u64,
    /// Lanes with calls.
    pub lanes: Vec<LaneSnapshot>,
    /// Learned costs.
    pub classes: Vec<ClassSnapshot>,
}

/// One lane with calls.
#[derive(Clone, Debug)]
pub struct LaneSnapshot {
    /// The key's bytes.
    pub key: Arc<[u8]>,
    /// The class of its calls.
    pub class: u32,
    /// Calls queued.
    pub calls: usize,
    /// Items queued.
    pub items: usize,
    /// Bytes queued.
    pub bytes: usize,
    /// How long the oldest call has been queued.
    pub oldest_age: Duration,
}

/// What is known of one class.
#[derive(Clone, Debug)]
pub struct ClassSnapshot {
    /// The class.
    pub class: u32,
    /// Announced calls whose bodies are still coming in.
    pub announced: usize,
    /// Fixed cost of a batch in seconds, once known.
    pub fixed_seconds: Option<f64>,
    /// Cost per item in seconds, once known.
    pub per_item_seconds: Option<f64>,
    /// The largest batch the upstream takes, when it has refused one as too large.
    pub learned_max_size: Option<usize>,
}

impl<T> Batcher<T> {
    /// The state at `now`. Looks at every queued call: for people, not for the data path.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut lanes = Vec::new();
        let mut oldest: HashMap<Id, Instant> = HashMap::new();
        for (_, call) in self.calls.iter().filter(|(_, call)| call.queued) {
            let since = oldest.entry(call.lane).or_insert(call.arrived);
            *since = call.arrived.min(*since);
        }
        for (id, lane) in self.lanes.iter().filter(|(_, lane)| lane.calls > 0) {
            let oldest = oldest.get(&id);
            lanes.push(LaneSnapshot {
                key: Arc::clone(&lane.key),
                class: lane.class,
                calls: lane.calls,
                items: lane.items,
                bytes: lane.bytes,
                oldest_age: oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(*oldest)),
            });
        }
        let classes = self.classes.iter().map(|(class, known)| {
            let parts = known.cost.parts();
            ClassSnapshot {
                class: *class,
                announced: known.announced,
                fixed_seconds: parts.map(|(fixed, _)| fixed),
                per_item_seconds: parts.map(|(_, per_item)| per_item),
                learned_max_size: known.size.learned(),
            }
        });
        Snapshot {
            window: count(self.controller.window()),
            in_flight: self.flights.len(),
            inflation: self.controller.inflation(),
            queued_calls: self.calls.len(),
            queued_items: self.queued_items,
            queued_bytes: self.queued_bytes,
            keys: self.lanes.len(),
            key_evictions: self.lanes.evictions,
            lanes,
            classes: classes.collect(),
        }
    }
}
