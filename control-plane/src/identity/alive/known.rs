//! What the journal says: its lines, and what follows from them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::str::FromStr;

use jitney_api::Workload;

use super::super::authority::KeyHash;
use super::super::roots::RootId;
use super::super::tokens::hex;

/// By which a certificate is known: the beginning of its key's hash. A certificate that is signed again for
/// the same key takes the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) root: RootId,
    /// Seconds since the epoch.
    pub(super) expires: u64,
    pub(super) workload: Workload,
    /// What its sidecar calls itself; empty where that is not known.
    pub(super) node: String,
}

/// Certificates for which there was no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uncounted {
    pub(super) count: usize,
    /// When the last of them expires, in seconds since the epoch.
    pub(super) expires: u64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// `+ <key> <root> <expires> <namespace>/<account> [<node>]`: signed, or seen. It takes the place of the
    /// one before of the same workload and node: a key is in its sidecar's memory alone, so that whoever asks
    /// for another one under this name has lost it.
    Signed(Key, Held),
    /// `- <key>`: another one has taken its place.
    Superseded(Key),
    /// `* <root> <expires> <count>`: signed, and no room for more than that.
    Uncounted(RootId, Uncounted),
}

/// All lines taken together.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) certificates: HashMap<Key, Held>,
    /// The last of each workload and node.
    pub(super) nodes: HashMap<(Workload, String), Key>,
    pub(super) uncounted: BTreeMap<RootId, Uncounted>,
    /// What was signed before is not all here; seconds since the epoch.
    pub(super) began: u64,
    /// Lines after the first.
    pub(super) lines: usize,
    /// The first line that is none.
    pub(super) fault: Option<String>,
}

impl From<&KeyHash> for Key {
    fn from(hash: &KeyHash) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Self(key)
    }
}

impl Known {
    /// Reads the first line.
    pub(super) fn of(first: &str) -> Option<Self> {
        let began = first.strip_prefix(HEAD)?.parse().ok()?;
        Some(Self {
            began,
            ..Self::default()
        })
    }

    /// Takes in a line after the first.
    pub(super) fn line(&mut self, line: &str) {
        match line.parse() {
            Ok(entry) => self.note(entry),
            Err(fault) => {
                self.lines += 1;
                let number = self.lines + 1;
                self.fault
                    .get_or_insert_with(|| format!("line {number}: {fault}"));
            }
        }
    }

    pub(super) fn note(&mut self, entry: Entry) {
        self.lines += 1;
        match entry {
            Entry::Signed(key, held) => {
                let node = (!held.node.is_empty()).then(|| (held.workload.clone(), held.node.clone()));
                let before = node.and_then(|node| self.nodes.insert(node, key));
                if let Some(before) = before.filter(|before| *before != key) {
                    self.certificates.remove(&before);
                }
                self.certificates.insert(key, held);
            }
            Entry::Superseded(key) => drop(self.certificates.remove(&key)),
            Entry::Uncounted(root, more) => {
                let sum = self.uncounted.entry(root).or_default();
                sum.count += more.count;
                sum.expires = sum.expires.max(more.expires);
            }
        }
    }

    /// Forgets what has expired.
    pub(super) fn forget_expired(&mut self, now: u64) {
        self.certificates.retain(|_, held| held.expires > now);
        let certificates = &self.certificates;
        self.nodes.retain(|_, key| certificates.contains_key(key));
        self.uncounted.retain(|_, more| more.expires > now);
    }

    /// Whether most lines are about what is no more.
    pub(super) fn is_mostly_past(&self) -> bool {
        let alive = self.certificates.len() + self.uncounted.len();
        self.lines > 2 * alive + SPARE_LINES
    }

    /// As few lines as say the same.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.began);
        for (key, held) in &self.certificates {
            Entry::Signed(*key, held.clone()).write(&mut text);
        }
        for (root, more) in &self.uncounted {
            Entry::Uncounted(*root, *more).write(&mut text);
        }
        text
    }
}

impl Entry {
    /// Adds the line.
    pub(super) fn write(&self, text: &mut String) {
        let written = match self {
            Self::Signed(key, held) => {
                let Held {
                    root,
                    expires,
                    workload,
                    node,
                } = held;
                let space = if node.is_empty() { "" } else { " " };
                writeln!(text, "+ {} {root} {expires} {workload}{space}{node}", hex(&key.0))
            }
            Self::Superseded(key) => writeln!(text, "- {}", hex(&key.0)),
            Self::Uncounted(root, Uncounted { count, expires }) => {
                writeln!(text, "* {root} {expires} {count}")
            }
        };
        written.expect("writing to a string does not fail");
    }
}

impl FromStr for Entry {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = line.split(' ').collect();
        let entry = match words[..] {
            ["+", key, root, expires, workload] => signed(key, root, expires, workload, ""),
            ["+", key, root, expires, workload, node] => signed(key, root, expires, workload, node),
            ["-", key] => read_key(key).map(Self::Superseded),
            ["*", root, expires, count] => uncounted(root, expires, count),
            _ => None,
        };
        entry.ok_or("expected + key root expiry workload node, - key, or * root expiry count")
    }
}

/// What a sidecar calls itself, as far as that fits in a line: all that it has sent, or nothing.
pub(super) fn node(sent: &str) -> String {
    let is_word = |char: char| !char.is_whitespace() && !char.is_control();
    let is_node = sent.len() <= NODE_BYTES && sent.chars().all(is_word);
    if is_node { sent.to_owned() } else { String::new() }
}

fn signed(key: &str, root: &str, expires: &str, workload: &str, node: &str) -> Option<Entry> {
    let held = Held {
        root: root.parse().ok()?,
        expires: expires.parse().ok()?,
        workload: workload.parse().ok()?,
        node: node.to_owned(),
    };
    Some(Entry::Signed(read_key(key)?, held))
}

fn uncounted(root: &str, expires: &str, count: &str) -> Option<Entry> {
    let more = Uncounted {
        count: count.parse().ok()?,
        expires: expires.parse().ok()?,
    };
    Some(Entry::Uncounted(root.parse().ok()?, more))
}

fn read_key(text: &str) -> Option<Key> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Key(number.to_be_bytes()))
}

/// What the file begins with; then comes since when it says everything, 0 for ever since.
const HEAD: &str = "jitney-certificates 1 ";

/// As long as a name in DNS.
const NODE_BYTES: usize = 253;

/// Lines about what is no more that are left even where little is alive.
const SPARE_LINES: usize = 1000;
