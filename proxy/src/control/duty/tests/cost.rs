//! What a response costs beside what is held: it is to grow with what changes only.
//!
//! To count instructions, build the tests of this package with `--release` and run
//! `HELD=2000 CHANGE=policy valgrind --tool=callgrind --toggle-collect='*cost::measured*' BINARY cost::`;
//! the sum divided by [`CHANGES`] is one response.

use jitney_api::push::ads::{Any, Resource};

use super::*;

/// What is pushed where there are so many backends with a policy for their callers each; and the same after a
/// change of this sort.
fn worlds(backends: usize, sort: &str) -> [Source; 2] {
    let backend = |number: usize, changed: &str| {
        let more = |sort| usize::from(number == 0 && changed == sort);
        let host = |host| format!("'10.{}.{}.{host}:80'", number / 250, number % 250);
        let hosts: Vec<String> = (0..5 + more("endpoint")).map(host).collect();
        format!(
            "---\nkind: Backend\nmetadata: {{name: b{number}, namespace: shop}}\n\
             spec: {{connectTimeout: {}s, endpoints: [{}]}}\n\
             ---\nkind: BatchPolicy\nmetadata: {{name: p{number}, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Backend, name: b{number}}}]\n  placement: Outbound\n  \
             routes: [{{name: rpc, codec: {{jsonRpc: {{}}}}, batch: {{maxSize: {}}}}}]\n",
            1 + more("backend"),
            hosts.join(", "),
            2 + more("policy"),
        )
    };
    ["", sort].map(|changed| {
        let numbers: Vec<usize> = (0..backends).collect();
        // As much as a file may hold.
        let files = numbers.chunks(100).map(|numbers| {
            let documents = numbers.iter().map(|number| backend(*number, changed));
            Source::of(&documents.collect::<String>()).0
        });
        Source(files.flatten().collect())
    })
}

/// The response that leads from one to the other.
fn between(before: &Source, after: &Source, kind: Kind) -> DeltaDiscoveryResponse {
    let known = before.0.iter().map(|one| ((one.kind, &one.name), &one.held));
    let known: BTreeMap<(Kind, &Arc<str>), &Held> = known.collect();
    let names: BTreeSet<(Kind, &Arc<str>)> = after.0.iter().map(|one| (one.kind, &one.name)).collect();
    let of_kind = after.0.iter().filter(|one| one.kind == kind);
    let news = of_kind.filter(|one| known.get(&(kind, &one.name)) != Some(&&one.held));
    let resources = news.map(|one| Resource {
        name: one.name.to_string(),
        version: one.held.version.to_string(),
        resource: Some(Any {
            type_url: kind.type_url().to_owned(),
            value: one.held.content.clone(),
        }),
    });
    let gone = known.keys().filter(|key| key.0 == kind && !names.contains(*key));
    DeltaDiscoveryResponse {
        resources: resources.collect(),
        removed_resources: gone.map(|(_, name)| name.to_string()).collect(),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

#[inline(never)]
fn measured(duty: &mut Duty, response: DeltaDiscoveryResponse, trust: &Trust) {
    duty.take(response, trust);
}

#[track_caller]
fn check(held: usize, sort: &str, kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let (mut duty, world, trust) = sidecar(folder.path(), true);
    duty.open(&users());
    let [one, other] = worlds(held, sort);
    for kind in [
        Kind::Runtime,
        Kind::Backend,
        Kind::Endpoint,
        Kind::Route,
        Kind::Policy,
    ] {
        duty.take(between(&Source::default(), &one, kind), &trust);
        while duty.say().is_some() {}
    }
    assert!(duty.is_in_force(), "{sort}");
    assert_eq!(duty.held.len(), held * 8, "{sort}");
    let responses = [between(&one, &other, kind), between(&other, &one, kind)];
    // What the start has left behind is gone then.
    responses
        .iter()
        .for_each(|response| duty.take(response.clone(), &trust));
    while duty.say().is_some() {}
    let before = world.lock().applied;
    for response in responses.iter().cycle().take(CHANGES) {
        assert_eq!(
            response.resources.len() + response.removed_resources.len(),
            1,
            "{sort}"
        );
        measured(&mut duty, response.clone(), &trust);
        while duty.say().is_some() {}
    }
    assert_eq!(world.lock().applied, before + CHANGES, "{sort}");
    let shown = duty.standing.lock().resources.len();
    assert_eq!((duty.held.len(), shown), (held * 8, held * 8), "{sort}");
}

#[test]
fn each_change_is_one_response_whatever_is_held() {
    let held = std::env::var("HELD").map_or(20, |held| held.parse().expect("HELD: a number"));
    let wanted = std::env::var("CHANGE").ok();
    for (sort, kind) in [
        ("endpoint", Kind::Endpoint),
        ("policy", Kind::Route),
        ("backend", Kind::Backend),
    ] {
        if wanted.as_ref().is_none_or(|wanted| *wanted == sort) {
            check(held, sort, kind);
        }
    }
}

/// So many responses are measured, each with one change.
const CHANGES: usize = 20;
