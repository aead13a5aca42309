//! The path of a batch request: an RFC 6570 template in which one variable is a list and the others
//! are texts, all of them percent-encoded already.

use http::uri::PathAndQuery;

use crate::Bypass;
use crate::codec::json::Span;
use crate::codec::{Call, CodecError};

/// A template, taken apart at its list.
#[derive(Clone, Debug)]
pub(super) struct Template {
    item: Box<str>,
    before: Vec<Part>,
    /// True when the list is under `+`, so that reserved characters are not encoded.
    reserved: bool,
    separator: Box<str>,
    after: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<str>),
    Variable { name: Box<str>, reserved: bool },
}

/// How the variables of one expression are written (RFC 6570 appendix A).
struct Operator {
    first: &'static str,
    between: &'static str,
    named: bool,
    reserved: bool,
}

impl Operator {
    /// The operator of an expression, and its variables.
    fn of(expression: &str) -> Option<(Self, &str)> {
        let plain = |first, between| Self {
            first,
            between,
            named: false,
            reserved: false,
        };
        let named = |first, between| Self {
            first,
            between,
            named: true,
            reserved: false,
        };
        let operator = match expression.as_bytes().first()? {
            b'+' => Self {
                reserved: true,
                ..plain("", ",")
            },
            b'.' => plain(".", "."),
            b'/' => plain("/", "/"),
            b';' => named(";", ";"),
            b'?' => named("?", "&"),
            b'&' => named("&", "&"),
            _ => return Some((plain("", ","), expression)),
        };
        Some((operator, &expression[1..]))
    }
}

impl Template {
    /// Reads `batchPath` for a route with these variables, of which `item` becomes the list.
    pub(super) fn parse(text: &str, item: &str, variables: &[String]) -> Result<Self, CodecError> {
        let fault = |expected| CodecError {
            field: "batchPath",
            value: text.to_owned(),
            expected,
        };
        let mut draft = Draft {
            item,
            parts: Vec::new(),
            list: None,
        };
        let mut rest = text;
        while let Some((literal, behind)) = rest.split_once('{') {
            draft.literal(literal);
            let (expression, behind) = behind
                .split_once('}')
                .ok_or_else(|| fault("a template with balanced braces"))?;
            let (operator, names) =
                Operator::of(expression).ok_or_else(|| fault("a template without empty braces"))?;
            for (n, name) in names.split(',').enumerate() {
                let (name, explode) = name.strip_suffix('*').map_or((name, false), |name| (name, true));
                if !variables.iter().any(|known| known == name) {
                    return Err(fault(
                        "a template over the variables of the route's path, each as {name} or {name*}",
                    ));
                }
                draft
                    .variable(&operator, n == 0, name, explode)
                    .ok_or_else(|| fault("a template with one list"))?;
            }
            rest = behind;
        }
        draft.literal(rest);
        let Some(List {
            at,
            reserved,
            separator,
        }) = draft.list
        else {
            return Err(fault(
                "a template that has the route's variable, such as /users?ids={id}",
            ));
        };
        let after = draft.parts.split_off(at);
        let template = Self {
            item: item.into(),
            before: draft.parts,
            reserved,
            separator,
            after,
        };
        template
            .check()
            .ok_or_else(|| fault("the path and query of a request, starting with /"))?;
        Ok(template)
    }

    /// What stands between two items of the list.
    pub(super) fn separator(&self) -> &str {
        &self.separator
    }

    /// The path and query of a batch with only this call, and where its item stands.
    pub(super) fn expand(&self, call: &Call<'_>) -> Result<(String, Span), Bypass> {
        let value = |name: &str| {
            let found = call.captures.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value).ok_or(Bypass::Unparsable)
        };
        let mut target =
            String::with_capacity(call.uri.path().len() + call.uri.query().map_or(0, str::len) + 32);
        write_parts(&mut target, &self.before, &value)?;
        let start = target.len();
        let raw = value(&self.item)?;
        write_value(&mut target, raw, self.reserved)?;
        let id = Span::new(start, target.len());
        if raw.contains(',') || target[start..].contains(&*self.separator) {
            return Err(Bypass::AmbiguousId);
        }
        write_parts(&mut target, &self.after, &value)?;
        if let Some(rest) = call.uri.query().filter(|query| !query.is_empty()) {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(rest);
        }
        Ok((target, id))
    }
}

impl Template {
    /// Makes sure that an expansion is a request target.
    fn check(&self) -> Option<()> {
        let mut target = String::new();
        write_parts(&mut target, &self.before, &|_| Ok("0")).ok()?;
        target.push('0');
        write_parts(&mut target, &self.after, &|_| Ok("0")).ok()?;
        let allowed = |b: u8| b.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&b);
        let fits = target.starts_with('/') && target.bytes().all(allowed);
        (fits && target.parse::<PathAndQuery>().is_ok()).then_some(())
    }
}

/// A template while it is read.
struct Draft<'t> {
    item: &'t str,
    parts: Vec<Part>,
    list: Option<List>,
}

struct List {
    /// How many parts stand before the list.
    at: usize,
    reserved: bool,
    separator: Box<str>,
}

impl Draft<'_> {
    fn literal(&mut self, text: &str) {
        if !text.is_empty() {
            self.parts.push(Part::Literal(text.into()));
        }
    }

    /// Takes a variable of an expression in; `None` when it is a second list.
    fn variable(&mut self, operator: &Operator, first: bool, name: &str, explode: bool) -> Option<()> {
        self.literal(if first { operator.first } else { operator.between });
        if operator.named {
            self.literal(&format!("{name}="));
        }
        let reserved = operator.reserved;
        if name != self.item {
            self.parts.push(Part::Variable {
                name: name.into(),
                reserved,
            });
            return Some(());
        }
        let separator = match (explode, operator.named) {
            (false, _) => ",".to_owned(),
            (true, false) => operator.between.to_owned(),
            (true, true) => format!("{}{name}=", operator.between),
        };
        let list = List {
            at: self.parts.len(),
            reserved,
            separator: separator.into(),
        };
        self.list.replace(list).is_none().then_some(())
    }
}

fn write_parts<'v>(
    target: &mut String,
    parts: &[Part],
    value: &impl Fn(&str) -> Result<&'v str, Bypass>,
) -> Result<(), Bypass> {
    for part in parts {
        match part {
            Part::Literal(text) => target.push_str(text),
            Part::Variable { name, reserved } => write_value(target, value(name)?, *reserved)?,
        }
    }
    Ok(())
}

/// Writes a value of the request's path. What is percent-encoded stays so; a reserved character,
/// which stood for itself in the path, is encoded, as it might mean something in its new place.
/// Under `+` it goes as it is, where it can mean nothing.
fn write_value(target: &mut String, raw: &str, reserved: bool) -> Result<(), Bypass> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = raw.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => target.push(byte.into()),
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
                if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Bypass::AmbiguousId);
                }
                target.push('%');
            }
            b':' | b'@' | b'!' | b'$' | b'\'' | b'(' | b')' | b'*' if reserved => target.push(byte.into()),
            _ if reserved => return Err(Bypass::AmbiguousId),
            _ => {
                target.push('%');
                target.push(HEX[usize::from(byte >> 4)].into());
                target.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
    Ok(())
}
