//! Rests as calls meet them, on a paused clock.

use std::net::SocketAddr;
use std::time::Instant;

use super::*;
use crate::error::ErrorKind;
use crate::send::BackendSettings;
use crate::send::gate::Gate;

fn endpoints() -> [Arc<Endpoint>; 2] {
    let settings = BackendSettings::new("test", Vec::new());
    let gate = Arc::new(Gate::open());
    [1, 2].map(|port| Endpoint::start(SocketAddr::from(([127, 0, 0, 1], port)).into(), &settings, &gate))
}

fn breaker(endpoints: &[Arc<Endpoint>]) -> Arc<Breaker> {
    Arc::new(Breaker::new(CircuitBreaker::default(), endpoints))
}

/// A call that wants the first endpoint that is not out.
fn choose(breaker: &Arc<Breaker>, endpoints: &[Arc<Endpoint>], deadline: Option<Instant>) -> (usize, Watch) {
    let first = |out: &[usize]| {
        (0..2)
            .find(|at| !out.contains(at))
            .ok_or_else(|| ErrorKind::NoEndpoint.into())
    };
    let silence = Silence::begin(deadline, None);
    breaker.choose(endpoints, &[], &silence, first).unwrap()
}

fn reset() -> Result<Response<Body>, Error> {
    Err(ErrorKind::UpstreamReset.into())
}

#[tokio::test(start_paused = true)]
async fn calls_keep_away_from_an_endpoint_at_rest_until_one_finds_it_well() {
    let endpoints = endpoints();
    let breaker = breaker(&endpoints);
    for _ in 0..7 {
        let (at, watch) = choose(&breaker, &endpoints, None);
        assert_eq!(at, 0);
        watch.tell(&mut reset());
    }
    assert_eq!(choose(&breaker, &endpoints, None).0, 1);
    assert_eq!(breaker.rest_left(endpoints[0].id), Some(Duration::from_secs(30)));
    tokio::time::advance(Duration::from_secs(30)).await;
    let (at, trial) = choose(&breaker, &endpoints, None);
    assert_eq!((at, choose(&breaker, &endpoints, None).0), (0, 1));
    // The caller of the trial left: another call is the trial.
    drop(trial);
    let (at, trial) = choose(&breaker, &endpoints, None);
    assert_eq!(at, 0);
    trial.tell(&mut Ok(Response::new(Body::empty())));
    assert_eq!(
        (
            choose(&breaker, &endpoints, None).0,
            choose(&breaker, &endpoints, None).0
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn silence_until_the_deadline_is_a_failure_and_a_caller_that_leaves_is_none() {
    let endpoints = endpoints();
    let breaker = breaker(&endpoints);
    for _ in 0..20 {
        let (at, left) = choose(&breaker, &endpoints, Some(now() + Duration::from_secs(1)));
        assert_eq!(at, 0);
        drop(left);
    }
    for _ in 0..7 {
        let (at, silent) = choose(&breaker, &endpoints, Some(now()));
        assert_eq!(at, 0);
        drop(silent);
    }
    assert_eq!(choose(&breaker, &endpoints, None).0, 1);
}
