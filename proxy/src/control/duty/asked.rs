//! What is asked for by name, beside what comes unasked: all that is needed for calls to the backends that
//! listeners and policies lead to. It follows what changes, and is not made anew.

use std::collections::BTreeSet;

use jitney_api::Workload;
use jitney_api::push::{Assembly, Kind, Reversible};

/// Names and collections, by type.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Invariant: what is reached and, where calls may go to any backend, the policies of all that are known.
    names: Reversible<(Kind, String), ()>,
    /// What listeners lead to, and policies that name backends.
    reached: Reversible<(Kind, String), ()>,
    /// Calls may go to any backend.
    any_backend: bool,
    /// Whose sidecar it is whose listeners these are.
    workload: Option<Workload>,
}

/// What is to be asked for from now on, and what no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) more: Vec<(Kind, String)>,
    pub(super) less: Vec<(Kind, String)>,
}

impl Asked {
    pub(super) fn new(any_backend: bool) -> Self {
        Self {
            any_backend,
            ..Self::default()
        }
    }

    /// Each of them.
    pub(super) fn names(&self) -> impl Iterator<Item = &(Kind, String)> {
        self.names.keys()
    }

    /// Whether something of a type is.
    pub(super) fn has(&self, kind: Kind) -> bool {
        let mut from = self.names.range((kind, String::new())..);
        from.next().is_some_and(|((of, _), ())| *of == kind)
    }

    pub(super) fn mark(&mut self) {
        self.names.mark();
        self.reached.mark();
    }

    /// Asks for what was asked for at the mark.
    pub(super) fn go_back(&mut self) -> Difference {
        self.reached.go_back();
        self.names.go_back();
        let mut difference = Difference::default();
        for (key, before) in self.names.changed() {
            match (before, self.names.get(key)) {
                (None, Some(())) => difference.more.push(key.clone()),
                (Some(()), None) => difference.less.push(key.clone()),
                _ => {}
            }
        }
        difference
    }

    /// Follows what has changed in an assembly since it was marked.
    pub(super) fn follow(&mut self, assembly: &Assembly, workload: Option<&Workload>) -> Difference {
        let is_reached = |backend: &str| self.reached.contains_key(&(Kind::Backend, backend.to_owned()));
        if self.workload.as_ref() != workload || assembly.leads_elsewhere(is_reached) {
            self.workload = workload.cloned();
            self.reach(reached(assembly, workload));
        }
        let mut touched: BTreeSet<(Kind, String)> =
            self.reached.changed().map(|(key, _)| key.clone()).collect();
        if self.any_backend {
            touched.extend(assembly.changed_for_callers().flat_map(needs));
        }
        let mut difference = Difference::default();
        for key in touched {
            let is_wanted = self.reached.contains_key(&key)
                || self.any_backend && policy_of(&key).is_some_and(|policy| assembly.is_for_callers(policy));
            if is_wanted {
                if self.names.set(key.clone(), ()) {
                    difference.more.push(key);
                }
            } else if self.names.remove(&key) {
                difference.less.push(key);
            }
        }
        difference
    }

    fn reach(&mut self, reached: BTreeSet<(Kind, String)>) {
        let gone = self.reached.keys().filter(|key| !reached.contains(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.reached.remove(&key);
        }
        for key in reached {
            self.reached.set(key, ());
        }
    }
}

/// What listeners need, and what policies lead to from there.
fn reached(assembly: &Assembly, workload: Option<&Workload>) -> BTreeSet<(Kind, String)> {
    let mut reached = BTreeSet::new();
    for listener in assembly.listeners() {
        let needs = assembly.wanted(&listener.backend).into_iter();
        // Its own addresses are where its callers find it.
        let is_local = listener.local.is_some();
        reached.extend(needs.filter(|(kind, _)| !is_local || *kind != Kind::Endpoint));
    }
    if let Some(workload) = workload {
        let backends = assembly.listeners().map(|listener| listener.backend.as_str());
        let more = assembly.led_to(workload, backends);
        reached.extend(more.iter().flat_map(|backend| assembly.wanted(backend)));
    }
    reached
}

/// What a policy comes as.
fn needs(policy: &str) -> [(Kind, String); 2] {
    [
        (Kind::Route, format!("{policy}/*")),
        (Kind::Policy, policy.to_owned()),
    ]
}

/// The policy that one of those is asked for.
fn policy_of((kind, name): &(Kind, String)) -> Option<&str> {
    match kind {
        Kind::Policy => Some(name),
        Kind::Route => name.strip_suffix("/*"),
        Kind::TrustBundle | Kind::Runtime | Kind::Sidecar | Kind::Backend | Kind::Endpoint => None,
    }
}
