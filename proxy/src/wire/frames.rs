//! Follows the frames that come in on a connection of HTTP/2 (RFC 9113 section 4), for what the library does not tell.

use std::time::Duration;

use super::budget::Budget;
use super::fields::Sections;

/// Follows the frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    budget: Budget,
    /// Bytes until the next frame begins.
    skip: usize,
    next: Next,
    /// What is known of that.
    head: [u8; PADDED_HEAD],
    known: usize,
    cut: CutOff,
    /// Where fields are counted.
    sections: Option<Sections>,
}

/// What comes next that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The head of a frame.
    Head,
    /// The first of so many settings.
    Settings(usize),
    /// Why this stream was reset.
    Reset(u32),
}

/// Which streams have ended of late. A peer that resets one without an error has said all of it if it has ended before
/// (section 8.1), and else has cut it off: Envoy does so. The library takes both for the end of a whole body, so that
/// of those that were cut off it is told another reason.
#[derive(Debug, Default)]
struct CutOff {
    ended: [u32; RECENT],
    next: usize,
}

/// The two follow each other closely, as far as other streams let them.
const RECENT: usize = 32;

impl CutOff {
    const fn ended(&mut self, stream: u32) {
        self.ended[self.next] = stream;
        self.next = (self.next + 1) % RECENT;
    }

    fn has_ended(&self, stream: u32) -> bool {
        self.ended.contains(&stream)
    }
}

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// The head of a frame (section 4.1), and with the length of its padding (section 6.1).
const HEAD: usize = 9;
const PADDED_HEAD: usize = HEAD + 1;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

const HEADERS: u8 = 1;
const PRIORITY: u8 = 0x20;
/// How long that is (section 6.2).
const PRIORITY_LENGTH: usize = 5;
const CONTINUATION: u8 = 9;
const RST_STREAM: u8 = 3;
/// Why a stream was reset (section 6.4).
const REASON: usize = 4;
const NO_ERROR: [u8; REASON] = [0; REASON];
/// The last byte of that, whose others are 0.
const CANCEL: u8 = 8;

/// One setting (section 6.5.1).
const SETTING: usize = 6;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

impl Frames {
    /// Those of a client begin with its preface.
    pub(super) fn of_client(budget: Budget) -> Self {
        Self::after(PREFACE, budget)
    }

    /// Has whoever sends many fields wait for it.
    pub(super) fn count_fields(&mut self) {
        self.sections = Some(Sections::default());
    }

    pub(super) fn of_server(budget: Budget) -> Self {
        Self::after(0, budget)
    }

    fn after(skip: usize, budget: Budget) -> Self {
        Self {
            budget,
            skip,
            next: Next::Head,
            head: [0; PADDED_HEAD],
            known: 0,
            cut: CutOff::default(),
            sections: None,
        }
    }

    /// What has come. It is to be passed on as it is then: see [`CutOff`].
    ///
    /// # Errors
    /// With how many bytes of it are to be passed on at once, and after how long the others.
    pub(super) fn saw(&mut self, mut bytes: &mut [u8]) -> Result<(), (usize, Duration)> {
        let all = bytes.len();
        while !bytes.is_empty() {
            if self.skip > 0 {
                let (skipped, rest) = bytes.split_at_mut(self.skip.min(bytes.len()));
                self.skip -= skipped.len();
                bytes = rest;
                if let Some(sections) = &mut self.sections {
                    sections.saw(skipped);
                    if self.skip == 0
                        && let Some(wait) = sections.wait()
                    {
                        return Err((all - bytes.len(), wait));
                    }
                }
                continue;
            }
            let wanted = (self.head_length() - self.known).min(bytes.len());
            let (head, rest) = bytes.split_at_mut(wanted);
            self.head[self.known..self.known + wanted].copy_from_slice(head);
            self.known += wanted;
            if self.known == self.head_length() {
                match self.next {
                    Next::Head => self.begins(),
                    Next::Settings(left) => self.sets(left - 1),
                    Next::Reset(stream) => self.resets(stream, head),
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// The peer reads what is written, or not.
    pub(super) fn stalls(&self, is_stalled: bool) {
        self.budget.places().stalls(is_stalled);
    }

    /// How long what comes next is, as far as it is known.
    fn head_length(&self) -> usize {
        match self.next {
            Next::Head => {}
            Next::Settings(_) => return SETTING,
            Next::Reset(_) => return REASON,
        }
        let is_padded =
            self.known >= HEAD && self.may_be_padded() && self.head[4] & PADDED != 0 && self.length() > 0;
        if is_padded { PADDED_HEAD } else { HEAD }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    const fn may_be_padded(&self) -> bool {
        matches!(self.head[3], DATA | HEADERS)
    }

    fn sets(&mut self, left: usize) {
        let [high, low, value @ ..] = self.head;
        if [high, low] == MAX_CONCURRENT_STREAMS
            && let Some(&value) = value.first_chunk()
        {
            self.budget.allows_streams(u32::from_be_bytes(value));
        }
        self.known = 0;
        self.sets_more(left);
    }

    fn sets_more(&mut self, left: usize) {
        self.next = Next::Settings(left);
        if left == 0 {
            self.next = Next::Head;
            self.budget.has_told();
        }
    }

    /// A stream was reset for the reason that is known now, and ends with these bytes.
    fn resets(&mut self, stream: u32, reason: &mut [u8]) {
        if self.head[..REASON] == NO_ERROR
            && !self.cut.has_ended(stream)
            && let Some(last) = reason.last_mut()
        {
            *last = CANCEL;
        }
        (self.next, self.known) = (Next::Head, 0);
    }

    fn begins(&mut self) {
        self.skip = self.length() + HEAD - self.known;
        let [_, _, _, kind, flags, stream @ .., padding] = self.head;
        let padding = if self.known == PADDED_HEAD { padding } else { 0 };
        let payload = self.skip.saturating_sub(padding.into());
        let stream = u32::from_be_bytes(stream);
        if let Some(sections) = &mut self.sections {
            match kind {
                HEADERS if flags & PRIORITY != 0 => sections.begins(true, PRIORITY_LENGTH, payload),
                HEADERS => sections.begins(true, 0, payload),
                CONTINUATION => sections.begins(false, 0, payload),
                _ => sections.begins(false, 0, 0),
            }
        }
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let settings = self.skip / SETTING;
                // Nothing if it is one.
                self.skip %= SETTING;
                self.sets_more(settings);
            }
            RST_STREAM if self.skip == REASON => {
                self.skip = 0;
                self.next = Next::Reset(stream);
            }
            DATA | HEADERS if flags & END_STREAM != 0 => self.cut.ended(stream),
            DATA => self.budget.came(payload),
            _ => {}
        }
        self.known = 0;
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // Nothing stays any more, and who waits for a stream of this connection is to look for another one.
        self.budget.places().stalls(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

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
                bytes
                    .chunks(length)
                    .for_each(|piece| frames.saw(&mut piece.to_vec()).unwrap());
                assert_eq!(frames.budget.spent(), expected, "{length}");
            }
        }
    }

    #[test]
    fn short_frames_that_are_not_the_last_are_charged() {
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
            bytes
                .chunks(length)
                .for_each(|piece| frames.saw(&mut piece.to_vec()).unwrap());
            assert_eq!(budget.streams(), Some(258), "{length}");
            frames.saw(&mut frame(SETTINGS, 0, &setting(3, 0))).unwrap();
            assert_eq!(budget.streams(), Some(0), "{length}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_without_an_error_is_not_whole() {
        const ERROR: [u8; REASON] = [0, 0, 1, 0];
        let on = |stream: u32, mut frame: Vec<u8>| {
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
            frame
        };
        let reset = |stream, reason: &[u8]| on(stream, frame(RST_STREAM, 0, reason));
        let ended = |kind, stream| on(stream, frame(kind, END_STREAM, b"abc"));
        let cases = [
            (vec![on(1, frame(DATA, 0, b"abc")), reset(1, &NO_ERROR)], true),
            (vec![ended(DATA, 1), reset(1, &NO_ERROR)], false),
            (
                vec![ended(HEADERS, 1), ended(DATA, 3), reset(1, &NO_ERROR)],
                false,
            ),
            (vec![ended(DATA, 3), reset(1, &NO_ERROR)], true),
            (vec![reset(1, &ERROR)], false),
            (vec![reset(1, &[0; 5]), reset(1, &[])], false),
        ];
        for (mut frames, is_cut) in cases {
            frames.push(frame(DATA, 0, &[0; 50]));
            let bytes = frames.concat();
            for length in 1..=bytes.len() {
                let mut follower = Frames::of_server(Budget::default());
                let mut passed = bytes.clone();
                passed
                    .chunks_mut(length)
                    .for_each(|piece| follower.saw(piece).unwrap());
                let mut expected = bytes.clone();
                if is_cut {
                    let last = bytes.len() - HEAD - 50 - 1;
                    expected[last] = CANCEL;
                }
                assert_eq!(passed, expected, "{frames:?} by {length}");
            }
        }
    }

    /// Fields of a byte each, in one section of two frames with padding, a priority and data between sections.
    #[test]
    fn what_is_behind_a_frame_with_many_fields_waits() {
        let many = |fields: usize| vec![0xbe; fields];
        let padded = [vec![9], vec![0xff; PRIORITY_LENGTH], many(120), vec![0; 9]].concat();
        let first = frame(HEADERS, PADDED | PRIORITY, &padded);
        let second = frame(CONTINUATION, 0, &many(600));
        let few = [frame(HEADERS, 0, &many(90)), frame(DATA, 0, &many(5_000))].concat();
        let bytes = [vec![0; PREFACE], first, second, few.clone()].concat();
        let early = bytes.len() - few.len();
        for length in 1..=bytes.len() {
            let mut frames = Frames::of_client(Budget::default());
            frames.count_fields();
            let (mut passed, mut waits) = (0, Vec::new());
            while passed < bytes.len() {
                let end = bytes.len().min(passed + length);
                match frames.saw(&mut bytes[passed..end].to_vec()) {
                    Ok(()) => passed = end,
                    Err((some, wait)) => {
                        passed += some;
                        waits.push((passed, wait));
                    }
                }
            }
            assert_eq!(waits, [(early, Duration::from_micros(620 * 2))], "{length}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_frees_what_stayed_on_it() {
        let queue = Arc::default();
        let budget = Budget::behind(&queue);
        let places = budget.places();
        let frames = Frames::of_server(budget.clone());
        frames.stalls(true);
        (0..2).for_each(|_| places.take());
        places.leave(false);
        let mut waiting = pin!(queue.wait(|| (places.taken() < 2).then_some(())));
        let is_pending = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        drop(frames);
        waiting.await;
        places.leave(false);
        assert_eq!(places.taken(), 0, "also of those that it ends");
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
}
