//! Who rests when, on a virtual clock.

use super::*;
use crate::tests::start;

/// The first rest by default.
const BASE: Duration = Duration::from_secs(30);

fn breaker(endpoints: u64) -> Breaker {
    Breaker::new(CircuitBreaker::default(), 0..endpoints)
}

/// One call that ends so; a trip, if it caused one.
fn call(breaker: &mut Breaker, id: u64, outcome: Outcome, now: Instant) -> Option<Trip> {
    let stake = breaker.begin(id, now);
    breaker.ended(id, stake, outcome, now)
}

/// Fails until the endpoint rests.
#[track_caller]
fn trip(breaker: &mut Breaker, id: u64, now: Instant) -> Trip {
    let mut trips = (0..100).filter_map(|_| call(breaker, id, Outcome::Failed, now));
    trips.next().expect("an endpoint that always fails rests")
}

#[test]
fn seven_failures_in_a_row_and_no_fewer_begin_a_rest() {
    let (mut breaker, now) = (breaker(2), start());
    for _ in 0..3 {
        for _ in 0..6 {
            assert_eq!(call(&mut breaker, 0, Outcome::Failed, now), None);
        }
        assert_eq!(call(&mut breaker, 0, Outcome::Good, now), None);
    }
    let trip = trip(&mut breaker, 0, now);
    assert_eq!((trip.rest, trip.why), (BASE, Why::InARow(7)));
    assert!(!breaker.may_call(0, now) && breaker.may_call(1, now));
    assert_eq!(breaker.rest_left(0, now + BASE / 2), Some(BASE / 2));
}

#[test]
fn a_rest_ends_with_one_call_on_trial() {
    let (mut breaker, now) = (breaker(2), start());
    trip(&mut breaker, 0, now);
    let later = now + BASE;
    assert!(breaker.may_call(0, later));
    assert_eq!(breaker.begin(0, later), Stake::Trial);
    assert!(!breaker.may_call(0, later), "one call only");
    // One that was sent before the rest changes nothing.
    assert_eq!(breaker.ended(0, Stake::Ordinary, Outcome::Good, later), None);
    assert!(!breaker.may_call(0, later));
    // A caller that left says nothing: the next one is the trial.
    assert_eq!(breaker.ended(0, Stake::Trial, Outcome::Unknown, later), None);
    assert_eq!(breaker.begin(0, later), Stake::Trial);
    assert_eq!(breaker.ended(0, Stake::Trial, Outcome::Good, later), None);
    assert_eq!(breaker.resting(), 0);
    assert_eq!(call(&mut breaker, 0, Outcome::Failed, later), None);
}

#[test]
fn a_trial_without_an_end_is_followed_by_another_one() {
    let (mut breaker, now) = (breaker(2), start());
    trip(&mut breaker, 0, now);
    let mut later = now + BASE;
    assert_eq!(breaker.begin(0, later), Stake::Trial);
    for _ in 0..2 {
        assert!(!breaker.may_call(0, later + BASE - Duration::from_millis(1)));
        later += BASE;
        assert!(breaker.may_call(0, later));
        assert_eq!(breaker.begin(0, later), Stake::Trial);
        assert_eq!(breaker.begin(0, later), Stake::Ordinary, "one call only");
    }
    assert_eq!(breaker.ended(0, Stake::Trial, Outcome::Good, later), None);
    assert_eq!(breaker.resting(), 0);
    // The first one ends at last: it is a call like others.
    assert_eq!(breaker.ended(0, Stake::Trial, Outcome::Failed, later), None);
    assert_eq!(breaker.resting(), 0);
}

#[test]
fn rests_grow_up_to_a_bound_and_are_forgotten() {
    let (mut breaker, mut now) = (breaker(2), start());
    let mut rests = vec![trip(&mut breaker, 0, now).rest];
    for _ in 0..5 {
        now += *rests.last().unwrap();
        rests.push(call(&mut breaker, 0, Outcome::Failed, now).unwrap().rest);
    }
    assert_eq!(rests, [30, 60, 120, 240, 300, 300].map(Duration::from_secs));
    now += LONGEST;
    assert_eq!(call(&mut breaker, 0, Outcome::Good, now), None);
    now += LONGEST + BASE;
    assert_eq!(trip(&mut breaker, 0, now).rest, BASE);
}

#[test]
fn at_most_half_of_the_endpoints_rest_and_a_lone_one_never() {
    for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let (mut breaker, now) = (breaker(endpoints), start());
        for _ in 0..100 {
            for id in 0..endpoints {
                call(&mut breaker, id, Outcome::Failed, now);
            }
        }
        assert_eq!(breaker.resting(), most, "of {endpoints}");
    }
}

#[test]
fn endpoints_that_stay_keep_their_state_and_calls_to_those_that_went_mean_nothing() {
    let (mut breaker, now) = (breaker(4), start());
    trip(&mut breaker, 3, now);
    for _ in 0..6 {
        call(&mut breaker, 1, Outcome::Failed, now);
    }
    assert_eq!(breaker.begin(3, now + BASE), Stake::Trial);
    breaker.replace([1, 3, 4, 5]);
    assert_eq!(breaker.resting(), 1);
    // One more makes seven.
    assert!(call(&mut breaker, 1, Outcome::Failed, now).is_some());
    // The trial goes on.
    assert_eq!(breaker.ended(3, Stake::Trial, Outcome::Good, now + BASE), None);
    assert_eq!(breaker.resting(), 1);
    // Sent before 0 and 2 went, or by someone who has not heard of it yet.
    for id in [0, 2] {
        for _ in 0..20 {
            assert!(breaker.may_call(id, now));
            assert_eq!(call(&mut breaker, id, Outcome::Failed, now), None);
        }
    }
    assert!(breaker.may_call(4, now) && breaker.may_call(5, now));
}

#[test]
fn endpoints_return_from_their_rest_when_too_few_others_are_left() {
    let (mut breaker, now) = (breaker(5), start());
    trip(&mut breaker, 0, now);
    trip(&mut breaker, 1, now + Duration::from_secs(1));
    breaker.replace([0, 1]);
    assert!(breaker.may_call(0, now), "it would have been the first to return");
    assert!(!breaker.may_call(1, now));
    breaker.replace([1]);
    assert_eq!(breaker.resting(), 0);
    breaker.replace([1, 2]);
    assert!(breaker.may_call(1, now), "as good as new");
    breaker.replace([]);
    assert_eq!(breaker.resting(), 0);
}

#[test]
fn an_endpoint_that_found_no_room_rests_when_there_is_some() {
    let (mut breaker, now) = (breaker(2), start());
    trip(&mut breaker, 0, now);
    for _ in 0..20 {
        assert_eq!(call(&mut breaker, 1, Outcome::Failed, now), None);
    }
    let later = now + BASE;
    assert_eq!(call(&mut breaker, 0, Outcome::Good, later), None);
    assert!(call(&mut breaker, 1, Outcome::Failed, later).is_some());
}

#[test]
fn too_few_good_calls_begin_a_rest_once_there_are_enough_to_tell() {
    let (mut breaker, now) = (breaker(2), start());
    // Every fourth fails: never seven in a row, and 75 % go well.
    let trips = (1..=VOLUME).filter_map(|n| {
        let outcome = if n % 4 == 0 {
            Outcome::Failed
        } else {
            Outcome::Good
        };
        call(&mut breaker, 0, outcome, now).map(|trip| (n, trip.why))
    });
    assert_eq!(trips.collect::<Vec<_>>(), [(VOLUME, Why::SuccessRate(0.75))]);
}

#[test]
fn a_default_breaker_does_not_trip_while_six_per_cent_fail() {
    for seed in 1..=5_u64 {
        let (mut breaker, start) = (breaker(2), start());
        let mut random = seed;
        for n in 0..200_000_u32 {
            // Knuth's MMIX generator; its upper bits are good enough for a coin.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let outcome = if (random >> 33) % 100 < 6 {
                Outcome::Failed
            } else {
                Outcome::Good
            };
            // 20 to 2,000 calls a second.
            let now = start + Duration::from_micros(u64::from(n) * (50_000 >> (seed + 1)));
            assert_eq!(
                call(&mut breaker, 0, outcome, now),
                None,
                "call {n} of seed {seed}"
            );
        }
    }
}
