//! What happens often and is told of seldom: each sort at once, and then every ten seconds with how many like it
//! were left out.

use std::hash::Hash;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use parking_lot::Mutex;

/// What was told of each sort lately. Bounded: beyond [`SORTS`], newcomers are one sort.
#[derive(Debug)]
pub(crate) struct Seldom<K>(Mutex<Sorts<K>>);

#[derive(Debug)]
struct Sorts<K> {
    known: HashMap<K, Told>,
    others: Option<Told>,
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    left_out: u64,
}

impl<K> Default for Seldom<K> {
    fn default() -> Self {
        Self(Mutex::new(Sorts {
            known: HashMap::default(),
            others: None,
            swept: None,
        }))
    }
}

impl<K: Eq + Hash> Seldom<K> {
    /// Whether to tell of one of this sort now: how many were left out since the last was told of. `None`: this one
    /// is left out, too.
    pub(crate) fn tell(&self, sort: K, now: Instant) -> Option<u64> {
        let mut sorts = self.0.lock();
        if let Some(told) = sorts.known.get_mut(&sort) {
            return told.again(now);
        }
        if sorts.has_room(now) {
            sorts.known.insert(sort, Told { at: now, left_out: 0 });
            return Some(0);
        }
        match &mut sorts.others {
            Some(told) => told.again(now),
            None => {
                sorts.others = Some(Told { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

impl<K: Eq + Hash> Sorts<K> {
    /// Forgets those that would be told of at once, to make room.
    fn has_room(&mut self, now: Instant) -> bool {
        let rested = |swept: Instant| now.saturating_duration_since(swept) >= SWEEP;
        if self.known.len() >= SORTS && self.swept.is_none_or(rested) {
            self.swept = Some(now);
            self.known.retain(|_, told| !told.is_due(now));
        }
        self.known.len() < SORTS
    }
}

impl Told {
    fn again(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            self.left_out += 1;
            return None;
        }
        self.at = now;
        Some(std::mem::take(&mut self.left_out))
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= EVERY
    }
}

/// How often one sort is told of.
const EVERY: Duration = Duration::from_secs(10);

/// Sorts that are told apart: at most as many lines, and one more, in ten seconds.
const SORTS: usize = 256;

/// The least time between two searches for sorts that can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::alarm::now;

    #[test]
    fn each_sort_is_told_of_at_once_and_then_seldom() {
        let (seldom, start) = (Seldom::default(), now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seldom.tell("a", start), Some(0));
        for _ in 0..5 {
            assert_eq!(seldom.tell("a", after(9)), None);
        }
        assert_eq!(seldom.tell("b", after(9)), Some(0));
        assert_eq!(seldom.tell("a", after(10)), Some(5));
        assert_eq!(seldom.tell("a", after(11)), None);
        assert_eq!(seldom.tell("a", after(30)), Some(1));
    }

    #[test]
    fn a_flood_of_sorts_is_one_sort_until_others_are_forgotten() {
        let (seldom, start) = (Seldom::default(), now());
        let told = |from: u32, at| {
            (from..from + 10_000)
                .filter_map(|sort| seldom.tell(sort, at))
                .count()
        };
        assert_eq!(told(0, start), SORTS + 1);
        assert_eq!(told(10_000, start + EVERY / 2), 0);
        let later = start + 2 * EVERY;
        assert_eq!(told(20_000, later), SORTS + 1);
        assert!(seldom.0.lock().known.len() <= SORTS);
    }
}
