//! What is known of pods without a sidecar, and of those who ask for one in words that nobody understands: decisions
//! only.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::{ObjectMeta, PartialObjectMeta};

use crate::inject::INJECT;
use crate::kubernetes::table::{Event, Scope, Table};

/// Pods without a sidecar, and the namespaces that ask for some.
#[derive(Debug)]
pub(super) struct Bare {
    excluded: BTreeSet<String>,
    scopes: Vec<Scope>,
    /// Whether namespaces are told of.
    reads_labels: bool,
    asking: Table<Asking>,
    pods: Table<Row>,
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    uid: String,
    /// What it says itself.
    wish: Option<bool>,
    /// What it says that means nothing.
    odd: Option<String>,
}

/// A namespace that says something of sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asking {
    uid: String,
    /// What that is, if it is not `enabled`.
    odd: Option<String>,
}

/// Somebody without the sidecars that are to be had there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Without {
    pub(super) kind: &'static str,
    /// Empty of a namespace.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) why: Why,
}

/// Why there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody answered when the pod was made, or it is older than the wish.
    Missed,
    /// The wish is this word.
    Odd(String),
}

impl Bare {
    /// Nothing is known yet; pods are watched in these scopes.
    pub(super) fn new(excluded: BTreeSet<String>, scopes: Vec<Scope>, reads_labels: bool) -> Self {
        Self {
            excluded,
            scopes,
            reads_labels,
            asking: Table::default(),
            pods: Table::default(),
        }
    }

    /// Takes in what is told of namespaces that ask for sidecars.
    pub(super) fn take_namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        let mut changed = BTreeSet::new();
        self.asking.take(
            &Scope::All,
            event,
            |namespace, _| asking(&namespace.metadata),
            PartialEq::eq,
            &mut changed,
        );
    }

    /// Takes in what is told of pods without a sidecar.
    pub(super) fn take_pod(&mut self, scope: &Scope, event: Event<PartialObjectMeta<Pod>>) {
        let mut changed = BTreeSet::new();
        self.pods.take(
            scope,
            event,
            |pod, _| row(&pod.metadata),
            PartialEq::eq,
            &mut changed,
        );
    }

    /// Whether all is known that there is.
    pub(super) fn is_known(&self) -> bool {
        (!self.reads_labels || self.asking.is_synced(&[Scope::All])) && self.pods.is_synced(&self.scopes)
    }

    /// Those that are to have one, by namespace and name.
    pub(super) fn missed(&self) -> Vec<Without> {
        let asking = self.asking.all().filter(|(.., asking)| asking.odd.is_none());
        let asking: BTreeSet<&str> = asking.map(|(_, name, _)| name).collect();
        let is_missed = |(namespace, _, row): &(&str, &str, &Row)| {
            !self.excluded.contains(*namespace) && row.wish.unwrap_or_else(|| asking.contains(namespace))
        };
        let missed = self.pods.all().filter(is_missed);
        missed
            .map(|(namespace, name, row)| row.without(namespace, name, Why::Missed))
            .collect()
    }

    /// Those that ask in words that mean nothing.
    pub(super) fn odd(&self) -> Vec<Without> {
        let namespaces = self.asking.all().filter_map(|(_, name, asking)| {
            Some(Without {
                kind: "Namespace",
                namespace: String::new(),
                name: name.to_owned(),
                uid: asking.uid.clone(),
                why: Why::Odd(asking.odd.clone()?),
            })
        });
        let pods = self.pods.all().filter_map(|(namespace, name, row)| {
            let odd = row.odd.clone().filter(|_| !self.excluded.contains(namespace))?;
            Some(row.without(namespace, name, Why::Odd(odd)))
        });
        namespaces.chain(pods).collect()
    }
}

impl Row {
    fn without(&self, namespace: &str, name: &str, why: Why) -> Without {
        Without {
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.uid.clone(),
            why,
        }
    }
}

/// `None` of one that says nothing, or that it wants none.
fn asking(metadata: &ObjectMeta) -> Option<Asking> {
    let word = metadata.labels.as_ref()?.get(INJECT)?;
    (word != "disabled").then(|| Asking {
        uid: metadata.uid.clone().unwrap_or_default(),
        odd: odd(word),
    })
}

fn odd(word: &str) -> Option<String> {
    let is_odd = !["enabled", "disabled"].contains(&word);
    is_odd.then(|| word.chars().take(SHOWN_MAX).collect())
}

/// `None` of one that goes away: whoever comes in its place is asked about.
fn row(metadata: &ObjectMeta) -> Option<Row> {
    if metadata.deletion_timestamp.is_some() {
        return None;
    }
    let said = [&metadata.labels, &metadata.annotations];
    let said = said.into_iter().flatten().filter_map(|said| said.get(INJECT));
    let odd = said.clone().find_map(|word| odd(word));
    // As the webhook has it: of two words a no wins.
    let wish = said
        .map(|word| word == "enabled")
        .reduce(|one, other| one && other);
    Some(Row {
        uid: metadata.uid.clone().unwrap_or_default(),
        wish,
        odd,
    })
}

/// Characters of a word that a message repeats.
const SHOWN_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(namespace: &str, name: &str, more: &Value) -> PartialObjectMeta<Pod> {
        let mut metadata = json!({"namespace": namespace, "name": name, "uid": format!("uid-{name}")});
        json_patch::merge(&mut metadata, more);
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn namespace(name: &str) -> PartialObjectMeta<Namespace> {
        labelled(name, "enabled")
    }

    fn labelled(name: &str, word: &str) -> PartialObjectMeta<Namespace> {
        let labels = json!({"jitney.dev/inject": word});
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "labels": labels}})).unwrap()
    }

    /// All is listed: nothing yet.
    fn known(reads_labels: bool) -> Bare {
        let excluded = BTreeSet::from(["kube-system".to_owned()]);
        let mut bare = Bare::new(excluded, vec![Scope::All], reads_labels);
        for event in [Event::Init, Event::InitDone] {
            bare.take_pod(&Scope::All, event);
        }
        for event in [Event::Init, Event::InitDone] {
            bare.take_namespace(event);
        }
        bare
    }

    #[track_caller]
    fn check(bare: &Bare, expected: &[&str]) {
        let missed = bare.missed();
        let names: Vec<&str> = missed.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, expected);
    }

    fn says(field: &str, word: &str) -> Value {
        json!({field: {"jitney.dev/inject": word}})
    }

    #[test]
    fn who_is_to_have_one_is_missed() {
        let mut bare = known(true);
        for (in_namespace, name, more) in [
            ("asks", "a-plain", json!({})),
            ("asks", "b-disabled", says("annotations", "disabled")),
            (
                "asks",
                "c-leaving",
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            ),
            ("other", "d-plain", json!({})),
            ("other", "e-enabled", says("labels", "enabled")),
            ("kube-system", "f-enabled", says("labels", "enabled")),
        ] {
            bare.take_pod(&Scope::All, Event::Apply(pod(in_namespace, name, &more)));
        }
        check(&bare, &["e-enabled"]);
        bare.take_namespace(Event::Apply(namespace("asks")));
        check(&bare, &["a-plain", "e-enabled"]);

        let mut both = says("labels", "enabled");
        json_patch::merge(&mut both, &says("annotations", "disabled"));
        bare.take_pod(&Scope::All, Event::Apply(pod("other", "e-enabled", &both)));
        bare.take_pod(&Scope::All, Event::Delete(pod("asks", "a-plain", &json!({}))));
        check(&bare, &[]);
    }

    #[test]
    fn who_asks_in_other_words_is_told_of() {
        let mut bare = known(true);
        for (in_namespace, name, word) in [
            ("other", "a", "true"),
            ("other", "b", "disabled"),
            ("kube-system", "c", "true"),
        ] {
            let pod = pod(in_namespace, name, &says("labels", word));
            bare.take_pod(&Scope::All, Event::Apply(pod));
        }
        for (name, word) in [("asks", "enabled"), ("istio", "true"), ("none", "disabled")] {
            bare.take_namespace(Event::Apply(labelled(name, word)));
        }
        bare.take_pod(&Scope::All, Event::Apply(pod("istio", "d", &json!({}))));
        check(&bare, &[]);
        let odd = bare.odd();
        let told = odd.iter().map(|one| (one.kind, &*one.name, one.why.clone()));
        let word = || Why::Odd("true".to_owned());
        assert_eq!(
            told.collect::<Vec<_>>(),
            [("Namespace", "istio", word()), ("Pod", "a", word())]
        );
        bare.take_namespace(Event::Apply(namespace("istio")));
        assert_eq!(bare.odd().len(), 1);
        check(&bare, &["d"]);
    }

    #[test]
    fn nothing_is_said_before_all_is_known() {
        let mut bare = Bare::new(BTreeSet::new(), vec![Scope::All], true);
        bare.take_pod(&Scope::All, Event::Init);
        bare.take_pod(&Scope::All, Event::InitApply(pod("asks", "a", &json!({}))));
        bare.take_pod(&Scope::All, Event::InitDone);
        assert!(!bare.is_known());
        bare.take_namespace(Event::Init);
        bare.take_namespace(Event::InitApply(namespace("asks")));
        bare.take_namespace(Event::InitDone);
        assert!(bare.is_known());
        check(&bare, &["a"]);

        // Where labels of namespaces may not be read nobody waits for them.
        let mut bare = Bare::new(BTreeSet::new(), vec![Scope::Namespace("asks".into())], false);
        let scope = Scope::Namespace("asks".into());
        for event in [Event::Init, Event::InitDone] {
            bare.take_pod(&scope, event);
        }
        assert!(bare.is_known());
    }
}
