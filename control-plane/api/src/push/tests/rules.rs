//! The rules of the protocol, one by one.

use super::*;

fn applied(answers: &[Answer]) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    for answer in answers {
        if let Answer::Applied { kind, applied, .. } = answer {
            all.extend(applied.iter().map(|(name, _)| (*kind, name.to_string())));
        }
    }
    all
}

#[test]
fn what_is_wanted_arrives_and_is_acknowledged_once_it_runs() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "1");
    pair.set(Kind::Policy, "b", "1");
    pair.subscribe(Kind::Policy, "a");
    pair.speak();
    pair.read_up();
    pair.speak();
    assert!(!pair.feed.is_settled(), "sent is not applied");
    let answers = pair.settle();
    assert_eq!(applied(&answers), [(Kind::Policy, "a".into())]);
    assert!(pair.feed.is_settled());
    assert_eq!(pair.runs.len(), 1, "b was not asked for");
}

#[test]
fn only_the_first_request_of_a_stream_names_the_node() {
    let mut pair = Pair::new();
    pair.subscribe(Kind::Policy, "a");
    pair.subscribe(Kind::Backend, "b");
    pair.settle();
    let said = pair.said.iter();
    let named: Vec<bool> = said.map(|request| request.node.is_some()).collect();
    assert_eq!(named, [true, false, false, false]);
}

#[test]
fn what_does_not_exist_is_said_to_be_gone() {
    let mut pair = Pair::new();
    pair.subscribe(Kind::Backend, "nobody");
    pair.speak();
    pair.read_up();
    pair.speak();
    assert_eq!(pair.down[0].removed_resources, ["nobody"]);
    pair.settle();
    pair.set(Kind::Backend, "nobody", "now somebody");
    pair.settle();
    assert_eq!(pair.runs[&(Kind::Backend, "nobody".into())], "now somebody");
}

#[test]
fn who_asks_for_everything_is_told_when_there_is_nothing_more() {
    let mut pair = Pair::new();
    pair.subscribe(Kind::Policy, "*");
    pair.speak();
    pair.read_up();
    pair.speak();
    let [response] = &pair.down.make_contiguous()[..] else {
        panic!("{:?}", pair.down);
    };
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    pair.set(Kind::Policy, "a", "1");
    pair.settle();
    pair.reconnect();
    pair.speak();
    pair.read_up();
    pair.speak();
    assert_eq!((pair.down.len(), pair.resources), (1, 0), "nothing is resent");
    pair.settle();
    assert!(pair.feed.is_settled());
}

#[test]
fn who_asks_for_a_collection_is_answered_even_if_it_is_empty() {
    let mut pair = Pair::new();
    pair.subscribe(Kind::Endpoint, "shop/users/*");
    pair.settle();
    pair.subscribe(Kind::Endpoint, "shop/orders/*");
    pair.speak();
    pair.read_up();
    pair.speak();
    assert_eq!(pair.down.len(), 1, "each time");
    pair.settle();
}

#[test]
fn a_slow_sidecar_gets_the_latest_and_nothing_in_between() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "0");
    pair.subscribe(Kind::Policy, "a");
    pair.speak();
    pair.read_up();
    for n in 1..=1000 {
        pair.set(Kind::Policy, "a", &n.to_string());
        pair.speak();
        assert!(pair.down.len() <= 1, "one response under way");
        assert!(pair.feed.size() <= 3);
    }
    pair.settle();
    assert_eq!(pair.runs[&(Kind::Policy, "a".into())], "1000");
    assert_eq!(pair.resources, 2);
}

#[test]
fn a_rejected_resource_keeps_its_last_good_version_and_the_rest_is_applied() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "1");
    pair.subscribe(Kind::Policy, "*");
    pair.settle();
    pair.set(Kind::Policy, "a", "bad");
    pair.set(Kind::Policy, "b", "1");
    let answers = pair.settle();
    let Some(Answer::Applied {
        applied, rejected, ..
    }) = answers.last()
    else {
        panic!("{answers:?}");
    };
    assert_eq!(applied.len(), 1);
    assert_eq!(*rejected[0].name, *"a");
    assert_eq!(rejected[0].version, Some(held("bad").version));
    assert_eq!(rejected[0].field, "spec.size");
    assert_eq!(rejected[0].reason, "found 0, expected 1 to 65536");
    assert_eq!(pair.runs[&(Kind::Policy, "a".into())], "1");
    assert_eq!(pair.runs[&(Kind::Policy, "b".into())], "1");
    let sent = pair.resources;
    pair.settle();
    assert_eq!(pair.resources, sent, "the same is not tried again");
    pair.set(Kind::Policy, "a", "2");
    pair.settle();
    assert_eq!(pair.runs[&(Kind::Policy, "a".into())], "2");
}

#[test]
fn a_rejection_without_details_is_one_of_everything() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "1");
    pair.set(Kind::Policy, "b", "1");
    pair.subscribe(Kind::Policy, "*");
    pair.speak();
    pair.read_up();
    pair.speak();
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Policy.type_url().into(),
        response_nonce: pair.down[0].nonce.clone(),
        error_detail: Some(ads::Status {
            message: "no room".into(),
            ..ads::Status::default()
        }),
        ..DeltaDiscoveryRequest::default()
    };
    let answer = pair.feed.request(&request, &pair.store).expect("in bounds");
    let Answer::Applied {
        applied, rejected, ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert!(applied.is_empty());
    let reasons: Vec<&str> = rejected.iter().map(|nack| nack.reason.as_str()).collect();
    assert_eq!(reasons, ["no room", "no room"]);
}

#[test]
fn a_stale_nonce_says_nothing() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "1");
    pair.subscribe(Kind::Policy, "a");
    pair.settle();
    let old = pair.said.last().expect("an answer").clone();
    pair.set(Kind::Policy, "a", "2");
    pair.speak();
    let answer = pair.feed.request(&old, &pair.store).expect("in bounds");
    assert_eq!(answer, Answer::None);
    assert!(
        !pair.feed.is_settled(),
        "the second version is not acknowledged yet"
    );
}

#[test]
fn a_new_stream_resends_nothing_that_did_not_change() {
    let mut pair = Pair::new();
    for n in 0..50 {
        pair.set(Kind::Endpoint, &format!("shop/users/{n}"), "1");
    }
    pair.subscribe(Kind::Endpoint, "shop/users/*");
    pair.settle();
    pair.reconnect();
    pair.delete(Kind::Endpoint, "shop/users/7");
    pair.set(Kind::Endpoint, "shop/users/8", "2");
    pair.settle();
    assert_eq!(pair.resources, 1);
    assert_eq!(pair.runs.len(), 49);
}

#[test]
fn what_is_dropped_is_forgotten_and_what_is_wanted_again_is_sent_again() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "a", "1");
    pair.subscribe(Kind::Policy, "a");
    pair.settle();
    pair.unsubscribe(Kind::Policy, "a");
    pair.settle();
    assert_eq!(pair.feed.size(), 0);
    pair.set(Kind::Policy, "a", "2");
    pair.settle();
    assert!(pair.runs.is_empty());
    pair.subscribe(Kind::Policy, "a");
    pair.settle();
    pair.subscribe(Kind::Policy, "a");
    pair.settle();
    assert_eq!(pair.resources, 3);
}

#[test]
fn a_collection_has_what_is_below_its_name_and_nothing_else() {
    let mut pair = Pair::new();
    for name in ["shop/users/1", "shop/users2/1", "shop/users", "shop/users/zone/1"] {
        pair.set(Kind::Endpoint, name, "1");
    }
    pair.subscribe(Kind::Endpoint, "shop/users/*");
    pair.settle();
    let runs: Vec<&str> = pair.runs.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(runs, ["shop/users/1", "shop/users/zone/1"]);
    pair.set(Kind::Endpoint, "shop/users/2", "1");
    pair.set(Kind::Endpoint, "shop/users2/2", "1");
    pair.settle();
    assert_eq!(pair.runs.len(), 3);
}

#[test]
fn what_others_refer_to_is_made_first_and_broken_last() {
    let mut pair = Pair::new();
    pair.subscribe(Kind::Policy, "*");
    pair.subscribe(Kind::Backend, "*");
    pair.set(Kind::Backend, "old", "1");
    pair.set(Kind::Policy, "p", "old");
    pair.settle();
    pair.delete(Kind::Backend, "old");
    pair.set(Kind::Policy, "p", "new");
    pair.set(Kind::Backend, "new", "1");
    pair.speak();
    let order: Vec<_> = pair
        .down
        .iter()
        .map(|response| response.type_url.as_str())
        .collect();
    assert_eq!(order, [Kind::Backend.type_url(), Kind::Policy.type_url()]);
    pair.read_down();
    pair.speak();
    pair.read_up();
    pair.speak();
    let removals = pair.down.iter().map(|response| response.removed_resources.len());
    assert_eq!(removals.sum::<usize>(), 0, "the policy is not applied yet");
    pair.settle();
    assert_eq!(pair.runs.len(), 2);
}

#[test]
fn a_name_that_comes_twice_is_rejected() {
    let mut sidecar = Subscriber::new(Node::default());
    sidecar.subscribe(Kind::Policy, "a");
    let resource = ads::Resource {
        name: "a".into(),
        version: "1".into(),
        resource: None,
    };
    let response = DeltaDiscoveryResponse {
        type_url: Kind::Policy.type_url().into(),
        resources: vec![resource.clone(), resource],
        ..DeltaDiscoveryResponse::default()
    };
    let delta = sidecar.response(response).expect("ours");
    assert!(delta.changes.is_empty());
    assert!(delta.rejected[0].reason.contains("twice"), "{delta:?}");
}

#[test]
fn a_resource_of_another_type_is_rejected() {
    let mut sidecar = Subscriber::new(Node::default());
    sidecar.subscribe(Kind::Policy, "a");
    let response = DeltaDiscoveryResponse {
        type_url: Kind::Policy.type_url().into(),
        resources: vec![ads::Resource {
            name: "a".into(),
            version: "1".into(),
            resource: Some(ads::Any {
                type_url: Kind::Route.type_url().into(),
                ..ads::Any::default()
            }),
        }],
        ..DeltaDiscoveryResponse::default()
    };
    let delta = sidecar.response(response).expect("ours");
    assert!(delta.rejected[0].reason.contains("v1.Route"), "{delta:?}");
}

#[test]
fn a_large_change_comes_in_pieces() {
    let mut pair = Pair::new();
    let content = "x".repeat(100_000);
    for n in 0..30 {
        pair.set(Kind::Policy, &format!("{n}"), &content);
    }
    pair.subscribe(Kind::Policy, "*");
    pair.speak();
    pair.read_up();
    pair.speak();
    assert!(pair.down[0].resources.len() <= 10);
    pair.settle();
    assert_eq!((pair.runs.len(), pair.resources), (30, 30));
}

#[test]
fn strange_types_and_endless_names_end_the_stream() {
    let mut feed = Feed::new();
    let strange = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..DeltaDiscoveryRequest::default()
    };
    let error = feed.request(&strange, &Store::default()).expect_err("not ours");
    assert!(error.to_string().contains("envoy.config.cluster"), "{error}");
    let endless = DeltaDiscoveryRequest {
        type_url: Kind::Policy.type_url().into(),
        resource_names_subscribe: (0..=MAX_NAMES).map(|n| n.to_string()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let error = feed.request(&endless, &Store::default());
    assert_eq!(error, Err(FeedError::TooManyNames));
}

/// Found by the random scripts: it was forgotten when the name was dropped, though it was under way.
#[test]
fn what_is_dropped_on_its_way_and_taken_up_by_a_collection_is_not_forgotten() {
    let mut pair = Pair::new();
    pair.set(Kind::Backend, "a", "1");
    pair.subscribe(Kind::Backend, "a");
    pair.speak();
    pair.read_up();
    pair.speak();
    pair.unsubscribe(Kind::Backend, "a");
    pair.subscribe(Kind::Backend, "*");
    pair.delete(Kind::Backend, "a");
    pair.settle();
    assert!(pair.runs.is_empty(), "{:?}", pair.runs);
}

#[test]
fn everything_is_what_the_node_is_to_have_and_the_rest_is_had_by_name() {
    let mut pair = Pair::new();
    pair.set(Kind::Policy, "mine", "1");
    pair.set(Kind::Policy, "others/1", "1");
    pair.subscribe(Kind::Policy, "*");
    pair.settle();
    pair.set(Kind::Policy, "others/2", "1");
    pair.settle();
    assert_eq!(pair.runs.len(), 1);
    pair.subscribe(Kind::Policy, "others/2");
    pair.settle();
    assert_eq!(pair.runs.len(), 2);
    pair.unsubscribe(Kind::Policy, "others/2");
    pair.settle();
    assert_eq!(pair.feed.size(), 2, "the pattern and what is its own");
    assert_eq!(pair.runs.len(), 1);
}

#[test]
fn who_missed_too_much_looks_at_everything_again() {
    let mut pair = Pair::new();
    for name in ["shop/a", "shop/b", "c"] {
        pair.set(Kind::Backend, name, "1");
    }
    pair.subscribe(Kind::Backend, "shop/*");
    pair.subscribe(Kind::Backend, "c");
    pair.subscribe(Kind::Backend, "d");
    pair.settle();
    pair.resources = 0;
    pair.store.0.remove(&(Kind::Backend, "shop/a".into()));
    for name in ["shop/new", "c", "d"] {
        pair.store.0.insert((Kind::Backend, name.into()), held("2"));
    }
    pair.feed.look_again(&pair.store);
    pair.settle();
    let runs: Vec<&str> = pair.runs.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(runs, ["c", "d", "shop/b", "shop/new"]);
    assert_eq!(pair.resources, 3, "b did not change");
}
