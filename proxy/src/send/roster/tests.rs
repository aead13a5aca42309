//! Which zone's endpoints are chosen, over many calls.

use std::net::SocketAddr;

use jitney_core::policy::{CircuitBreaker, LoadBalancer, Traffic};

use super::*;
use crate::body::Body;
use crate::error::ErrorKind;
use crate::send::gate::Gate;
use crate::send::{BackendSettings, InCommon};

/// A sidecar in zone `a` before an endpoint in each of these zones.
fn roster(zones: &[&str], traffic: &Traffic) -> Roster {
    let settings = BackendSettings {
        in_common: InCommon {
            zone: Some("a".into()),
            ..InCommon::default()
        },
        ..BackendSettings::new("test", Vec::new())
    };
    let gate = Arc::new(Gate::open());
    let target = |(port, zone): (u16, &&str)| Target {
        zone: (!zone.is_empty()).then(|| (*zone).into()),
        ..SocketAddr::from(([127, 0, 0, 1], port)).into()
    };
    let targets: Vec<Target> = (1..).zip(zones).map(target).collect();
    let start = |target: &Target| Endpoint::start(target.clone(), &settings, &gate);
    let roster = Roster::default().moved(&targets, start);
    roster.treated(Treatment::of(traffic, &roster.endpoints, &Treatment::default()))
}

fn prefers_zone(load_balancer: LoadBalancer) -> Traffic {
    Traffic {
        load_balancer,
        prefers_zone: true,
        circuit_breaker: Some(CircuitBreaker::default()),
        ..Traffic::default()
    }
}

fn quiet() -> Silence {
    Silence::begin(None, None)
}

/// How many of 100 calls each zone gets, of calls that were tried on these already.
fn shares(roster: &Roster, tried: &Tried) -> HashMap<String, usize> {
    let (balancer, mut shares) = (Balancer::default(), HashMap::new());
    for n in 0..100 {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", n.into());
        let (endpoint, _) = roster.choose(&balancer, Some(&headers), tried, &quiet()).unwrap();
        let zone = endpoint.target.zone.as_deref().unwrap_or("none");
        *shares.entry(zone.to_owned()).or_default() += 1;
    }
    shares
}

/// Calls to the endpoint fail until it rests.
fn eject(roster: &Roster, at: usize) {
    let breaker = roster.treatment.breaker.as_ref().unwrap();
    for _ in 0..7 {
        let (_, watch) = breaker
            .choose(&roster.endpoints, &[], &quiet(), |_| Ok(at))
            .unwrap();
        watch.tell(&mut Err::<http::Response<Body>, _>(
            ErrorKind::UpstreamReset.into(),
        ));
    }
}

fn tried(roster: &Roster, places: &[usize]) -> Tried {
    places.iter().map(|at| roster.endpoints[*at].id).collect()
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_comes_first_however_endpoints_are_chosen() {
    let by_header = LoadBalancer::ConsistentHash {
        header: http::HeaderName::from_static("x-user"),
    };
    for by in [
        LoadBalancer::PeakEwma,
        LoadBalancer::LeastRequest,
        LoadBalancer::RoundRobin,
        by_header,
    ] {
        let roster = roster(&["b", "a", "", "a", "b"], &prefers_zone(by.clone()));
        let own = shares(&roster, &Tried::new());
        assert_eq!(own, HashMap::from([("a".to_owned(), 100)]), "{by:?}");
        let one_left = shares(&roster, &tried(&roster, &[0]));
        assert_eq!(one_left, HashMap::from([("a".to_owned(), 100)]), "{by:?}");
        let elsewhere = shares(&roster, &tried(&roster, &[0, 1]));
        assert!(
            !elsewhere.contains_key("a") && elsewhere.len() == 2,
            "{by:?} {elsewhere:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_preference_all_zones_are_alike() {
    let all = roster(
        &["a", "b", "b", "b"],
        &Traffic {
            load_balancer: LoadBalancer::RoundRobin,
            ..Traffic::default()
        },
    );
    assert_eq!(shares(&all, &Tried::new())["b"], 75);
    let none_here = roster(&["b", "c"], &prefers_zone(LoadBalancer::RoundRobin));
    assert_eq!(shares(&none_here, &Tried::new())["b"], 50);
}

#[tokio::test(start_paused = true)]
async fn a_zone_with_too_few_left_shares_its_calls_with_the_others() {
    let roster = roster(
        &["a", "a", "a", "a", "b", "b", "b", "b"],
        &prefers_zone(LoadBalancer::RoundRobin),
    );
    eject(&roster, 0);
    eject(&roster, 1);
    assert_eq!(shares(&roster, &Tried::new())["a"], 100, "half of it is enough");
    // A call that was tried on one of the two finds the other.
    assert_eq!(shares(&roster, &tried(&roster, &[2]))["a"], 100);
    eject(&roster, 2);
    let spilled = shares(&roster, &Tried::new());
    assert_eq!((spilled["a"], spilled["b"]), (20, 80));
}
