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
    /// The root that its sidecar has last said to trust. What it trusted before it still does, or it was dropped.
    pub(super) trusts: Option<RootId>,
    /// Whose place it takes once it is in use; they may be gone.
    pub(super) replaces: Vec<Key>,
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
    /// `+ <key> <root> <expires> <namespace>/<account> [<node>]`: signed, or seen.
    Signed(Key, Held),
    /// `~ <key> <key>`: the first is to take the place of the second, once it is in use.
    Replaces(Key, Key),
    /// `- <key>`: another one has taken its place.
    Superseded(Key),
    /// `= <key> <root>`: its sidecar trusts the root.
    Trusts(Key, RootId),
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
            Entry::Signed(key, mut held) => {
                self.nodes.extend(held.name().map(|name| (name, key)));
                if let Some(same) = self.certificates.remove(&key) {
                    (held.trusts, held.replaces) = (same.trusts, same.replaces);
                }
                self.certificates.insert(key, held);
            }
            Entry::Replaces(key, before) => {
                if let Some(held) = self.certificates.get_mut(&key) {
                    held.replaces.push(before);
                }
            }
            Entry::Superseded(key) => drop(self.certificates.remove(&key)),
            Entry::Trusts(key, root) => {
                if let Some(held) = self.certificates.get_mut(&key) {
                    held.trusts = Some(root);
                }
            }
            Entry::Uncounted(root, more) => {
                let sum = self.uncounted.entry(root).or_default();
                sum.count += more.count;
                sum.expires = sum.expires.max(more.expires);
            }
        }
    }

    /// Whose place a certificate takes that is about to be signed, once it is in use: its owner's, and that of the
    /// last one of the same workload and node. A key is in its sidecar's memory alone, so that whoever asks for
    /// another one under this name has lost it.
    pub(super) fn replaced_by(&self, key: Key, held: &Held, owners: Option<Key>) -> Vec<Key> {
        let last = held.name().and_then(|name| self.nodes.get(&name)).copied();
        let mut before: Vec<Key> = owners.into_iter().chain(last).collect();
        before.dedup();
        let noted = self.certificates.get(&key).map(|same| same.replaces.as_slice());
        before.retain(|before| {
            let is_noted = noted.is_some_and(|noted| noted.contains(before));
            *before != key && !is_noted && self.certificates.contains_key(before)
        });
        before
    }

    /// Whose place a certificate has taken that is in use: also of those that were never in use themselves.
    pub(super) fn all_replaced_by(&self, key: Key) -> Vec<Key> {
        let (mut found, mut open) = (Vec::new(), vec![key]);
        while let Some(held) = open.pop().and_then(|key| self.certificates.get(&key)) {
            for before in &held.replaces {
                if *before != key && !found.contains(before) && self.certificates.contains_key(before) {
                    found.push(*before);
                    open.push(*before);
                }
            }
        }
        found
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
        self.lines > LINES_OF_ONE * alive + SPARE_LINES
    }

    /// As few lines as say the same.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.began);
        let is_last =
            |key: &Key, held: &Held| held.name().is_some_and(|name| self.nodes.get(&name) == Some(key));
        let (last, others): (Vec<_>, Vec<_>) = self
            .certificates
            .iter()
            .partition(|(key, held)| is_last(key, held));
        for (key, held) in others.into_iter().chain(last) {
            Entry::Signed(*key, held.clone()).write(&mut text);
            let before = held.replaces.iter();
            before
                .filter(|before| self.certificates.contains_key(before))
                .for_each(|before| Entry::Replaces(*key, *before).write(&mut text));
            held.trusts
                .iter()
                .for_each(|root| Entry::Trusts(*key, *root).write(&mut text));
        }
        for (root, more) in &self.uncounted {
            Entry::Uncounted(*root, *more).write(&mut text);
        }
        text
    }
}

impl Held {
    /// By which its sidecar is told from others, where it has said that.
    fn name(&self) -> Option<(Workload, String)> {
        (!self.node.is_empty()).then(|| (self.workload.clone(), self.node.clone()))
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
                    ..
                } = held;
                let space = if node.is_empty() { "" } else { " " };
                writeln!(text, "+ {} {root} {expires} {workload}{space}{node}", hex(&key.0))
            }
            Self::Replaces(key, before) => writeln!(text, "~ {} {}", hex(&key.0), hex(&before.0)),
            Self::Superseded(key) => writeln!(text, "- {}", hex(&key.0)),
            Self::Trusts(key, root) => writeln!(text, "= {} {root}", hex(&key.0)),
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
            ["~", key, before] => replaces(key, before),
            ["-", key] => read_key(key).map(Self::Superseded),
            ["=", key, root] => trusts(key, root),
            ["*", root, expires, count] => uncounted(root, expires, count),
            _ => None,
        };
        entry.ok_or(
            "expected + key root expiry workload node, ~ key key, - key, = key root, or * root expiry count",
        )
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
        trusts: None,
        replaces: Vec::new(),
    };
    Some(Entry::Signed(read_key(key)?, held))
}

fn replaces(key: &str, before: &str) -> Option<Entry> {
    Some(Entry::Replaces(read_key(key)?, read_key(before)?))
}

fn trusts(key: &str, root: &str) -> Option<Entry> {
    Some(Entry::Trusts(read_key(key)?, root.parse().ok()?))
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

/// Most certificates have no more: signed, trusts, and replaces until it is in use.
const LINES_OF_ONE: usize = 3;

/// Lines about what is no more that are left even where little is alive.
const SPARE_LINES: usize = 1000;
