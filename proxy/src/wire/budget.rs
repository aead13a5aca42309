//! What a connection of HTTP/2 still has room for, told from what comes in: streams, as many as the peer says, and
//! short frames, as many as the library lets the peer send: it ends a connection whose budget is spent, with all that
//! go over it, so others have to be given up in time.
//!
//! The budget of short frames is the connection's, half of its window. Each DATA frame of less than [`SHORT`] bytes that
//! is not its stream's last takes from it what it is short of, and gives that back once it is read; frames on a stream
//! that this side has reset never give it back. Longer ones give back what they are longer by. And a hundred empty ones
//! are the most in the life of a connection. Here frames that are dropped unread do not give it back either, which the
//! library has them do: a connection is worn too soon rather than too late.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::places::{Places, Queue};

/// What one peer may send on one stream before some of it is read. A reply as fast as the wire needs what is under
/// way in one round trip: 256 KiB are 2 Gbit/s over 1 ms. What a reader is behind by is kept here, though, and if it
/// is messages of 50 bytes then 5,000 of them take 1 MiB of the budget.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;

/// The same of a caller that nobody has proven to be a sidecar: it need not be across a network, and anybody may make
/// many connections and send on each stream what the service does not read.
pub(crate) const CALLERS_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection: more than the hundred that there are may take, so that none waits for
/// another's reader. Half of it is the budget: thirty readers that are as far behind as they can be with messages of
/// 50 bytes. What the library keeps of a frame is about as much as a short one takes of the budget: at most 32 MiB.
pub(crate) const CONNECTION_WINDOW: u32 = 64 << 20;

/// What a connection has, and what is spent of it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<Spent>);

#[derive(Debug)]
struct Spent {
    short: AtomicUsize,
    empty: AtomicUsize,
    /// How many streams the peer allows.
    streams: AtomicUsize,
    told: Notify,
    places: Places,
}

/// Frames of at least as many bytes cost nothing.
const SHORT: usize = 256;
/// From here on new calls had better go elsewhere: what is left is for those that are here.
const WORN: usize = CONNECTION_WINDOW as usize / 2 / 4;
const WORN_EMPTY: usize = 50;

/// Numbers of streams that nobody allows: not known yet, and without end.
const UNTOLD: usize = usize::MAX;
const ANY: usize = usize::MAX - 1;

impl Default for Spent {
    fn default() -> Self {
        Self {
            short: AtomicUsize::new(0),
            empty: AtomicUsize::new(0),
            streams: AtomicUsize::new(UNTOLD),
            told: Notify::new(),
            places: Places::default(),
        }
    }
}

impl Budget {
    /// That of a connection among others, to whose streams one queue leads.
    pub(crate) fn behind(queue: &Arc<Queue>) -> Self {
        Self(Arc::new(Spent {
            places: Places::of(queue),
            ..Spent::default()
        }))
    }

    /// The streams that this side has open.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    /// How many streams the peer allows at once; `None` until its first frame (RFC 9113 sections 3.4 and 6.5.2).
    pub(crate) fn streams(&self) -> Option<usize> {
        let streams = self.0.streams.load(Ordering::SeqCst);
        (streams != UNTOLD).then_some(streams)
    }

    /// Waits until that is known.
    pub(crate) async fn streams_are_known(&self) {
        let told = self.0.told.notified();
        let mut told = pin!(told);
        told.as_mut().enable();
        if self.streams().is_none() {
            told.await;
        }
    }

    /// From now on as many as one likes, if the peer has not said how many.
    pub(crate) fn presume_streams(&self) {
        self.allow_streams(|streams| (streams == UNTOLD).then_some(ANY));
    }

    /// The peer says how many.
    pub(super) fn allows_streams(&self, streams: u32) {
        let streams = usize::try_from(streams).unwrap_or(ANY).min(ANY);
        self.allow_streams(|_| Some(streams));
    }

    /// All that it says of itself has come.
    pub(super) fn has_told(&self) {
        self.presume_streams();
        self.0.told.notify_waiters();
    }

    fn allow_streams(&self, allow: impl Fn(usize) -> Option<usize>) {
        let streams = &self.0.streams;
        let _before = streams.fetch_update(Ordering::SeqCst, Ordering::SeqCst, allow);
        self.0.places.look_again();
    }

    /// Whether so much of it is spent that the connection should carry no further call.
    pub(crate) fn is_worn(&self) -> bool {
        self.0.short.load(Ordering::Relaxed) > WORN || self.0.empty.load(Ordering::Relaxed) > WORN_EMPTY
    }

    /// A DATA frame of so many bytes has come, not its stream's last.
    pub(super) fn came(&self, length: usize) {
        match length {
            0 => _ = self.0.empty.fetch_add(1, Ordering::Relaxed),
            _ if length < SHORT => _ = self.0.short.fetch_add(SHORT - length, Ordering::Relaxed),
            _ => self.give_back(length - SHORT),
        }
    }

    /// A frame of so many bytes, not its stream's last, was read.
    pub(crate) fn was_read(&self, length: usize) {
        if (1..SHORT).contains(&length) {
            self.give_back(SHORT - length);
        }
    }

    /// Of short frames, and how many empty ones have come.
    #[cfg(test)]
    pub(super) fn spent(&self) -> (usize, usize) {
        let Spent { short, empty, .. } = &*self.0;
        (short.load(Ordering::Relaxed), empty.load(Ordering::Relaxed))
    }

    fn give_back(&self, amount: usize) {
        let spent = &self.0.short;
        // Most of the time nothing is spent, and nobody writes.
        if amount > 0 && spent.load(Ordering::Relaxed) > 0 {
            let less = |spent: usize| Some(spent.saturating_sub(amount));
            let _before = spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_says_nothing_of_streams_allows_any() {
        let budget = Budget::default();
        let waits = || {
            let budget = budget.clone();
            tokio::spawn(async move { budget.streams_are_known().await })
        };
        let waiting = waits();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        budget.has_told();
        waiting.await.unwrap();
        assert_eq!(budget.streams(), Some(ANY));
        waits().await.unwrap();
        budget.allows_streams(2);
        budget.has_told();
        budget.presume_streams();
        assert_eq!(budget.streams(), Some(2), "it says so after all");
    }

    #[test]
    fn what_is_read_is_given_back() {
        let budget = Budget::default();
        let until_worn = WORN / 206;
        (0..until_worn).for_each(|_| budget.came(50));
        assert!(!budget.is_worn());
        budget.came(50);
        assert!(budget.is_worn());
        budget.was_read(50);
        assert!(!budget.is_worn());
        (0..2 * until_worn).for_each(|_| budget.was_read(50));
        assert_eq!(budget.spent(), (0, 0));
    }

    #[test]
    fn empty_frames_are_never_forgotten() {
        let budget = Budget::default();
        for _ in 0..WORN_EMPTY {
            budget.came(0);
            budget.came(1000);
        }
        assert!(!budget.is_worn());
        budget.came(0);
        assert!(budget.is_worn());
    }
}
