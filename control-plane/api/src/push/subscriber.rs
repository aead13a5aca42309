//! The sidecar's end: what it wants, what it holds, and what it says to each response.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use prost::Message as _;

use super::ads::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use super::config::{Cause, Rejection};
use super::kind::Kind;
use super::names::{Names, Pattern};

/// What a sidecar wants and holds, from one stream to the next.
#[derive(Debug, Default)]
pub struct Subscriber {
    node: Node,
    interests: [Interest; Kind::ALL.len()],
    /// True until the first request of a stream.
    unnamed: bool,
    answers: VecDeque<DeltaDiscoveryRequest>,
}

#[derive(Debug, Default)]
struct Interest {
    names: Names,
    /// Versions of what is applied.
    held: BTreeMap<String, String>,
    /// True after the first request for the type on this stream.
    begun: bool,
    add: BTreeSet<String>,
    drop: BTreeSet<String>,
}

/// What a response changes, to be applied and then handed to [`Subscriber::answer`].
#[derive(Debug)]
pub struct Delta {
    /// The type of all its resources.
    pub kind: Kind,
    /// In the order in which they came.
    pub changes: Vec<Change>,
    /// What is not applied; whoever applies the changes adds to it.
    pub rejected: Vec<Rejection>,
    nonce: String,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new resource, or a new version.
    Set {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// Its message, encoded.
        content: Bytes,
    },
    /// It is gone, or there is none of this name.
    Gone {
        /// Its name.
        name: String,
    },
}

impl Subscriber {
    /// A sidecar that wants and holds nothing yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// A new stream: the next requests say what is wanted and what is held already.
    pub fn open(&mut self) {
        self.unnamed = true;
        self.answers.clear();
        for interest in &mut self.interests {
            interest.begun = false;
            interest.add.clear();
            interest.drop.clear();
        }
    }

    /// Wants a resource, all below a name that ends in `/*`, or with `*` all that this sidecar is
    /// to have. Wanting what is wanted already has it sent again.
    pub fn subscribe(&mut self, kind: Kind, name: &str) {
        let interest = &mut self.interests[kind.index()];
        interest.names.insert(Pattern::of(name));
        interest.drop.remove(name);
        interest.add.insert(name.to_owned());
    }

    /// Whether a resource is wanted, by its name or with others.
    pub fn wants(&self, kind: Kind, name: &str) -> bool {
        self.interests[kind.index()].names.cover(name)
    }

    /// Has a resource be sent again, or told again to be gone, if it is wanted.
    pub fn ask_again(&mut self, kind: Kind, name: &str) {
        if self.wants(kind, name) {
            self.interests[kind.index()].add.insert(name.to_owned());
        }
    }

    /// Wants it no more. Gives the names of what is held and to be dropped now.
    pub fn unsubscribe(&mut self, kind: Kind, name: &str) -> Vec<String> {
        let interest = &mut self.interests[kind.index()];
        interest.names.remove(Pattern::of(name));
        interest.add.remove(name);
        interest.drop.insert(name.to_owned());
        interest.release_uncovered(Pattern::of(name))
    }

    /// Holds no longer what is not wanted, as of what was on disk. Gives the names.
    pub fn release_unwanted(&mut self, kind: Kind) -> Vec<String> {
        self.interests[kind.index()].release_uncovered(Pattern::All)
    }

    /// Holds a resource already, as from a snapshot on disk.
    pub fn hold(&mut self, kind: Kind, name: &str, version: &str) {
        let held = &mut self.interests[kind.index()].held;
        held.insert(name.to_owned(), version.to_owned());
    }

    /// Holds a resource whose version is not applied as a whole: on the next stream it is sent again, or
    /// told to be gone.
    pub fn hold_in_part(&mut self, kind: Kind, name: &str) {
        // What is no version is nobody's present one.
        self.hold(kind, name, "");
    }

    /// Holds a resource no longer, so that it is sent again.
    pub fn release(&mut self, kind: Kind, name: &str) {
        self.interests[kind.index()].held.remove(name);
    }

    /// The version of a resource that is applied.
    pub fn held(&self, kind: Kind, name: &str) -> Option<&str> {
        self.interests[kind.index()].held.get(name).map(String::as_str)
    }

    /// The next request; to be asked until `None` after every event.
    pub fn poll(&mut self) -> Option<DeltaDiscoveryRequest> {
        let mut request = match self.answers.pop_front() {
            Some(answer) => answer,
            None => self.change()?,
        };
        if std::mem::take(&mut self.unnamed) {
            request.node = Some(self.node.clone());
        }
        Some(request)
    }

    fn change(&mut self) -> Option<DeltaDiscoveryRequest> {
        let mut interests = Kind::ALL.into_iter().zip(&mut self.interests);
        interests.find_map(|(kind, interest)| interest.request(kind))
    }

    /// Takes in a response; `None` when it is of a type that nobody asked for.
    ///
    /// A resource that comes twice, or that is of another type than the response, is rejected here.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Option<Delta> {
        let kind = Kind::of(&response.type_url)?;
        let names = &self.interests[kind.index()].names;
        let mut delta = Delta {
            kind,
            changes: Vec::with_capacity(response.resources.len()),
            rejected: Vec::new(),
            nonce: response.nonce,
        };
        let twice = twice(&response.resources, &response.removed_resources);
        for resource in response.resources {
            // It was dropped while this was on its way.
            if !names.cover(&resource.name) {
                continue;
            }
            if twice.contains(&resource.name) {
                delta.reject(
                    &resource.name,
                    &resource.version,
                    Cause::Content,
                    "",
                    "it is in the response twice",
                );
                continue;
            }
            match resource.resource {
                Some(any) if any.type_url == kind.type_url() => delta.changes.push(Change::Set {
                    name: resource.name,
                    version: resource.version,
                    content: any.value,
                }),
                other => {
                    let found = other.map_or_else(|| "nothing".into(), |any| any.type_url);
                    let reason = format!("found {found}, expected {}", kind.type_url());
                    delta.reject(&resource.name, &resource.version, Cause::Content, "", &reason);
                }
            }
        }
        let gone = response.removed_resources.into_iter();
        let gone = gone.filter(|name| !twice.contains(name));
        delta.changes.extend(gone.map(|name| Change::Gone { name }));
        Some(delta)
    }

    /// Answers a response, after its changes are in force.
    pub fn answer(&mut self, delta: Delta) {
        let interest = &mut self.interests[delta.kind.index()];
        for change in delta.changes {
            match change {
                Change::Set { name, version, .. } => {
                    let rejected = delta.rejected.iter().any(|one| one.name == name);
                    if !rejected && interest.names.cover(&name) {
                        interest.held.insert(name, version);
                    }
                }
                Change::Gone { name } => {
                    interest.held.remove(&name);
                }
            }
        }
        self.answers.push_back(DeltaDiscoveryRequest {
            type_url: delta.kind.type_url().to_owned(),
            response_nonce: delta.nonce,
            error_detail: status(&delta.rejected),
            ..DeltaDiscoveryRequest::default()
        });
    }
}

impl Interest {
    /// Of the names that a pattern stands for. Walks those, and not all that is held.
    fn release_uncovered(&mut self, pattern: Pattern<'_>) -> Vec<String> {
        let first = match pattern {
            Pattern::Exact(name) | Pattern::Below(name) => name,
            Pattern::All => "",
        };
        let is_of = |name: &String| match pattern {
            Pattern::Exact(exact) => *name == *exact,
            Pattern::Below(prefix) => name.starts_with(prefix),
            Pattern::All => true,
        };
        let from = (Bound::Included(first), Bound::Unbounded);
        let of_pattern = self.held.range::<str, _>(from).map(|(name, _)| name);
        let uncovered = of_pattern.take_while(|name| is_of(name));
        let uncovered = uncovered.filter(|name| !self.names.cover(name));
        let uncovered: Vec<String> = uncovered.cloned().collect();
        for name in &uncovered {
            self.held.remove(name);
        }
        uncovered
    }

    fn request(&mut self, kind: Kind) -> Option<DeltaDiscoveryRequest> {
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        if self.begun {
            if self.add.is_empty() && self.drop.is_empty() {
                return None;
            }
            request.resource_names_subscribe = std::mem::take(&mut self.add).into_iter().collect();
        } else {
            // A first request that subscribes to nothing would mean everything.
            if self.names.len() == 0 {
                return None;
            }
            self.begun = true;
            self.add.clear();
            self.drop.clear();
            request.resource_names_subscribe = self.names.iter().collect();
            request.initial_resource_versions.clone_from(&self.held);
        }
        request.resource_names_unsubscribe = std::mem::take(&mut self.drop).into_iter().collect();
        Some(request)
    }
}

impl Delta {
    /// What a sidecar remembers, to be taken in as if it had been sent. It needs no answer.
    pub fn remembered(kind: Kind, changes: Vec<Change>) -> Self {
        Self {
            kind,
            changes,
            rejected: Vec::new(),
            nonce: String::new(),
        }
    }

    /// Notes that a resource is not applied, and why: the last good version stays.
    pub fn reject(&mut self, name: &str, version: &str, cause: Cause, field: &str, reason: &str) {
        self.rejected.push(Rejection {
            type_url: self.kind.type_url().to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            field: field.to_owned(),
            reason: reason.to_owned(),
            cause: cause.into(),
        });
    }
}

/// Names that stand in a response more than once.
fn twice(resources: &[Resource], removed: &[String]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let names = resources.iter().map(|resource| &resource.name).chain(removed);
    names.filter(|name| !seen.insert(*name)).cloned().collect()
}

/// `None` when everything is applied: that is what an acknowledgement is.
fn status(rejected: &[Rejection]) -> Option<Status> {
    let first = rejected.first()?;
    Some(Status {
        code: INVALID_ARGUMENT,
        message: format!(
            "{} of a response rejected; {}: {}",
            rejected.len(),
            first.name,
            first.reason
        ),
        details: rejected
            .iter()
            .map(|rejection| Any {
                type_url: "type.googleapis.com/jitney.config.v1.Rejection".into(),
                value: rejection.encode_to_vec().into(),
            })
            .collect(),
    })
}

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
