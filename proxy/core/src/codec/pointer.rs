//! JSON pointers (RFC 6901), and the one walk that finds the places of several of them.

use crate::codec::CodecError;

use super::json::{Fault, Names, Scan, Span};

/// Names in one pointer: the walk recurses once for each.
const MAX_TOKENS: usize = 16;

/// A JSON pointer of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    tokens: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    name: Box<str>,
    /// What the token means in an array.
    index: Option<usize>,
}

impl Pointer {
    /// Reads the text of a policy's `field`.
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, CodecError> {
        let fault = |expected| CodecError {
            field,
            value: text.to_owned(),
            expected,
        };
        if text.is_empty() {
            return Ok(Self {
                tokens: Box::default(),
            });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(fault("a JSON pointer: empty, or starting with /"));
        };
        let tokens: Box<[Token]> = rest
            .split('/')
            .map(|raw| Token::parse(raw).ok_or_else(|| fault("a JSON pointer, with ~ only as ~0 or ~1")))
            .collect::<Result<_, _>>()?;
        if tokens.len() > MAX_TOKENS {
            return Err(fault("a JSON pointer of at most 16 names"));
        }
        Ok(Self { tokens })
    }

    /// True when one of both points to, or into, what the other points to.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.tokens.iter().zip(&other.tokens).all(|(a, b)| a == b)
    }

    /// True for the pointer to the whole text.
    pub(super) fn is_root(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl Token {
    fn parse(raw: &str) -> Option<Self> {
        let mut name = String::with_capacity(raw.len());
        let mut letters = raw.chars();
        while let Some(letter) = letters.next() {
            name.push(match letter {
                '~' => match letters.next()? {
                    '0' => '~',
                    '1' => '/',
                    _ => return None,
                },
                other => other,
            });
        }
        let canonical = name == "0" || !name.starts_with(['0', '+']);
        let index = name.parse().ok().filter(|_| canonical);
        Some(Self {
            name: name.into(),
            index,
        })
    }
}

/// Passes one value and calls `on` with the number of a pointer at the first byte of the value it
/// points to; `on` passes exactly that value. No pointer may overlap another, and there are at
/// most eight. Gives the place of the whole value.
///
/// # Errors
/// What `on` gives; [`Fault::Duplicate`] when an object on the way has two members of one name.
pub(super) fn walk<'a, E: From<Fault>>(
    scan: &mut Scan<'a>,
    pointers: &[&Pointer],
    on: &mut impl FnMut(usize, &mut Scan<'a>) -> Result<(), E>,
) -> Result<Span, E> {
    scan.peek();
    let start = scan.position();
    let active = (0..pointers.len().min(8)).fold(0, |bits, n| bits | 1 << n);
    step(scan, pointers, active, 0, on)?;
    Ok(Span::new(start, scan.position()))
}

/// `active` has a bit for each pointer that leads here, over `level` tokens.
fn step<'a, E: From<Fault>>(
    scan: &mut Scan<'a>,
    pointers: &[&Pointer],
    active: u8,
    level: usize,
    on: &mut impl FnMut(usize, &mut Scan<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let leading = |n: usize| active >> n & 1 == 1;
    if let Some(n) = (0..pointers.len()).find(|&n| leading(n) && pointers[n].tokens.len() == level) {
        return on(n, scan);
    }
    let onward = |fits: &dyn Fn(&Token) -> bool| {
        let fitting = |&n: &usize| leading(n) && fits(&pointers[n].tokens[level]);
        (0..pointers.len())
            .filter(fitting)
            .fold(0, |bits, n| bits | 1 << n)
    };
    match scan.peek() {
        Some(b'{') if active != 0 => {
            let mut names = Names::default();
            scan.members(|scan, name| {
                names.insert(name)?;
                step(
                    scan,
                    pointers,
                    onward(&|token| name.is(&token.name)),
                    level + 1,
                    on,
                )
            })?;
        }
        Some(b'[') if active != 0 => {
            let mut index = 0;
            scan.elements(|scan| {
                let next = onward(&|token| token.index == Some(index));
                index += 1;
                step(scan, pointers, next, level + 1, on)
            })?;
        }
        Some(_) | None => {
            scan.value()?;
        }
    }
    Ok(())
}
