//! What becomes of the roots, by example and against a model of everybody who has a certificate.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::identity::issuer::pki::{Ca, DAY, now};
use crate::identity::{Life, Offer};

fn follow(roots: &Roots, offer: &Offer, at: SystemTime) -> Following {
    roots.following("example.org", offer.stored(), at).unwrap()
}

#[track_caller]
fn followed(roots: &Roots, offer: &Offer, at: SystemTime) -> Roots {
    let Following::Changed(changed) = follow(roots, offer, at) else {
        panic!("nothing changes");
    };
    assert!(
        matches!(follow(&changed, offer, at), Following::Same),
        "once is enough"
    );
    changed
}

fn begin(offer: &Offer) -> Roots {
    Roots::offered("example.org", offer.stored(), now()).unwrap()
}

fn states(roots: &Roots) -> Vec<RootState> {
    roots.all().iter().map(|root| root.state).collect()
}

fn signers(roots: &Roots) -> Vec<String> {
    let signer = |root: &Root| root.authority.signer().unwrap_or_else(|| "self".to_owned());
    roots.all().iter().map(signer).collect()
}

use RootState::{Issuing, Next, Old};

#[test]
fn an_issuing_certificate_that_was_renewed_is_in_force_at_once() {
    let root = Ca::root("root");
    let roots = begin(&root.issue("one").offer(&root));
    let two = root.issue("two").offer(&root);
    let later = now() + DAY;
    let roots = followed(&roots, &two, later);
    assert_eq!(
        (states(&roots), signers(&roots)),
        (vec![Issuing], vec!["CN=two".to_owned()])
    );
    assert_eq!(roots.issuing().since, now(), "it is the same root");
    let itself = followed(&roots, &root.offer(&root), later);
    assert_eq!(
        signers(&itself),
        ["self"],
        "the root's own key is another one, too"
    );
}

#[test]
fn one_that_has_just_begun_waits_for_slow_clocks_if_it_can() {
    let root = Ca::root("root");
    let roots = begin(&root.issue("one").offer(&root));
    let young = root.issue_with("young", rcgen::KeyPair::generate().unwrap(), |params| {
        params.not_before = now().into();
    });
    let young = young.offer(&root);
    let at = now() + BACKDATED;
    let Following::Later(later) = follow(&roots, &young, now()) else {
        panic!("it is in force at once");
    };
    assert_eq!(later, at);
    followed(&roots, &young, at);
    // The first has nobody to wait with, and who ends before cannot wait.
    assert_eq!(states(&begin(&young)), [Issuing]);
    let short = root.issue_with("short", rcgen::KeyPair::generate().unwrap(), |params| {
        params.not_after = at.into();
    });
    followed(&begin(&short.offer(&root)), &young, now());
}

#[test]
fn another_root_is_next_and_takes_the_place_of_one_that_never_signed() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::root);
    let roots = begin(&a.offer(&a));
    let one = followed(&roots, &b.issue("b1").offer(&b), now());
    assert_eq!(
        (states(&one), signers(&one)),
        (vec![Issuing, Next], vec!["self".into(), "CN=b1".into()])
    );
    let later = now() + DAY;
    let two = followed(&one, &b.issue("b2").offer(&b), later);
    assert_eq!(signers(&two)[1], "CN=b2");
    assert_eq!(two.all()[1].since, now(), "everybody is told of the root already");
    let three = followed(&two, &c.offer(&c), later);
    assert_eq!((three.all().len(), three.all()[1].since), (2, later));
    assert_ne!(three.all()[1].id, two.all()[1].id);
    let back = followed(&three, &a.offer(&a), later);
    assert_eq!(states(&back), [Issuing], "nobody offers the other one any more");
}

#[test]
fn a_mesh_that_made_its_own_moves_over() {
    let root = Ca::root("root");
    let roots = Roots::generate("example.org", now()).unwrap();
    let roots = followed(&roots, &root.issue("issuing").offer(&root), now());
    assert_eq!(
        (states(&roots), signers(&roots)[0].as_str()),
        (vec![Issuing, Next], "self")
    );
    let due = roots.due(now() + EVERYONE_KNOWS);
    assert_eq!(due, Some(Due::Switch(roots.all()[1].id)));
}

#[test]
fn an_old_root_that_is_offered_again_is_next_and_old_again_when_it_is_not() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::root);
    let roots = followed(&begin(&a.offer(&a)), &b.offer(&b), now());
    let roots = roots.switched(now()).unwrap();
    let later = now() + DAY;
    let back = followed(&roots, &a.offer(&a), later);
    assert_eq!((states(&back), back.all()[0].since), (vec![Next, Issuing], later));
    let text = back.to_json("example.org").unwrap();
    let back = Roots::from_json("example.org", &text).unwrap();
    let away = followed(&back, &c.offer(&c), later + DAY);
    assert_eq!(
        states(&away),
        [Old, Issuing, Next],
        "it has signed, and is trusted still"
    );
    assert_eq!(away.all()[0].since, later + DAY);
    let there = back.switched(later).unwrap();
    assert_eq!(states(&there), [Issuing, Old]);
    assert!(!there.to_json("example.org").unwrap().contains("hasSigned"));
}

#[test]
fn there_is_a_root_too_many() {
    let all = ["a", "b", "c", "d", "e"].map(Ca::root);
    let mut roots = begin(&all[0].offer(&all[0]));
    for one in &all[1..4] {
        roots = followed(&roots, &one.offer(one), now()).switched(now()).unwrap();
    }
    let error = roots.following("example.org", all[4].offer(&all[4]).stored(), now());
    assert!(matches!(error, Err(RootsError::TooMany(5))), "{error:?}");
    let roots = roots.without(|root| root.id == roots.all()[0].id).unwrap();
    followed(&roots, &all[4].offer(&all[4]), now());
}

#[test]
fn steps_take_place_when_everybody_must_know() {
    let [a, b] = ["a", "b"].map(Ca::root);
    let just_before = now() + EVERYONE_KNOWS - Duration::from_secs(1);
    let roots = begin(&a.offer(&a));
    assert_eq!(roots.due(now() + 20 * DAY), None);
    let roots = followed(&roots, &b.offer(&b), now());
    let [old, new] = [0, 1].map(|at| roots.all()[at].id);
    assert_eq!(roots.due(just_before), None);
    assert_eq!(roots.due(now() + EVERYONE_KNOWS), Some(Due::Switch(new)));
    assert_eq!(
        roots.due(now() + 30 * DAY),
        None,
        "nothing that it would sign is good"
    );
    let switched = roots.switched(now()).unwrap();
    assert_eq!(switched.due(just_before), None);
    assert_eq!(
        switched.due(now() + EVERYONE_KNOWS),
        Some(Due::Drop([old].into()))
    );
    let text = switched.to_json("example.org").unwrap();
    assert!(
        !text.contains("chain") && !text.contains("hasSigned"),
        "older replicas read it"
    );
}

#[test]
fn what_is_signed_ends_with_who_signs_it() {
    let root = Ca::root("root");
    let short = root.issue_with("short", rcgen::KeyPair::generate().unwrap(), |params| {
        params.not_after = (now() + Duration::from_secs(3600)).into();
    });
    let roots = begin(&short.offer(&root));
    let request = rcgen::CertificateParams::default();
    let request = request.serialize_request(&short.key).unwrap();
    let request = crate::identity::CertificateRequest::read(request.der()).unwrap();
    let authority = &roots.issuing().authority;
    let sign = |at| authority.sign(&request, &"shop/users".parse().unwrap(), at);
    let issued = sign(now()).unwrap();
    assert_eq!(issued.not_after, now() + Duration::from_secs(3600));
    assert_eq!(Life::of(&issued.certificate).unwrap().until, issued.not_after);
    assert_eq!(issued.chain, [short.certificate.der().to_vec()]);
    let told = sign(now() + Duration::from_secs(3600)).unwrap_err().to_string();
    assert_eq!(told, "what signs certificates has expired: CN=short");
    // The control plane itself goes over to another root before that.
    let other = Ca::root("other");
    let two = followed(&roots, &other.offer(&other), now());
    assert_eq!(two.vouching(now()).id, two.all()[1].id);
    assert_eq!(
        roots.vouching(now()).id,
        roots.all()[0].id,
        "there is no other one"
    );
}

/// Three roots, each of which has two issuing certificates.
static OFFERS: LazyLock<Vec<Offer>> = LazyLock::new(|| {
    let offers = |name: &str| {
        let root = Ca::root_with(name, |params| params.not_after = (now() + 10_000 * DAY).into());
        ["one", "two"].map(|name| {
            let key = rcgen::KeyPair::generate().unwrap();
            root.issue_with(name, key, |params| {
                params.not_after = (now() + 10_000 * DAY).into()
            })
            .offer(&root)
        })
    };
    ["a", "b", "c"].into_iter().flat_map(offers).collect()
});

#[derive(Clone, Debug)]
enum Event {
    Offered(usize),
    Hours(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6_usize).prop_map(Event::Offered),
        (1..30_u64).prop_map(Event::Hours),
        (1..30_u64).prop_map(Event::Hours),
    ]
}

/// Who has a certificate: the root that signed it, the roots that it came with, and until when it is good.
#[derive(Debug)]
struct Holder {
    root: RootId,
    knows: Vec<RootId>,
    until: SystemTime,
}

impl Holder {
    fn new(roots: &Roots, at: SystemTime) -> Self {
        Self {
            root: roots.issuing().id,
            knows: roots.all().iter().map(|root| root.id).collect(),
            until: at + LIFETIME,
        }
    }
}

/// Whoever has a good certificate is taken by everybody, and takes everybody.
fn check(roots: &Roots, holders: &[Holder]) {
    for one in holders {
        assert!(roots.by_id(one.root).is_some(), "{one:?} is cut off");
        for other in holders {
            assert!(one.knows.contains(&other.root), "{one:?} does not take {other:?}");
        }
    }
    let states = roots
        .all()
        .iter()
        .fold(BTreeMap::<_, usize>::new(), |mut states, root| {
            *states.entry(root.state.as_str()).or_default() += 1;
            states
        });
    assert_eq!(states["Issuing"], 1);
    assert!(states.get("Next").is_none_or(|next| *next == 1) && roots.all().len() <= MOST_ROOTS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nobody is pushed anything here: each knows what came with its certificate, which is the least that it can.
    #[test]
    fn whatever_is_offered_and_whenever_nobody_is_cut_off(events in prop::collection::vec(event(), 1..60)) {
        let (mut roots, mut at) = (begin(&OFFERS[0]), now());
        let mut holders = vec![Holder::new(&roots, at)];
        for event in events {
            match event {
                Event::Offered(which) => {
                    let offer = &OFFERS[which];
                    match roots.following("example.org", offer.stored(), at) {
                        Ok(Following::Changed(changed)) => roots = changed,
                        Ok(Following::Same | Following::Later(_)) => {}
                        Err(error) => panic!("three roots are not too many: {error}"),
                    }
                    let is_same = matches!(follow(&roots, offer, at), Following::Same);
                    let id = begin(offer).issuing().id;
                    let state = roots.by_id(id).map(|root| root.state);
                    prop_assert!(is_same && matches!(state, Some(Issuing | Next)));
                }
                Event::Hours(hours) => {
                    // It is looked every hour, and somebody gets a certificate as often.
                    for _ in 0..hours {
                        at += Duration::from_secs(3600);
                        match roots.due(at) {
                            Some(Due::Switch(_)) => roots = roots.switched(at).unwrap(),
                            Some(Due::Drop(old)) => roots = roots.without(|root| old.contains(&root.id)).unwrap(),
                            None => {}
                        }
                        holders.retain(|holder| holder.until > at);
                        holders.push(Holder::new(&roots, at));
                    }
                }
            }
            check(&roots, &holders);
        }
        at += 3 * DAY;
        for _ in 0..2 {
            match roots.due(at) {
                Some(Due::Switch(_)) => roots = roots.switched(at).unwrap(),
                Some(Due::Drop(old)) => roots = roots.without(|root| old.contains(&root.id)).unwrap(),
                None => {}
            }
            at += 3 * DAY;
        }
        prop_assert_eq!(states(&roots), [Issuing], "it comes to an end");
    }
}
