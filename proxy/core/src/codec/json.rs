//! A cursor over JSON text (RFC 8259): it validates and gives positions, never values, so that
//! what is merged and split stays the bytes that were received.
//!
//! One pass is enough to find every item of a body, which a parser into values or raw values
//! cannot do without reading the items twice.

use std::borrow::Cow;

use smallvec::SmallVec;

#[cfg(test)]
mod tests;

/// Containers that may be open at once inside one value. What nests deeper is likely to break the
/// upstream's own parser, so it is not put into a batch.
pub(super) const MAX_DEPTH: u32 = 128;

/// Names that are compared with each other in one object.
const MAX_NAMES: usize = 64;

/// A range of positions in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    pub(super) const fn len(self) -> usize {
        self.end - self.start
    }

    /// The text between the positions.
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start..self.end]
    }
}

/// Why a text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not JSON.
    Syntax,
    /// It nests deeper, or has more names, than is looked at here.
    Bound,
    /// An object that had to be understood has two members of one name.
    Duplicate,
}

/// A member's name as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Name<'a> {
    /// True when the decoded name is `other`.
    pub(super) fn is(&self, other: &str) -> bool {
        if self.escaped {
            self.decoded() == other.as_bytes()
        } else {
            self.raw == other.as_bytes()
        }
    }

    /// The decoded name; a lone surrogate becomes its three bytes of WTF-8.
    pub(super) fn decoded(&self) -> Cow<'a, [u8]> {
        if self.escaped {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }
}

/// The decoded text of a JSON string, given with its quotes and known to be valid.
pub(super) fn decoded_string(quoted: &[u8]) -> Cow<'_, [u8]> {
    let raw = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    Name {
        raw,
        escaped: memchr::memchr(b'\\', raw).is_some(),
    }
    .decoded()
}

/// The names seen in one object.
#[derive(Debug, Default)]
pub(super) struct Names<'a>(SmallVec<[Name<'a>; 8]>);

impl<'a> Names<'a> {
    /// Takes a name in.
    ///
    /// # Errors
    /// [`Fault::Duplicate`] when it is there already, by its decoded text.
    pub(super) fn insert(&mut self, name: Name<'a>) -> Result<(), Fault> {
        if self.0.len() == MAX_NAMES {
            return Err(Fault::Bound);
        }
        let equal = |seen: &Name<'_>| {
            if seen.escaped || name.escaped {
                seen.decoded() == name.decoded()
            } else {
                seen.raw == name.raw
            }
        };
        if self.0.iter().any(equal) {
            return Err(Fault::Duplicate);
        }
        self.0.push(name);
        Ok(())
    }
}

/// The cursor.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// A cursor at the start of a text.
    ///
    /// # Errors
    /// [`Fault::Syntax`] when the text is not UTF-8.
    pub(super) fn new(text: &'a [u8]) -> Result<Self, Fault> {
        std::str::from_utf8(text).map_err(|_| Fault::Syntax)?;
        Ok(Self { text, at: 0 })
    }

    /// The first byte of the next value, without moving past it.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.blank();
        self.text.get(self.at).copied()
    }

    /// How far the cursor has come.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// Passes one whole value.
    pub(super) fn value(&mut self) -> Result<Span, Fault> {
        self.blank();
        let start = self.at;
        let mut open = Open::default();
        loop {
            match self.here()? {
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b'{' => {
                    self.at += 1;
                    if !self.closes(b'}') {
                        open.push(true)?;
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if !self.closes(b']') {
                        open.push(false)?;
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => return Err(Fault::Syntax),
            }
            if !self.after_value(&mut open)? {
                return Ok(Span::new(start, self.at));
            }
        }
    }

    /// Passes an array, calling `each` at the first byte of every element; `each` passes exactly
    /// that element. Gives the place of the array, its brackets included.
    pub(super) fn elements<E: From<Fault>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<Span, E> {
        self.blank();
        let start = self.at;
        self.expect(b'[')?;
        if !self.closes(b']') {
            loop {
                each(self)?;
                if !self.another(b']')? {
                    break;
                }
            }
        }
        Ok(Span::new(start, self.at))
    }

    /// Passes an object, calling `each` with every name at the first byte of its value; `each`
    /// passes exactly that value. Gives the place of the object, its braces included.
    pub(super) fn members<E: From<Fault>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Name<'a>) -> Result<(), E>,
    ) -> Result<Span, E> {
        self.blank();
        let start = self.at;
        self.expect(b'{')?;
        if !self.closes(b'}') {
            loop {
                let name = self.key()?;
                each(self, name)?;
                if !self.another(b'}')? {
                    break;
                }
            }
        }
        Ok(Span::new(start, self.at))
    }

    /// Makes sure that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_none() {
            Ok(())
        } else {
            Err(Fault::Syntax)
        }
    }

    fn here(&self) -> Result<u8, Fault> {
        self.text.get(self.at).copied().ok_or(Fault::Syntax)
    }

    fn blank(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.here()? != byte {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    /// Passes white space and, if it is there, the bracket that closes an empty container.
    fn closes(&mut self, bracket: u8) -> bool {
        let closed = self.peek() == Some(bracket);
        self.at += usize::from(closed);
        closed
    }

    /// Behind an element: true at the next one, false just after the closing bracket.
    fn another(&mut self, bracket: u8) -> Result<bool, Fault> {
        self.blank();
        let byte = self.here()?;
        if byte != b',' && byte != bracket {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        if byte == bracket {
            return Ok(false);
        }
        self.blank();
        Ok(true)
    }

    /// Behind a value: closes what ends here. False when nothing is open any more; true at the
    /// next value.
    fn after_value(&mut self, open: &mut Open) -> Result<bool, Fault> {
        while let Some(object) = open.innermost() {
            if self.another(if object { b'}' } else { b']' })? {
                if object {
                    self.key()?;
                }
                return Ok(true);
            }
            open.pop();
        }
        Ok(false)
    }

    /// Passes `"name" :` and the white space around it.
    fn key(&mut self) -> Result<Name<'a>, Fault> {
        let name = self.string()?;
        self.blank();
        self.expect(b':')?;
        self.blank();
        Ok(name)
    }

    fn string(&mut self) -> Result<Name<'a>, Fault> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            while let Some(eight) = self.text[self.at..].first_chunk::<8>() {
                let stop = special(u64::from_le_bytes(*eight));
                self.at += (stop.trailing_zeros() / 8) as usize;
                if stop != 0 {
                    break;
                }
            }
            match self.here()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0..0x20 => return Err(Fault::Syntax),
                _ => self.at += 1,
            }
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Name { raw, escaped })
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.here()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                let digits = self.text.get(self.at + 1..self.at + 5).ok_or(Fault::Syntax)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Fault::Syntax);
                }
                self.at += 5;
            }
            _ => return Err(Fault::Syntax),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.at += usize::from(self.here()? == b'-');
        match self.here()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits()?,
            _ => return Err(Fault::Syntax),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Passes one digit or more.
    fn digits(&mut self) -> Result<(), Fault> {
        let run = self.text[self.at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        if run == 0 {
            return Err(Fault::Syntax);
        }
        self.at += run;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        Ok(())
    }
}

/// The containers open inside one value, as a stack of bits: set for an object.
#[derive(Default)]
struct Open {
    kinds: u128,
    depth: u32,
}

impl Open {
    fn push(&mut self, object: bool) -> Result<(), Fault> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::Bound);
        }
        self.kinds = self.kinds << 1 | u128::from(object);
        self.depth += 1;
        Ok(())
    }

    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.kinds & 1 == 1)
    }

    fn pop(&mut self) {
        self.kinds >>= 1;
        self.depth -= 1;
    }
}

/// The whole number that a JSON text is, if it is one without sign, fraction or exponent.
pub(super) fn whole_number(text: &[u8]) -> Option<u64> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Marks the lowest byte of eight that is a quote, a backslash or a control character. Higher
/// marks may be wrong (a borrow runs upwards), the lowest never is.
const fn special(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let quote = eight ^ (ONES * b'"' as u64);
    let backslash = eight ^ (ONES * b'\\' as u64);
    (eight.wrapping_sub(ONES * 0x20) & !eight
        | quote.wrapping_sub(ONES) & !quote
        | backslash.wrapping_sub(ONES) & !backslash)
        & HIGH
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let (&kind, behind) = rest.split_first().unwrap_or((&b'\\', &[]));
        rest = behind;
        match kind {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => rest = unescape_unit(rest, &mut out),
            other => out.push(other),
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Decodes the four digits behind `\u`, and the low surrogate behind a high one; gives what follows.
fn unescape_unit<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let unit = |text: &[u8]| {
        let digits = std::str::from_utf8(text.get(..4)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(rest) else { return rest };
    let behind = &rest[4..];
    let low = behind
        .strip_prefix(b"\\u")
        .and_then(unit)
        .filter(|low| (0xdc00..0xe000).contains(low));
    let (code, behind) = match low {
        Some(low) if (0xd800..0xdc00).contains(&first) => {
            (0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00), &behind[6..])
        }
        Some(_) | None => (first, behind),
    };
    match char::from_u32(code) {
        Some(letter) => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend([0xed, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8]),
    }
    behind
}
