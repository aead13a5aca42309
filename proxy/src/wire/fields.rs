//! Counts the fields that come in on a connection of HTTP/2, without decoding them (RFC 7541 sections 5 and 6).
//!
//! A field that the table knows is one byte, and a hundred nanoseconds of work: what a caller sends says little of what
//! it costs. Who sends many in one section is therefore not read from for a while.

use std::time::Duration;

/// The field sections of one direction.
#[derive(Debug, Default)]
pub(super) struct Sections {
    next: Next,
    /// Strings that the field under way still has.
    strings: u8,
    /// Fields of the section under way, as far as they are free.
    free: usize,
    /// Fields beyond these that were not waited for yet.
    owed: u32,
    block: Block,
}

/// The bytes of the section in the frame under way.
#[derive(Debug, Default)]
struct Block {
    /// Bytes before them.
    lead: usize,
    left: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Field,
    /// More of an index, or of a size.
    Number,
    /// How long a string is.
    Length,
    /// More of that, beyond so much, in units of this power of two.
    MoreLength(usize, u32),
    /// So much of a string.
    Text(usize),
}

/// So many fields of a section cost nothing more than their calls do. Envoy allows no call more of them, where nobody
/// says otherwise.
const FREE: usize = 100;
/// How long is waited for each one beyond that: some fifteen times of what it costs, so that four who do nothing else
/// have a quarter of a core. Others on the connection wait, too.
const WAIT: Duration = Duration::from_micros(2);
/// No shorter wait is worth while: the clock goes by milliseconds.
const WORTH_WAITING: u32 = 500;

impl Sections {
    /// A frame begins that has so many bytes of a section behind so many others.
    pub(super) fn begins(&mut self, is_first: bool, lead: usize, length: usize) {
        if is_first {
            (self.next, self.strings, self.free) = (Next::Field, 0, FREE);
        }
        self.block = Block {
            lead,
            left: length.saturating_sub(lead),
        };
    }

    /// More of the frame came.
    pub(super) fn saw(&mut self, bytes: &[u8]) {
        let lead = self.block.lead.min(bytes.len());
        self.block.lead -= lead;
        let bytes = &bytes[lead..];
        let left = self.block.left.min(bytes.len());
        self.block.left -= left;
        self.count(&bytes[..left]);
    }

    /// How long is to be waited before more is read, if it is.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        (self.owed >= WORTH_WAITING).then(|| WAIT * std::mem::take(&mut self.owed))
    }

    fn count(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            bytes = rest;
            match self.next {
                Next::Field => self.field(*first),
                Next::Number if first & MORE == 0 => self.piece_ends(),
                Next::Number => {}
                Next::Length if first & LENGTH == LENGTH => {
                    self.next = Next::MoreLength(usize::from(LENGTH), 0);
                }
                Next::Length => self.text(usize::from(first & LENGTH)),
                Next::MoreLength(length, power) => {
                    let more = usize::from(first & !MORE).checked_shl(power);
                    let length = length.saturating_add(more.unwrap_or(usize::MAX));
                    if first & MORE == 0 {
                        self.text(length);
                    } else {
                        self.next = Next::MoreLength(length, power.saturating_add(7));
                    }
                }
                Next::Text(left) => {
                    let passed = (left - 1).min(rest.len());
                    bytes = &rest[passed..];
                    self.text(left - 1 - passed);
                }
            }
        }
    }

    /// A field begins so, or the table gets another size.
    const fn field(&mut self, first: u8) {
        match self.free.checked_sub(1) {
            Some(free) => self.free = free,
            None => self.owed = self.owed.saturating_add(1),
        }
        let (index, has_value) = match first {
            0x80.. => (0x7f, false),
            0x40.. => (0x3f, true),
            0x20.. => (0x1f, false),
            _ => (0x0f, true),
        };
        let has_name = has_value && first & index == 0;
        self.strings = has_name as u8 + has_value as u8;
        if first & index == index {
            self.next = Next::Number;
        } else {
            self.piece_ends();
        }
    }

    const fn text(&mut self, left: usize) {
        if left == 0 {
            self.piece_ends();
        } else {
            self.next = Next::Text(left);
        }
    }

    const fn piece_ends(&mut self) {
        self.next = match self.strings.checked_sub(1) {
            Some(strings) => {
                self.strings = strings;
                Next::Length
            }
            None => Next::Field,
        };
    }
}

/// More bytes of a number follow (section 5.1).
const MORE: u8 = 0x80;
/// How long a string is (section 5.2): this and more if it is all ones.
const LENGTH: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use super::*;

    /// A number with a prefix of so many bits (section 5.1), whose other bits are these.
    fn number(others: u8, bits: u32, mut value: usize) -> Vec<u8> {
        let most = (1_usize << bits) - 1;
        if value < most {
            return vec![others | u8::try_from(value).unwrap()];
        }
        let mut bytes = vec![others | u8::try_from(most).unwrap()];
        value -= most;
        while value >= 128 {
            bytes.push(u8::try_from(value % 128).unwrap() | MORE);
            value /= 128;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    }

    /// Every kind of field, with strings of lengths that are written in different ways.
    fn fields() -> Vec<Vec<u8>> {
        let lengths = [0, 1, 126, 127, 128, 254, 255, 256, 20_000];
        let text = |length| [number(0x80, 7, length), vec![0xbe; length]].concat();
        let mut all = Vec::new();
        for index in [1, 14, 15, 16, 30, 31, 61, 62, 63, 64, 126, 127, 128, 300, 5_000] {
            all.push(number(0x80, 7, index));
            all.push(number(0x20, 5, index));
            for (others, bits) in [(0x40, 6), (0, 4), (0x10, 4)] {
                let value = text(lengths[index % lengths.len()]);
                all.push([number(others, bits, index), value].concat());
            }
        }
        for length in lengths {
            for others in [0x40, 0, 0x10] {
                all.push([vec![others], text(length), text(20_000 - length)].concat());
            }
        }
        all
    }

    #[test]
    fn every_kind_of_field_is_one() {
        for field in fields() {
            for pieces in [1, 2, 3, 7, 20_010] {
                let mut sections = Sections::default();
                sections.begins(true, 0, usize::MAX);
                let section = field.repeat(3);
                section.chunks(pieces).for_each(|piece| sections.saw(piece));
                let begin = &field[..field.len().min(8)];
                assert_eq!(sections.free, FREE - 3, "{begin:x?} by {pieces}");
                assert_eq!((sections.next, sections.strings), (Next::Field, 0), "{begin:x?}");
            }
        }
    }

    #[test]
    fn who_sends_many_in_one_section_waits_for_those_beyond_what_is_free() {
        let mut sections = Sections::default();
        let many = FREE + usize::try_from(WORTH_WAITING).unwrap();
        for _ in 0..3 {
            // A section is long by what it has, in however many frames, and calls are not added up.
            for _ in 0..9 {
                sections.begins(true, 0, FREE);
                sections.saw(&[0xbe; FREE]);
            }
            assert_eq!(sections.wait(), None);
            sections.begins(true, 5, 5 + FREE);
            // What is before it and behind it are no fields.
            sections.saw(&[0xbe; 5 + FREE + 100]);
            sections.begins(false, 0, many);
            sections.saw(&vec![0xbe; many - FREE - 1]);
            assert_eq!(sections.wait(), None);
            sections.saw(&[0xbe]);
            assert_eq!(sections.wait(), Some(WAIT * WORTH_WAITING));
            assert_eq!(sections.wait(), None);
        }
    }
}
