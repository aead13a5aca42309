//! A key as text for people. The key is read back, so what is shown is what is compared;
//! credentials are masked.

use std::fmt::{self, Display, Formatter};

use super::{ABSENT, CLIENT_ID, CREDENTIALS};
use crate::codec::ITEM;

/// A key in words: name and value of each part; header fields come last, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// What members have in common. Values hold printable ASCII only and are bounded in length.
    pub parts: Vec<(String, String)>,
}

impl Display for Description {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.parts.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            let quote = if value.contains(' ') { "'" } else { "" };
            write!(f, "{space}{name}={quote}{value}{quote}")?;
        }
        Ok(())
    }
}

/// Reads a key back. Of a byte string that is no key, as much as reads like one.
pub fn describe(key: &[u8]) -> Description {
    let mut description = Description::default();
    // A short key ends the description early; what was read stays.
    let _complete = describe_into(&mut description, &mut Reader(key));
    description
}

fn describe_into(description: &mut Description, key: &mut Reader<'_>) -> Option<()> {
    let mut add = |name: &str, value: String| description.parts.push((name.to_owned(), value));
    add("route", shown(key.part()?));
    add("generation", format!("{:016x}", u64::from_le_bytes(key.array()?)));
    let [version, priority] = key.array()?;
    add("http", if version == 0 { "1" } else { "2" }.to_owned());
    add("priority", priority.to_string());
    add("method", shown(key.part()?));
    if let Some(scheme) = key.optional()? {
        add("scheme", shown(scheme));
    }
    if let Some(authority) = key.optional()? {
        add("authority", shown(authority));
    }
    let before = key.part()?;
    let path = match key.optional()? {
        Some(behind) => format!("{}{{}}{}", shown(before), shown(behind)),
        None => shown(before),
    };
    add("path", path);
    if let Some(query) = key.optional()? {
        add("query", masked_query(query));
    }
    let invariants = key.part()?;
    if !invariants.is_empty() {
        add("shared", shared(invariants));
    }
    let fields = description.parts.len();
    while !key.0.is_empty() {
        let (name, value) = (shown(key.part()?), key.part()?);
        let value = if is_secret(&name) {
            MASK.to_owned()
        } else {
            shown(value)
        };
        description.parts.push((name, value));
    }
    // The key's order of names is one for machines. Stable: values of one name keep theirs.
    description.parts[fields..].sort_by(|one, other| one.0.cmp(&other.0));
    Some(())
}

/// What a codec adds, with `{}` where the items are.
fn shared(invariants: &[u8]) -> String {
    let parts = invariants.split(|byte| *byte >= ITEM);
    parts.map(shown).collect::<Vec<_>>().join("{}")
}

/// The values of parameters that look like credentials are masked, the others stay raw.
fn masked_query(query: &[u8]) -> String {
    let pairs = query.split(|byte| *byte == b'&').map(|pair| {
        let name = shown(pair.split(|byte| *byte == b'=').next().unwrap_or_default());
        if is_secret(&name) {
            format!("{name}={MASK}")
        } else {
            shown(pair)
        }
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // A name, which proves nothing where it is shown.
    if name == CLIENT_ID {
        return false;
    }
    CREDENTIALS.contains(&&*name) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn shown(bytes: &[u8]) -> String {
    if bytes.len() > SHOWN_BYTES {
        format!("{}…({} bytes)", bytes[..SHOWN_BYTES].escape_ascii(), bytes.len())
    } else {
        bytes.escape_ascii().to_string()
    }
}

/// The rest of a key that is being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        let length = u32::from_le_bytes(self.array()?);
        if length == ABSENT {
            return Some(None);
        }
        let (part, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(Some(part))
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        self.optional()?
    }
}

const MASK: &str = "***";

/// Bytes of one part that are shown.
const SHOWN_BYTES: usize = 160;

/// Words in the names of fields and parameters whose values are nobody's business.
const SECRET_WORDS: [&str; 8] = [
    "token", "secret", "password", "passwd", "apikey", "api-key", "api_key", "session",
];
