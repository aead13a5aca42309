//! Random scripts: whatever happens in whatever order, the sidecar ends up with what it is to have,
//! and no rule is broken on the way.

use std::collections::BTreeSet;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Set(Kind, usize, u8),
    Bad(Kind, usize),
    Delete(Kind, usize),
    Subscribe(Kind, usize),
    Unsubscribe(Kind, usize),
    Up,
    Down,
    Repeat(usize),
    Reconnect,
}

const KINDS: [Kind; 2] = [Kind::Backend, Kind::Policy];
const NAMES: [&str; 5] = ["shop/a", "shop/b", "shop/c/1", "c", "others/d"];
const PATTERNS: [&str; 8] = [
    "shop/a", "shop/b", "c", "others/d", "shop/*", "shop/c/*", "others/*", "*",
];

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(KINDS.to_vec());
    prop_oneof![
        4 => (kind(), 0..NAMES.len(), 0..4_u8).prop_map(|(kind, name, n)| Step::Set(kind, name, n)),
        1 => (kind(), 0..NAMES.len()).prop_map(|(kind, name)| Step::Bad(kind, name)),
        2 => (kind(), 0..NAMES.len()).prop_map(|(kind, name)| Step::Delete(kind, name)),
        3 => (kind(), 0..PATTERNS.len()).prop_map(|(kind, name)| Step::Subscribe(kind, name)),
        2 => (kind(), 0..PATTERNS.len()).prop_map(|(kind, name)| Step::Unsubscribe(kind, name)),
        8 => Just(Step::Up),
        8 => Just(Step::Down),
        1 => any::<usize>().prop_map(Step::Repeat),
        1 => Just(Step::Reconnect),
    ]
}

/// What the sidecar has asked for, kept apart from both ends.
#[derive(Debug, Default)]
struct Wanted(BTreeSet<(Kind, &'static str)>);

impl Wanted {
    fn cover(&self, kind: Kind, name: &str) -> bool {
        let mut wanted = self.0.iter().filter(|(of, _)| *of == kind);
        wanted.any(|(_, pattern)| match pattern.strip_suffix('*') {
            Some("") => !name.starts_with("others/"),
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        })
    }
}

fn run(pair: &mut Pair, wanted: &mut Wanted, step: &Step) {
    match *step {
        Step::Set(kind, name, n) => pair.set(kind, NAMES[name], &n.to_string()),
        Step::Bad(kind, name) => pair.set(kind, NAMES[name], "bad"),
        Step::Delete(kind, name) => pair.delete(kind, NAMES[name]),
        Step::Subscribe(kind, name) => {
            wanted.0.insert((kind, PATTERNS[name]));
            pair.subscribe(kind, PATTERNS[name]);
        }
        Step::Unsubscribe(kind, name) => {
            wanted.0.remove(&(kind, PATTERNS[name]));
            pair.unsubscribe(kind, PATTERNS[name]);
        }
        Step::Up => {
            pair.read_up();
        }
        Step::Down => pair.read_down(),
        Step::Repeat(at) => repeat(pair, at),
        Step::Reconnect => pair.reconnect(),
    }
    pair.speak();
}

/// An answer that comes a second time.
fn repeat(pair: &mut Pair, at: usize) {
    let said = pair.said.iter();
    let answers: Vec<_> = said.filter(|said| !said.response_nonce.is_empty()).collect();
    if answers.is_empty() {
        return;
    }
    let again = answers[at % answers.len()].clone();
    if !pair.up.contains(&again) {
        pair.up.push_back(again);
    }
}

fn check(pair: &Pair, wanted: &Wanted) {
    for kind in KINDS {
        let under_way = pair.down.iter();
        let under_way = under_way.filter(|response| response.type_url == kind.type_url());
        assert!(under_way.count() <= 1, "one response of a type at a time");
    }
    let bound = KINDS.len() * (2 * NAMES.len() + 2 * PATTERNS.len());
    assert!(pair.feed.size() <= bound, "{} names kept", pair.feed.size());
    for (kind, name) in pair.runs.keys() {
        // Of everything, only the control plane knows what it is, and takes away the rest.
        let wants = wanted.cover(*kind, name) || wanted.0.contains(&(*kind, "*"));
        assert!(wants, "it runs {name}, which it does not want");
    }
}

fn check_end(pair: &Pair, wanted: &Wanted) {
    for kind in KINDS {
        for name in NAMES {
            let there = pair.store.get(kind, name);
            let there = there.filter(|_| wanted.cover(kind, name));
            let there = there.map(|held| String::from_utf8(held.content.to_vec()).expect("text"));
            if there.as_deref() != Some("bad") {
                let runs = pair.runs.get(&(kind, name.to_owned()));
                assert_eq!(runs, there.as_ref(), "{kind} {name}");
            }
        }
    }
    assert!(pair.feed.is_settled());
}

/// Deletes the backends that no policy refers to.
fn sweep(pair: &mut Pair) {
    for name in NAMES {
        let mut resources = pair.store.0.iter();
        if !resources.any(|((kind, _), held)| *kind == Kind::Policy && held.content == name) {
            pair.delete(Kind::Backend, name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_sidecar_ends_up_with_what_it_is_to_have(
        script in prop::collection::vec(step(), 0..60)
    ) {
        let (mut pair, mut wanted) = (Pair::new(), Wanted::default());
        for step in &script {
            run(&mut pair, &mut wanted, step);
            check(&pair, &wanted);
        }
        pair.settle();
        check_end(&pair, &wanted);
        pair.reconnect();
        pair.settle();
        check_end(&pair, &wanted);
        let bad = pair.store.0.values().any(|held| held.content == "bad");
        prop_assert!(bad || pair.resources == 0, "{} resources resent", pair.resources);
    }

    /// A policy's content is the name of the backend that it refers to. The store is whole at every
    /// moment, and so is what the sidecar runs.
    #[test]
    fn nothing_in_force_refers_to_what_is_not(
        script in prop::collection::vec((0..3_usize, 0..3_usize, any::<[bool; 4]>()), 1..40)
    ) {
        let mut pair = Pair::new();
        pair.subscribe(Kind::Backend, "*");
        pair.subscribe(Kind::Policy, "*");
        pair.speak();
        for (policy, backend, moves) in script {
            pair.set(Kind::Backend, NAMES[backend], "1");
            pair.set(Kind::Policy, NAMES[policy], NAMES[backend]);
            sweep(&mut pair);
            pair.speak();
            for up in moves {
                if up {
                    pair.read_up();
                } else {
                    pair.read_down();
                }
                pair.speak();
                for ((kind, name), refers) in &pair.runs {
                    let target = (Kind::Backend, refers.clone());
                    let there = *kind != Kind::Policy || pair.runs.contains_key(&target);
                    prop_assert!(there, "policy {name} refers to {refers}, which is gone");
                }
            }
        }
        pair.settle();
        prop_assert_eq!(pair.rejections, 0);
        prop_assert_eq!(pair.runs.len(), pair.store.0.len());
    }
}
