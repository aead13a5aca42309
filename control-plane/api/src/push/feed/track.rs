//! One type of resource on one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use super::{Answer, FeedError, Held, MAX_NAMES, Nack, Sent, View};
use crate::push::ads::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};
use crate::push::config::{Cause, Rejection};
use crate::push::kind::Kind;
use crate::push::names::{Names, Pattern};
use crate::push::version::Version;

#[derive(Debug, Default)]
pub(super) struct Track {
    /// True after the first request for the type.
    begun: bool,
    /// Everything, or a collection, was asked for, and nothing was sent since: even if there is nothing,
    /// that is news.
    unanswered: bool,
    names: Names,
    /// What the sidecar came with or was sent last; `None`: it was told that there is none.
    held: BTreeMap<Arc<str>, Option<Version>>,
    /// Names to look at again: a slot each, however often they change.
    dirty: BTreeSet<Arc<str>>,
    /// Of those, the ones that were asked for again: sent even if nothing changed.
    again: BTreeSet<Arc<str>>,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    sent: Vec<Sent>,
}

impl Track {
    /// Whether the last response has been answered.
    pub(super) const fn is_free(&self) -> bool {
        self.in_flight.is_none()
    }

    pub(super) fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether the sidecar is to be told that there is nothing for it, or nothing that it lacks.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Tells that nothing is owed.
    pub(super) fn greet(&mut self, kind: Kind, nonce: &str) -> DeltaDiscoveryResponse {
        self.respond(kind, nonce, Vec::new(), Vec::new())
    }

    pub(super) fn size(&self) -> usize {
        self.names.len() + self.held.len() + self.dirty.len()
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.names.cover(name)
    }

    pub(super) fn changed(&mut self, name: &Arc<str>) {
        if self.names.cover(name) || self.held.contains_key(name) {
            self.dirty.insert(Arc::clone(name));
        }
    }

    pub(super) fn look_again(&mut self, kind: Kind, view: &impl View) {
        self.dirty.extend(self.held.keys().cloned());
        for pattern in self.names.patterns() {
            self.dirty.extend(found(pattern, kind, view));
        }
    }

    /// What the request says to the response under way. Any other nonce is an older one's.
    pub(super) fn answer(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Answer {
        let answered = self
            .in_flight
            .take_if(|in_flight| in_flight.nonce == request.response_nonce);
        let Some(InFlight { sent, .. }) = answered else {
            return Answer::None;
        };
        let rejected = request
            .error_detail
            .as_ref()
            .map_or_else(Vec::new, |status| nacks(status, &sent));
        let is_rejected = |name: &Arc<str>| rejected.iter().any(|nack| nack.name == *name);
        let applied: Vec<Sent> = sent.into_iter().filter(|(name, _)| !is_rejected(name)).collect();
        self.note_applied(&applied);
        Answer::Applied {
            kind,
            applied,
            rejected,
        }
    }

    /// A name may have been dropped, and taken up again by another pattern, while it was on its way:
    /// then the sidecar has it although it was forgotten here.
    fn note_applied(&mut self, applied: &[Sent]) {
        for (name, version) in applied.iter().filter(|(_, version)| version.is_some()) {
            if self.names.cover(name) && self.held.get(name) != Some(version) {
                self.held.insert(Arc::clone(name), *version);
                self.dirty.insert(Arc::clone(name));
            }
        }
    }

    pub(super) fn subscribe(
        &mut self,
        kind: Kind,
        request: &DeltaDiscoveryRequest,
        view: &impl View,
    ) -> Result<(), FeedError> {
        let first = !std::mem::replace(&mut self.begun, true);
        for name in &request.resource_names_unsubscribe {
            self.names.remove(Pattern::of(name));
        }
        if !request.resource_names_unsubscribe.is_empty() {
            self.forget_uncovered();
        }
        let wanted = &request.resource_names_subscribe;
        if first && wanted.is_empty() {
            self.names.insert(Pattern::All);
            self.dirty.extend(found(Pattern::All, kind, view));
        }
        if self.names.len() + wanted.len() > MAX_NAMES {
            return Err(FeedError::TooManyNames);
        }
        for name in wanted {
            let pattern = Pattern::of(name);
            self.names.insert(pattern);
            if let (Pattern::Exact(name), false) = (pattern, first) {
                self.again.insert(name.into());
            }
            self.dirty.extend(found(pattern, kind, view));
        }
        let is_open_ended = |name: &String| !matches!(Pattern::of(name), Pattern::Exact(_));
        self.unanswered |= first && self.names.all() || wanted.iter().any(is_open_ended);
        if first {
            self.resume(request);
        }
        Ok(())
    }

    /// What the sidecar holds from an earlier stream needs no sending, unless it changed or is gone.
    fn resume(&mut self, request: &DeltaDiscoveryRequest) {
        // What is beyond the bound is sent again.
        for (name, version) in request.initial_resource_versions.iter().take(MAX_NAMES) {
            if !self.names.cover(name) {
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            // A version that cannot be read is none of ours, and so is not the present one.
            let version = version.parse().unwrap_or_else(|_| Version::of(b""));
            self.held.insert(Arc::clone(&name), Some(version));
            self.dirty.insert(name);
        }
    }

    fn forget_uncovered(&mut self) {
        let names = &self.names;
        self.held.retain(|name, _| names.cover(name));
        if names.all() {
            // The sidecar cannot know which of them it is to have anyway, and so keeps them all.
            let kept = self.held.keys().filter(|name| !names.pick(name));
            self.dirty.extend(kept.cloned());
        }
        self.dirty.retain(|name| names.cover(name));
        self.again.retain(|name| names.cover(name));
    }

    /// What is to be sent. What turns out to be no news is forgotten, what is gone stays for
    /// [`Track::remove`].
    pub(super) fn owed(&mut self, kind: Kind, view: &impl View) -> Vec<(Arc<str>, Held)> {
        let mut owed = Vec::new();
        let (names, held, again) = (&self.names, &self.held, &mut self.again);
        self.dirty.retain(|name| {
            let last = held.get(name).copied();
            let wanted = names.pick(name) || names.all() && view.is_own(kind, name);
            match view.get(kind, name).filter(|_| wanted) {
                Some(now) if last != Some(Some(now.version)) || again.contains(name) => {
                    owed.push((Arc::clone(name), now));
                    true
                }
                Some(_) => false,
                None => {
                    // Absence is news for who asked by name, and for who has the resource.
                    let news = match last {
                        Some(Some(_)) => true,
                        Some(None) => again.contains(name),
                        None => names.names(name),
                    };
                    if !news {
                        again.remove(name);
                    }
                    news
                }
            }
        });
        owed
    }

    /// Sends as much as fits one response; the rest stays owed.
    pub(super) fn send(
        &mut self,
        kind: Kind,
        nonce: &str,
        owed: Vec<(Arc<str>, Held)>,
    ) -> DeltaDiscoveryResponse {
        let (mut resources, mut sent, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (name, held) in owed {
            bytes += name.len() + held.content.len() + OVERHEAD;
            if bytes > MAX_RESPONSE && !sent.is_empty() {
                break;
            }
            self.dirty.remove(&name);
            self.again.remove(&name);
            self.held.insert(Arc::clone(&name), Some(held.version));
            sent.push((Arc::clone(&name), Some(held.version)));
            resources.push(resource(kind, &name, held));
        }
        self.respond(kind, nonce, resources, sent)
    }

    /// Tells that everything that is still dirty is gone. After [`Track::owed`] gave nothing.
    pub(super) fn remove(&mut self, kind: Kind, nonce: &str) -> DeltaDiscoveryResponse {
        self.again.clear();
        let mut sent = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            if self.names.names(&name) {
                self.held.insert(Arc::clone(&name), None);
            } else {
                self.held.remove(&name);
            }
            sent.push((name, None));
        }
        self.respond(kind, nonce, Vec::new(), sent)
    }

    fn respond(
        &mut self,
        kind: Kind,
        nonce: &str,
        resources: Vec<Resource>,
        sent: Vec<Sent>,
    ) -> DeltaDiscoveryResponse {
        let gone = sent.iter().filter(|(_, version)| version.is_none());
        let response = DeltaDiscoveryResponse {
            system_version_info: String::new(),
            removed_resources: gone.map(|(name, _)| name.to_string()).collect(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_owned(),
        };
        self.unanswered &= self.has_news();
        self.in_flight = Some(InFlight {
            nonce: nonce.to_owned(),
            sent,
        });
        response
    }
}

/// The names that a pattern stands for now.
fn found(pattern: Pattern<'_>, kind: Kind, view: &impl View) -> Vec<Arc<str>> {
    match pattern {
        Pattern::All => view.own(kind),
        Pattern::Below(prefix) => view.below(kind, prefix),
        Pattern::Exact(name) => vec![name.into()],
    }
}

fn resource(kind: Kind, name: &str, held: Held) -> Resource {
    Resource {
        version: held.version.to_string(),
        resource: Some(Any {
            type_url: kind.type_url().to_owned(),
            value: held.content,
        }),
        name: name.to_owned(),
    }
}

/// The resources of a response that were rejected: those that the details name, or all of them.
fn nacks(status: &Status, sent: &[Sent]) -> Vec<Nack> {
    let rejections = status.details.iter().filter_map(|detail| {
        let rejection = Rejection::decode(detail.value.as_ref()).ok()?;
        let (name, version) = sent.iter().find(|(name, _)| **name == *rejection.name)?;
        Some(Nack {
            name: Arc::clone(name),
            version: *version,
            cause: rejection.cause(),
            field: rejection.field,
            reason: rejection.reason,
        })
    });
    let named: Vec<Nack> = rejections.collect();
    if !named.is_empty() {
        return named;
    }
    let all = sent.iter().map(|(name, version)| Nack {
        name: Arc::clone(name),
        version: *version,
        cause: Cause::Unspecified,
        field: String::new(),
        reason: status.message.clone(),
    });
    all.collect()
}

/// A response's size, about: below the 4 MiB that gRPC clients take by default.
const MAX_RESPONSE: usize = 1 << 20;
/// What a resource costs on the wire besides its name and content.
const OVERHEAD: usize = 128;
