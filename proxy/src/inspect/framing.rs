//! Where each HTTP/1 request begins and ends in a byte stream (RFC 9112 sections 2, 6 and 7.1), whatever
//! the pieces in which it arrives. Judges only what the parser behind it would let pass.

use memchr::memchr;
use smallvec::SmallVec;

/// A rule of framing that a head breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Rule {
    BothLengths,
    Fragment,
    Overlong,
    Chunking,
}

impl Rule {
    pub(super) const fn text(code: u8) -> &'static str {
        match code {
            code if code == Self::BothLengths as u8 => "Content-Length beside Transfer-Encoding",
            code if code == Self::Fragment as u8 => "a fragment in the target",
            code if code == Self::Chunking as u8 => "malformed chunked framing",
            _ => "an overlong framing field",
        }
    }
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Follower {
    state: State,
    /// The beginning of a line whose end has not been read.
    partial: SmallVec<[u8; LINE_KEPT]>,
    /// True when bytes of the partial line were not kept.
    cut: bool,
    head: Head,
    heads: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body of known length are still to come.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk, its line end included, are still to come.
    Chunk(u64),
    Trailers,
    /// The body's framing is malformed: nothing behind this point is a request.
    Broken,
}

/// What is known of the head being read.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    coded: bool,
    broken: Option<Rule>,
}

/// Enough for a framing field with its longest sensible value.
const LINE_KEPT: usize = 96;

impl Follower {
    /// True while the beginning of a head was read and its end was not.
    pub(super) fn inside_head(&self) -> bool {
        matches!(self.state, State::Head) && (self.head.begun || !self.partial.is_empty())
    }

    /// True while more of a body is to come, or of what follows one that is malformed.
    pub(super) const fn inside_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// Takes the next bytes; returns the first head that must be refused, counted from 1.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Option<(u64, Rule)> {
        let mut refused = None;
        while !bytes.is_empty() {
            match self.state {
                State::Body(left) | State::Chunk(left) => bytes = self.skip(left, bytes),
                State::Broken => break,
                State::Head | State::ChunkSize | State::Trailers => {
                    let Some(end) = memchr(b'\n', bytes) else {
                        self.keep(bytes);
                        break;
                    };
                    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
                    bytes = rest;
                    if self.partial.is_empty() && !self.cut {
                        self.line(line);
                    } else {
                        self.keep(line);
                        let whole = std::mem::take(&mut self.partial);
                        self.line(&whole);
                        self.cut = false;
                    }
                    if let Some(rule) = self.head.broken.take() {
                        refused = refused.or(Some((self.heads + 1, rule)));
                    }
                }
            }
        }
        refused
    }

    fn skip<'b>(&mut self, left: u64, bytes: &'b [u8]) -> &'b [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = match self.state {
            State::Body(_) if left == 0 => State::Head,
            State::Body(_) => State::Body(left),
            State::Chunk(_) if left == 0 => State::ChunkSize,
            State::Chunk(_) => State::Chunk(left),
            other @ (State::Head | State::ChunkSize | State::Trailers | State::Broken) => other,
        };
        &bytes[here..]
    }

    fn keep(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Head) && !self.head.begun && memchr(b'#', bytes).is_some() {
            self.head.broken = Some(Rule::Fragment);
        }
        let room = LINE_KEPT - self.partial.len();
        self.cut |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, line: &[u8]) {
        let strict = line.ends_with(b"\r");
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            // hyper wants CRLF here, or takes a lone LF for a part of the line: never guess what it does.
            State::ChunkSize | State::Trailers if !strict => self.give_up(),
            State::Head if line.is_empty() => self.end_head(),
            State::Head if !self.head.begun => {
                self.head.begun = true;
                if memchr(b'#', line).is_some() {
                    self.head.broken = Some(Rule::Fragment);
                }
            }
            State::Head => self.field(line),
            State::ChunkSize => match chunk_size(line) {
                Some(size) => self.state = next_chunk(size),
                None => self.give_up(),
            },
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers | State::Body(_) | State::Chunk(_) | State::Broken => {}
        }
    }

    /// Refuses every head behind this point.
    fn give_up(&mut self) {
        self.state = State::Broken;
        self.head.broken = Some(Rule::Chunking);
    }

    fn field(&mut self, line: &[u8]) {
        // Only two names matter; their first letters and their length decide nearly every line.
        let first = line[0] | 0x20;
        if first == b'c' && named(line, b"content-length:") {
            let value = line[b"content-length:".len()..].trim_ascii();
            // What does not parse, or differs from an earlier one, hyper refuses by itself.
            self.head.length = Some(decimal(value).unwrap_or(0));
        } else if first == b't' && named(line, b"transfer-encoding:") {
            self.head.coded = true;
        } else {
            return;
        }
        if self.cut {
            self.head.broken = Some(Rule::Overlong);
        }
        if self.head.coded && self.head.length.is_some() {
            self.head.broken = Some(Rule::BothLengths);
        }
    }

    fn end_head(&mut self) {
        if !self.head.begun {
            // Empty lines before a request line are skipped (RFC 9112 section 2.2).
            return;
        }
        self.heads += 1;
        let head = std::mem::take(&mut self.head);
        self.state = match (head.coded, head.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Body(length),
            (false, _) => State::Head,
        };
    }
}

fn named(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

/// `1*DIGIT` (RFC 9110 section 8.6).
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn next_chunk(size: u64) -> State {
    if size == 0 {
        State::Trailers
    } else {
        State::Chunk(size.saturating_add(2))
    }
}

/// `chunk-size [chunk-ext]`; white space behind the size is let pass, as hyper does.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if digits.is_empty() || !matches!(rest.first(), None | Some(b';' | b' ' | b'\t')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |size, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        size.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests;
