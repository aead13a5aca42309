//! The rows of one kind, by namespace and name, kept up with a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kube::Resource;
use kube::runtime::watcher;

/// What a watch tells.
pub(super) type Event<K> = watcher::Event<K>;

type Name = (String, String);

/// The objects of one kind that one watch sees: those of a namespace, or of all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// The whole cluster.
    All,
    /// One namespace.
    Namespace(String),
}

/// What is kept of the objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: BTreeMap<Name, T>,
    /// The objects that have been listed so far, by the watch that lists them.
    listed: BTreeMap<Scope, BTreeSet<Name>>,
    /// Watches that have listed all of theirs once.
    synced: BTreeSet<Scope>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            listed: BTreeMap::new(),
            synced: BTreeSet::new(),
        }
    }
}

impl Scope {
    fn has(&self, name: &Name) -> bool {
        self.has_namespace(&name.0)
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => own == namespace,
        }
    }
}

impl<T> Table<T> {
    /// Takes in what a watch tells. `row` is what is kept of an object, `None` if nothing. Namespaces that have
    /// changed are added to `changed`. True when something has.
    pub(super) fn take<K: Resource>(
        &mut self,
        scope: &Scope,
        event: Event<K>,
        row: impl Fn(&K, Option<&T>) -> Option<T>,
        is_same: impl Fn(&T, &T) -> bool,
        changed: &mut BTreeSet<String>,
    ) -> bool {
        match event {
            Event::Init => {
                self.listed.insert(scope.clone(), BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                let name = name_of(&object);
                let listed = self.listed.entry(scope.clone()).or_default();
                listed.insert(name.clone());
                self.set(name, &object, row, is_same, changed)
            }
            Event::Apply(object) => self.set(name_of(&object), &object, row, is_same, changed),
            Event::Delete(object) => self.remove(&name_of(&object), changed),
            Event::InitDone => {
                let is_first = self.synced.insert(scope.clone());
                self.remove_others(scope, changed) || is_first
            }
        }
    }

    fn set<K: Resource>(
        &mut self,
        name: Name,
        object: &K,
        row: impl Fn(&K, Option<&T>) -> Option<T>,
        is_same: impl Fn(&T, &T) -> bool,
        changed: &mut BTreeSet<String>,
    ) -> bool {
        let before = self.rows.get(&name);
        let Some(row) = row(object, before) else {
            return self.remove(&name, changed);
        };
        let is_news = !before.is_some_and(|before| is_same(before, &row));
        if is_news {
            changed.insert(name.0.clone());
        }
        self.rows.insert(name, row);
        is_news
    }

    fn remove(&mut self, name: &Name, changed: &mut BTreeSet<String>) -> bool {
        let is_news = self.rows.remove(name).is_some();
        if is_news {
            changed.insert(name.0.clone());
        }
        is_news
    }

    /// What was not listed is gone: nobody told while the watch was away.
    fn remove_others(&mut self, scope: &Scope, changed: &mut BTreeSet<String>) -> bool {
        let Some(listed) = self.listed.remove(scope) else {
            return false;
        };
        let is_gone = |name: &&Name| scope.has(name) && !listed.contains(*name);
        let gone: Vec<Name> = self.rows.keys().filter(is_gone).cloned().collect();
        for name in &gone {
            self.remove(name, changed);
        }
        !gone.is_empty()
    }

    /// What a watch told is of no use any more: its objects are gone, as is what was known of them. True when
    /// something has changed.
    pub(super) fn forget(&mut self, scope: &Scope, changed: &mut BTreeSet<String>) -> bool {
        self.listed.insert(scope.clone(), BTreeSet::new());
        let was_synced = self.synced.remove(scope);
        self.remove_others(scope, changed) || was_synced
    }

    /// Whether everything was listed once that these watches see.
    pub(super) fn is_synced(&self, scopes: &[Scope]) -> bool {
        scopes.iter().all(|scope| self.synced.contains(scope))
    }

    /// Whether everything in a namespace was listed once.
    pub(super) fn is_listed(&self, namespace: &str) -> bool {
        let mut synced = self.synced.iter();
        synced.any(|scope| scope.has_namespace(namespace))
    }

    /// The rows of a namespace, by name.
    pub(super) fn of(&self, namespace: &str) -> impl Iterator<Item = (&str, &T)> {
        let from = (namespace.to_owned(), String::new());
        let rows = self.rows.range((Bound::Included(from), Bound::Unbounded));
        let own = namespace.to_owned();
        rows.take_while(move |((namespace, _), _)| *namespace == own)
            .map(|((_, name), row)| (name.as_str(), row))
    }

    /// Every row: namespace, name and what is kept.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        let rows = self.rows.iter();
        rows.map(|((namespace, name), row)| (namespace.as_str(), name.as_str(), row))
    }
}

fn name_of(object: &impl Resource) -> Name {
    let metadata = object.meta();
    let [namespace, name] =
        [&metadata.namespace, &metadata.name].map(|text| text.clone().unwrap_or_default());
    (namespace, name)
}
