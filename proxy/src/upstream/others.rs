//! The backends of the plan in force by their names, for policies that name some; and chance, by which
//! calls are shared out over them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::Upstream;

/// The backends of the plan in force. Clones are the same; none at first.
#[derive(Clone, Debug, Default)]
pub struct Others(Arc<ArcSwap<HashMap<Arc<str>, Weak<Upstream>>>>);

impl Others {
    /// These are the backends from now on.
    pub(crate) fn replace<'u>(&self, upstreams: impl Iterator<Item = &'u Arc<Upstream>>) {
        let by_name =
            |upstream: &Arc<Upstream>| (Arc::clone(&upstream.backend.name), Arc::downgrade(upstream));
        self.0.store(Arc::new(upstreams.map(by_name).collect()));
    }

    /// The one of this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Upstream>> {
        self.0.load().get(name)?.upgrade()
    }
}

/// Uniform numbers that follow from each other in no way that a caller could use: SplitMix64 (Steele, Lea
/// and Flood, 2014), begun anywhere.
#[derive(Debug)]
pub(super) struct Chance(AtomicU64);

impl Chance {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0)))
    }

    pub(super) fn next(&self) -> u64 {
        let mut mixed = self.0.fetch_add(GAMMA, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// 2^64 over the golden ratio, odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
