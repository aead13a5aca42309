//! What a connection of HTTP/2 still has room for, told from what comes in: streams, as many as the peer says, and
//! short frames, as many as the library lets the peer send. It ends a connection whose budget is spent, with all that
//! go over it, so others have to be given up in time.
//!
//! The budget of short frames is the connection's, half of its window. Each DATA frame of less than [`SHORT`] bytes that is not its
//! stream's last takes from it what it is short of, and gives that back once it is read; frames on a stream that this
//! side has reset never give it back. Longer ones give back what they are longer by. And a hundred empty ones are the
//! most in the life of a connection.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

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
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    budget: Budget,
    /// Bytes until the next frame begins.
    skip: usize,
    /// Settings of this frame that are still to come.
    settings: usize,
    head: [u8; PADDED_HEAD],
    known: usize,
}

/// Frames of at least as many bytes cost nothing.
const SHORT: usize = 256;
/// From here on new calls had better go elsewhere: what is left is for those that are here.
const WORN: usize = CONNECTION_WINDOW as usize / 2 / 4;
const WORN_EMPTY: usize = 50;

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// The head of a frame (section 4.1), and with the length of its padding (section 6.1).
const HEAD: usize = 9;
const PADDED_HEAD: usize = HEAD + 1;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// One setting (section 6.5.1).
const SETTING: usize = 6;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

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
        }
    }
}

impl Budget {
    /// How many streams the peer allows at once; `None` until its first frame (RFC 9113 sections 3.4 and 6.5.2).
    pub(crate) fn streams(&self) -> Option<usize> {
        let streams = self.0.streams.load(Ordering::Relaxed);
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

    fn allow_streams(&self, allow: impl Fn(usize) -> Option<usize>) {
        let streams = &self.0.streams;
        let _before = streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, allow);
    }

    /// Whether so much of it is spent that the connection should carry no further call.
    pub(crate) fn is_worn(&self) -> bool {
        self.0.short.load(Ordering::Relaxed) > WORN || self.0.empty.load(Ordering::Relaxed) > WORN_EMPTY
    }

    fn came(&self, length: usize) {
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

    fn give_back(&self, amount: usize) {
        let spent = &self.0.short;
        // Most of the time nothing is spent, and nobody writes.
        if amount > 0 && spent.load(Ordering::Relaxed) > 0 {
            let less = |spent: usize| Some(spent.saturating_sub(amount));
            let _before = spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl Frames {
    /// Those of a client begin with its preface.
    pub(super) fn of_client(budget: Budget) -> Self {
        Self::after(PREFACE, budget)
    }

    pub(super) fn of_server(budget: Budget) -> Self {
        Self::after(0, budget)
    }

    fn after(skip: usize, budget: Budget) -> Self {
        Self {
            budget,
            skip,
            settings: 0,
            head: [0; PADDED_HEAD],
            known: 0,
        }
    }

    /// What has come.
    pub(super) fn saw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = (self.head_length() - self.known).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            self.head[self.known..self.known + wanted].copy_from_slice(head);
            self.known += wanted;
            bytes = rest;
            if self.known == self.head_length() {
                match self.settings.checked_sub(1) {
                    Some(left) => self.sets(left),
                    None => self.begins(),
                }
            }
        }
    }

    /// How long the head of this frame is, as far as it is known, or the setting.
    fn head_length(&self) -> usize {
        if self.settings > 0 {
            return SETTING;
        }
        let is_padded =
            self.known >= HEAD && self.is_data() && self.head[4] & PADDED != 0 && self.length() > 0;
        if is_padded { PADDED_HEAD } else { HEAD }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    const fn is_data(&self) -> bool {
        self.head[3] == DATA
    }

    fn sets(&mut self, left: usize) {
        let [high, low, value @ ..] = self.head;
        if [high, low] == MAX_CONCURRENT_STREAMS
            && let Some(&value) = value.first_chunk()
        {
            let streams = usize::try_from(u32::from_be_bytes(value)).unwrap_or(ANY);
            self.budget.allow_streams(|_| Some(streams.min(ANY)));
        }
        (self.settings, self.known) = (left, 0);
        if left == 0 {
            self.set();
        }
    }

    /// All that a peer says of itself has come.
    fn set(&self) {
        self.budget.presume_streams();
        self.budget.0.told.notify_waiters();
    }

    fn begins(&mut self) {
        self.skip = self.length() + HEAD - self.known;
        if self.head[3] == SETTINGS && self.head[4] & ACK == 0 {
            self.settings = self.skip / SETTING;
            // Nothing if it is one.
            self.skip %= SETTING;
            if self.settings == 0 {
                self.set();
            }
        }
        if self.is_data() && self.head[4] & END_STREAM == 0 {
            let padding = if self.known == PADDED_HEAD {
                self.head[HEAD]
            } else {
                0
            };
            self.budget.came(self.skip.saturating_sub(padding.into()));
        }
        self.known = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is spent, and how many empty frames came, after these bytes in pieces of this length.
    #[track_caller]
    fn check(bytes: &[u8], expected: (usize, usize)) {
        for length in [1, 2, 7, 9, 10, 11, 1000, 100_000] {
            let budget = Budget::default();
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes].concat();
            for (mut frames, bytes) in [
                (Frames::of_server(budget.clone()), bytes),
                (Frames::of_client(Budget::default()), &preface),
            ] {
                bytes.chunks(length).for_each(|piece| frames.saw(piece));
                let Spent { short, empty, .. } = &*frames.budget.0;
                assert_eq!(
                    (short.load(Ordering::Relaxed), empty.load(Ordering::Relaxed)),
                    expected,
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn short_frames_that_are_not_the_last_are_charged() {
        const HEADERS: u8 = 1;
        check(&frame(DATA, 0, &[0; 50]), (206, 0));
        check(&frame(DATA, END_STREAM, &[0; 50]), (0, 0));
        check(&frame(DATA, 0, &[]), (0, 1));
        check(&frame(DATA, END_STREAM, &[]), (0, 0));
        check(&frame(HEADERS, 0, &[0; 50]), (0, 0));
        check(&frame(DATA, 0, &[0; 256]), (0, 0));
        check(
            &[frame(DATA, 0, &[0; 6]), frame(DATA, 0, &[0; 300])].concat(),
            (206, 0),
        );
        check(
            &[frame(DATA, 0, &[0; 6]), frame(DATA, 0, &[0; 16_384])].concat(),
            (0, 0),
        );
    }

    #[test]
    fn the_peer_says_how_many_streams_it_allows() {
        let setting = |id: u8, value: u32| [&[0, id][..], &value.to_be_bytes()].concat();
        let all = [setting(4, 7), setting(3, 258), setting(5, 9)].concat();
        let bytes = [
            frame(SETTINGS, 0, &all),
            frame(SETTINGS, ACK, &[]),
            frame(SETTINGS, 0, &[]),
            frame(DATA, 0, &[0; 56]),
        ]
        .concat();
        check(&bytes, (200, 0));
        for length in 1..bytes.len() {
            let budget = Budget::default();
            let mut frames = Frames::of_server(budget.clone());
            assert_eq!(budget.streams(), None);
            bytes.chunks(length).for_each(|piece| frames.saw(piece));
            assert_eq!(budget.streams(), Some(258), "{length}");
            frames.saw(&frame(SETTINGS, 0, &setting(3, 0)));
            assert_eq!(budget.streams(), Some(0), "{length}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_of_streams_allows_any() {
        let waits = |budget: &Budget| {
            let budget = budget.clone();
            tokio::spawn(async move { budget.streams_are_known().await })
        };
        for settings in [&[][..], &[0, 4, 0, 0, 0, 9]] {
            let budget = Budget::default();
            let mut frames = Frames::of_server(budget.clone());
            let waiting = waits(&budget);
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            frames.saw(&frame(SETTINGS, 0, settings));
            waiting.await.unwrap();
            assert_eq!(budget.streams(), Some(ANY));
            waits(&budget).await.unwrap();
        }
        let budget = Budget::default();
        budget.presume_streams();
        waits(&budget).await.unwrap();
        Frames::of_server(budget.clone()).saw(&frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 2]));
        assert_eq!(budget.streams(), Some(2), "it says so after all");
    }

    #[test]
    fn padding_is_no_payload() {
        let padded = |padding: u8, data: usize| {
            let payload = [vec![padding], vec![1; data], vec![0; padding.into()]].concat();
            frame(DATA, PADDED, &payload)
        };
        check(&padded(200, 56), (200, 0));
        check(&padded(200, 0), (0, 1));
        check(&[padded(3, 255), frame(DATA, 0, &[0; 255])].concat(), (2, 0));
    }

    #[test]
    fn what_is_read_is_given_back() {
        let budget = Budget::default();
        let mut frames = Frames::of_server(budget.clone());
        let message = frame(DATA, 0, &[0; 50]);
        let until_worn = WORN / 206;
        (0..until_worn).for_each(|_| frames.saw(&message));
        assert!(!budget.is_worn());
        frames.saw(&message);
        assert!(budget.is_worn());
        budget.was_read(50);
        assert!(!budget.is_worn());
        (0..2 * until_worn).for_each(|_| budget.was_read(50));
        assert_eq!(budget.0.short.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn empty_frames_are_never_forgotten() {
        let budget = Budget::default();
        let mut frames = Frames::of_server(budget.clone());
        for _ in 0..WORN_EMPTY {
            frames.saw(&frame(DATA, 0, &[]));
            frames.saw(&frame(DATA, 0, &[0; 1000]));
        }
        assert!(!budget.is_worn());
        frames.saw(&frame(DATA, 0, &[]));
        assert!(budget.is_worn());
    }
}
