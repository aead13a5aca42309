//! What runs where: each sidecar that is connected, what it acknowledged and what it rejected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use jitney_api::push::ads::DeltaDiscoveryResponse;
use jitney_api::push::config::FailingRoute;
use jitney_api::push::{Answer, Kind, MAX_NAMES, Nack, Version};
use parking_lot::Mutex;
use tokio::time::Instant;

mod batches;
mod findings;
mod handshakes;
mod progress;
mod refusals;
mod tally;
mod trusting;

pub use batches::{Batches, Failing};
pub use findings::{Findings, Found};
pub use handshakes::Handshakes;
pub use progress::{Overview, Progress, Rejection, Spread, Standing, Totals};
pub use refusals::{Refusals, Refused};
pub use tally::{Count, Tally};
pub use trusting::{A_FEW, NameHash, Names, Trusting};

use crate::identity::{KeyHash, RootId};
use crate::metrics::Counts;
use crate::push::Admitted;
use crate::store::{Recipient, Sight};

/// Every sidecar that is connected.
#[derive(Debug, Default)]
pub struct Sidecars {
    /// Locked for no longer than it takes to add, remove or list.
    streams: Mutex<Streams>,
    numbers: AtomicU64,
    /// Counts what may change how they stand to the roots.
    revision: AtomicU64,
    /// Counts what may change how they stand to anything.
    activity: AtomicU64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Streams {
    /// By their number.
    sidecars: BTreeMap<u64, Arc<Mutex<Sidecar>>>,
    /// The number of the last stream of each connection.
    of_connections: HashMap<u64, u64>,
}

/// One sidecar, for as long as its stream is open.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Whose it is, by its certificate, and what it calls itself.
    pub recipient: Recipient,
    /// When its stream was opened.
    pub since: SystemTime,
    /// The root that signed its certificate.
    pub root: Option<RootId>,
    /// The key that it is for.
    pub key: Option<KeyHash>,
    /// The generation that there was when its stream was opened: what is older is no news to it.
    opened: u64,
    /// By type and name.
    runs: [BTreeMap<Arc<str>, Version>; Kind::ALL.len()],
    /// What it was sent and has not answered: it may run that or what it ran before.
    under_way: [BTreeSet<String>; Kind::ALL.len()],
    rejected: BTreeMap<(Kind, Arc<str>), Rejected>,
    /// Of each policy, the routes whose batches fail here.
    batches: Batches,
}

#[derive(Clone, Debug)]
struct Rejected {
    nack: Nack,
    at: Instant,
}

/// A stream that is open; it is noted as closed when this is dropped.
#[derive(Debug)]
pub struct Connected {
    sidecars: Arc<Sidecars>,
    number: u64,
    connection: Option<u64>,
    sidecar: Arc<Mutex<Sidecar>>,
}

impl Sidecars {
    /// With counters that somebody else reads as well.
    pub fn new(counts: Counts) -> Self {
        Self {
            counts,
            ..Self::default()
        }
    }

    /// A stream has been opened at this generation.
    pub fn open(self: &Arc<Self>, admitted: &Admitted, opened: u64) -> Connected {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let recipient = Recipient {
            workload: admitted.workload.clone(),
            node: String::new(),
        };
        let sidecar = Arc::new(Mutex::new(Sidecar {
            recipient,
            since: SystemTime::now(),
            root: admitted.root,
            key: admitted.key,
            opened,
            runs: Default::default(),
            under_way: Default::default(),
            rejected: BTreeMap::new(),
            batches: Batches::default(),
        }));
        let mut streams = self.streams.lock();
        streams.sidecars.insert(number, Arc::clone(&sidecar));
        let connection = admitted.connection;
        streams
            .of_connections
            .extend(connection.map(|connection| (connection, number)));
        drop(streams);
        self.revised();
        Connected {
            sidecars: Arc::clone(self),
            number,
            connection,
            sidecar,
        }
    }

    /// Looks at the sidecar whose stream is on a connection; `None` when there is none.
    pub fn on<T>(&self, connection: u64, look: impl FnOnce(&mut Sidecar) -> T) -> Option<T> {
        let streams = self.streams.lock();
        let number = streams.of_connections.get(&connection)?;
        let sidecar = Arc::clone(streams.sidecars.get(number)?);
        drop(streams);
        Some(look(&mut sidecar.lock()))
    }

    /// Another number whenever it may have changed how they stand to the roots.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn revised(&self) {
        self.revision.fetch_add(1, Ordering::Release);
        self.stirred();
    }

    /// Another number whenever one of them has come, gone or said something.
    pub fn activity(&self) -> u64 {
        self.activity.load(Ordering::Acquire)
    }

    fn stirred(&self) {
        self.activity.fetch_add(1, Ordering::Release);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.streams.lock().sidecars.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at each sidecar that is connected now, the longest connected first. Only the one that is
    /// looked at waits meanwhile.
    pub fn each(&self, mut look: impl FnMut(&Sidecar)) {
        let all: Vec<_> = self.streams.lock().sidecars.values().cloned().collect();
        all.iter().for_each(|sidecar| look(&sidecar.lock()));
    }
}

impl Sidecar {
    /// The version of a resource that it has applied. Of endpoints and backends that is not known, but only
    /// what it rejected.
    pub fn runs(&self, kind: Kind, name: &str) -> Option<Version> {
        self.runs[kind as usize].get(name).copied()
    }

    /// Every resource that it is known to have applied.
    pub fn all_runs(&self) -> impl Iterator<Item = (Kind, &Arc<str>, Version)> {
        let kinds = Kind::ALL.into_iter().zip(&self.runs);
        kinds.flat_map(|(kind, runs)| runs.iter().map(move |(name, version)| (kind, name, *version)))
    }

    /// It has found that the batches of these routes of a policy fail, and of no others.
    pub fn batches_fail(&mut self, policy: &str, version: Version, routes: &[FailingRoute]) {
        self.batches.note(policy, version, routes);
    }

    /// Every resource whose latest version it cannot run.
    pub fn all_rejected(&self) -> impl Iterator<Item = (Kind, &Nack)> {
        self.rejected
            .iter()
            .map(|((kind, _), rejected)| (*kind, &rejected.nack))
    }
}

impl Connected {
    /// The sidecar has said what it is called. Gives so much of that as is kept.
    pub fn named(&self, node: &str) -> String {
        let node = name(node);
        self.sidecar.lock().recipient.node.clone_from(&node);
        self.sidecars.revised();
        node
    }

    /// It came with these, from an earlier stream or from its disk.
    pub fn holds<'a>(&self, kind: Kind, held: impl Iterator<Item = (&'a String, &'a String)>) {
        if !is_followed(kind) {
            return;
        }
        let known = held.filter_map(|(name, version)| Some((name.as_str().into(), version.parse().ok()?)));
        let mut sidecar = self.sidecar.lock();
        let runs = &mut sidecar.runs[kind as usize];
        let room = MAX_NAMES.saturating_sub(runs.len());
        runs.extend(known.take(room));
        drop(sidecar);
        if kind == Kind::TrustBundle {
            self.sidecars.revised();
        } else {
            self.sidecars.stirred();
        }
    }

    /// It wants these no more, and so has dropped them, but for what it keeps all the same.
    pub fn dropped(&self, kind: Kind, patterns: &[String], is_kept: impl Fn(&str) -> bool) {
        if patterns.is_empty() {
            return;
        }
        let mut sidecar = self.sidecar.lock();
        let is_dropped = |name: &str| {
            let is_meant = patterns.iter().any(|pattern| {
                let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
                *pattern == *name || prefix.is_some_and(|prefix| name.starts_with(prefix))
            });
            is_meant && !is_kept(name)
        };
        sidecar.runs[kind as usize].retain(|name, _| !is_dropped(name));
        sidecar
            .rejected
            .retain(|(of, name), _| *of != kind || !is_dropped(name));
        drop(sidecar);
        self.sidecars.revised();
    }

    /// A response is on its way to it.
    pub fn sent(&self, response: &DeltaDiscoveryResponse) {
        let Some(kind) = Kind::of(&response.type_url) else {
            return;
        };
        self.sidecars.counts.pushed(kind, response.resources.len());
        if is_followed(kind) {
            let set = response.resources.iter().map(|resource| &resource.name);
            let names = set.chain(&response.removed_resources);
            self.sidecar.lock().under_way[kind as usize].extend(names.cloned());
        }
    }

    /// It has answered a response that was made of what it sees here.
    pub fn answered(&self, answer: Answer, sight: &Sight<'_>) {
        let Answer::Applied {
            kind,
            applied,
            rejected,
        } = answer
        else {
            return;
        };
        let now = Instant::now();
        let mut sidecar = self.sidecar.lock();
        // There is one response of a type at a time.
        sidecar.under_way[kind as usize].clear();
        for (name, version) in applied {
            if let Some(changed) = changed(sight, kind, &name, version, sidecar.opened) {
                self.sidecars
                    .counts
                    .propagated(now.saturating_duration_since(changed));
            }
            sidecar.applied(kind, name, version);
        }
        for nack in rejected {
            tracing::warn!(%kind, name = %nack.name, node = sidecar.recipient.node, field = nack.field, reason = nack.reason,
                "a sidecar rejected a resource");
            self.sidecars.counts.rejected(kind, nack.cause);
            sidecar.cannot_run(kind, &nack, now);
        }
        drop(sidecar);
        if kind == Kind::TrustBundle {
            self.sidecars.revised();
        } else {
            self.sidecars.stirred();
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut streams = self.sidecars.streams.lock();
        streams.sidecars.remove(&self.number);
        if let Some(connection) = self.connection
            && streams.of_connections.get(&connection) == Some(&self.number)
        {
            streams.of_connections.remove(&connection);
        }
        drop(streams);
        self.sidecars.revised();
    }
}

impl Sidecar {
    fn applied(&mut self, kind: Kind, name: Arc<str>, version: Option<Version>) {
        self.rejected.remove(&(kind, Arc::clone(&name)));
        if !is_followed(kind) {
            return;
        }
        let runs = &mut self.runs[kind as usize];
        match version {
            Some(version) => runs.insert(name, version),
            None => runs.remove(&name),
        };
    }

    fn cannot_run(&mut self, kind: Kind, nack: &Nack, at: Instant) {
        let nack = brief(nack);
        let key = (kind, Arc::clone(&nack.name));
        if self.rejected.len() < MOST_REJECTED || self.rejected.contains_key(&key) {
            self.rejected.insert(key, Rejected { nack, at });
        }
    }
}

/// When what a sidecar has just applied changed where it comes from; `None` when it is older than the
/// sidecar's stream, or there is a later version.
fn changed(
    sight: &Sight<'_>,
    kind: Kind,
    name: &str,
    version: Option<Version>,
    opened: u64,
) -> Option<Instant> {
    let entry = sight.entry(kind, name)?;
    (Some(entry.held.version) == version && entry.generation > opened).then_some(entry.changed)
}

/// Endpoints come and go by the thousand, and nobody asks which sidecar has which. What it rejects is noted of
/// every type.
const fn is_followed(kind: Kind) -> bool {
    !matches!(kind, Kind::Endpoint | Kind::Backend)
}

/// A rejection, with as much of its texts as is kept.
pub(crate) fn brief(nack: &Nack) -> Nack {
    Nack {
        field: cut(&nack.field, FIELD_BYTES),
        reason: cut(&nack.reason, REASON_BYTES),
        ..nack.clone()
    }
}

/// What a sidecar calls itself, as much of it as is kept.
pub(crate) fn name(node: &str) -> String {
    cut(node, NODE_BYTES)
}

/// The beginning of a text that a sidecar has sent: it is kept, and must not be long.
fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// A node's name: as long as a name in DNS.
const NODE_BYTES: usize = 253;
/// A path in a document.
const FIELD_BYTES: usize = 256;
/// A few sentences.
const REASON_BYTES: usize = 1024;
/// Rejections of one sidecar that are remembered, about 1 MiB: one that rejects more is said to anyway.
const MOST_REJECTED: usize = 1024;
