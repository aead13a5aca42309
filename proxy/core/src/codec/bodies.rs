//! Puts bodies together from slices: small ones are copied next to each other into one buffer for
//! all bodies, which is cheaper than to count references and to write many pieces; large ones stay
//! slices of what was received.

use bytes::Bytes;

use super::Chunks;
use super::json::Span;

/// From this length on a slice is shared. Copying it would cost more than a further write vector.
pub(super) const SHARED_FROM: usize = 8 * 1024;

/// Bodies under construction, one after the other.
#[derive(Debug)]
pub(super) struct Bodies {
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
    /// For each finished body the number of pieces up to its end.
    ends: Vec<usize>,
}

#[derive(Debug)]
enum Piece {
    /// A place in the buffer.
    Copied(Span),
    Shared(Bytes),
}

impl Bodies {
    /// Room for `bodies` bodies and `bytes` copied bytes.
    pub(super) fn with_capacity(bodies: usize, bytes: usize) -> Self {
        Self {
            buffer: Vec::with_capacity(bytes),
            pieces: Vec::with_capacity(bodies),
            ends: Vec::with_capacity(bodies),
        }
    }

    /// Appends a copy to the current body.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let end = self.buffer.len();
        let begun = self.pieces.len() > self.ends.last().copied().unwrap_or_default();
        match self.pieces.last_mut() {
            Some(Piece::Copied(span)) if begun => span.end = end,
            Some(_) | None => self.pieces.push(Piece::Copied(Span::new(start, end))),
        }
    }

    /// Appends a part of `source` to the current body.
    pub(super) fn slice(&mut self, source: &Bytes, span: Span) {
        if span.len() < SHARED_FROM {
            self.copy(span.of(source));
        } else {
            self.pieces
                .push(Piece::Shared(source.slice(span.start..span.end)));
        }
    }

    /// Appends a number in decimal digits.
    pub(super) fn number(&mut self, number: u64) {
        let (digits, from) = decimal(number);
        self.copy(&digits[from..]);
    }

    /// Finishes the current body.
    pub(super) fn end(&mut self) {
        self.ends.push(self.pieces.len());
    }

    /// The finished bodies, in order.
    pub(super) fn finish(self) -> impl Iterator<Item = Chunks> {
        let buffer = Bytes::from(self.buffer);
        let mut pieces = self.pieces.into_iter();
        let mut taken = 0;
        self.ends.into_iter().map(move |end| {
            let count = end - taken;
            taken = end;
            let chunk = |piece| match piece {
                Piece::Copied(span) => buffer.slice(span.start..span.end),
                Piece::Shared(bytes) => bytes,
            };
            pieces.by_ref().take(count).map(chunk).collect()
        })
    }

    /// The only body.
    pub(super) fn single(mut self) -> Chunks {
        self.end();
        self.finish().next().unwrap_or_default()
    }
}

/// Digits of a number, and where they start.
fn decimal(mut number: u64) -> ([u8; 20], usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return (digits, at);
        }
    }
}
