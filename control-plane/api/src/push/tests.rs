//! Both ends against each other, over a wire that delays and loses, by random scripts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use super::config::Cause;
use super::*;

mod model;
mod rules;

/// What the control plane has. A resource refers to the one of a lower type that its content names.
#[derive(Debug, Default)]
struct Store(BTreeMap<(Kind, Arc<str>), Held>);

impl View for Store {
    fn get(&self, kind: Kind, name: &str) -> Option<Held> {
        self.0.get(&(kind, name.into())).cloned()
    }

    fn below(&self, kind: Kind, prefix: &str) -> Vec<Arc<str>> {
        let names = self.0.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name);
        names.filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    fn own(&self, kind: Kind) -> Vec<Arc<str>> {
        let own = self.below(kind, "").into_iter();
        own.filter(|name| self.is_own(kind, name)).collect()
    }

    /// Everything but what says that it is others'.
    fn is_own(&self, _: Kind, name: &str) -> bool {
        !name.starts_with("others/")
    }
}

fn held(content: &str) -> Held {
    Held {
        version: Version::of(content.as_bytes()),
        content: content.to_owned().into(),
    }
}

/// A control plane and a sidecar, with a stream between them while there is one.
#[derive(Debug)]
struct Pair {
    store: Store,
    feed: Feed,
    sidecar: Subscriber,
    /// What the sidecar runs.
    runs: BTreeMap<(Kind, String), String>,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
    /// Every request of this stream, to be sent again by a confused network.
    said: Vec<DeltaDiscoveryRequest>,
    /// Resources sent on this stream.
    resources: usize,
    rejections: usize,
}

impl Pair {
    fn new() -> Self {
        let mut sidecar = Subscriber::new(Node {
            id: "sidecar-1".into(),
            ..Node::default()
        });
        sidecar.open();
        Self {
            store: Store::default(),
            feed: Feed::new(),
            sidecar,
            runs: BTreeMap::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            said: Vec::new(),
            resources: 0,
            rejections: 0,
        }
    }

    fn set(&mut self, kind: Kind, name: &str, content: &str) {
        let name: Arc<str> = name.into();
        self.store.0.insert((kind, Arc::clone(&name)), held(content));
        self.feed.changed(kind, &name);
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        let name: Arc<str> = name.into();
        self.store.0.remove(&(kind, Arc::clone(&name)));
        self.feed.changed(kind, &name);
    }

    fn subscribe(&mut self, kind: Kind, name: &str) {
        self.sidecar.subscribe(kind, name);
    }

    fn unsubscribe(&mut self, kind: Kind, name: &str) {
        for name in self.sidecar.unsubscribe(kind, name) {
            self.runs.remove(&(kind, name));
        }
    }

    /// Both ends say what they have to say.
    fn speak(&mut self) {
        while let Some(request) = self.sidecar.poll() {
            self.said.push(request.clone());
            self.up.push_back(request);
        }
        while let Some(response) = self.feed.poll(&self.store) {
            self.resources += response.resources.len();
            self.down.push_back(response);
        }
    }

    /// The control plane reads one request.
    fn read_up(&mut self) -> Answer {
        let Some(request) = self.up.pop_front() else {
            return Answer::None;
        };
        self.feed
            .request(&request, &self.store)
            .expect("nothing out of bounds")
    }

    /// The sidecar reads one response, and runs what it can run.
    fn read_down(&mut self) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        let mut delta = self.sidecar.response(response).expect("a type of ours");
        for change in delta.changes.clone() {
            match change {
                Change::Set {
                    name,
                    version,
                    content,
                } => {
                    let content = String::from_utf8(content.to_vec()).expect("text");
                    if content.starts_with("bad") {
                        self.rejections += 1;
                        delta.reject(
                            &name,
                            &version,
                            Cause::Content,
                            "spec.size",
                            "found 0, expected 1 to 65536",
                        );
                    } else {
                        self.runs.insert((delta.kind, name), content);
                    }
                }
                Change::Gone { name } => {
                    self.runs.remove(&(delta.kind, name));
                }
            }
        }
        self.sidecar.answer(delta);
    }

    /// The stream breaks, with all that was on it, and another is opened, to any replica.
    fn reconnect(&mut self) {
        self.feed = Feed::new();
        self.up.clear();
        self.down.clear();
        self.said.clear();
        self.resources = 0;
        self.sidecar.open();
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for _ in 0..10_000 {
            self.speak();
            if self.up.is_empty() && self.down.is_empty() {
                return answers;
            }
            while !self.up.is_empty() {
                answers.push(self.read_up());
            }
            self.read_down();
        }
        panic!("they never come to rest");
    }
}
