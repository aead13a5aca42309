//! Model upstreams under open load, on a virtual clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;
use crate::tests::start;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of the virtual clock are far below 2^52 ns"
)]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// What requests meet.
#[derive(Clone, Copy, Debug)]
struct Upstream {
    /// Requests that are worked on at once.
    workers: usize,
    service: f64,
}

const SERIAL: Upstream = Upstream {
    workers: 1,
    service: 0.01,
};
const EIGHT: Upstream = Upstream {
    workers: 8,
    service: 0.02,
};
const ELASTIC: Upstream = Upstream {
    workers: usize::MAX,
    service: 0.02,
};

/// Who calls.
#[derive(Clone, Copy)]
enum Callers {
    /// Many, that know nothing of each other: so many calls a second.
    Open(f64),
    /// So many, each of which waits for its answer and then pauses for so many seconds.
    Closed(usize, f64),
}

/// A stretch of time with one load.
struct Stretch {
    seconds: f64,
    callers: Callers,
    /// How many times as long everything takes.
    slower: f64,
}

/// What came of a stretch, its first part left out.
#[derive(Debug)]
struct Outcome {
    /// Answers a second.
    goodput: f64,
    shed: usize,
    /// What an answer took, as a multiple of the service.
    latency: f64,
    seed: u64,
}

impl Outcome {
    /// Nearly all of the capacity is used, and what is let in waits for two others at most.
    #[track_caller]
    fn check(&self, upstream: Upstream, slower: f64) {
        let used = self.goodput * slower / upstream.capacity();
        assert!(
            used > 0.9 && self.latency < 3.1,
            "seed {}: {upstream:?} {used} {self:?}",
            self.seed
        );
    }
}

struct World {
    upstream: Upstream,
    limiter: Limiter,
    seed: u64,
    epoch: Instant,
    busy: BinaryHeap<Reverse<(u64, usize)>>,
    queue: VecDeque<usize>,
    places: Vec<Option<Place>>,
}

impl World {
    fn new(upstream: Upstream, seed: u64) -> Self {
        Self {
            upstream,
            limiter: Limiter::new(AdaptiveConcurrency::default()),
            seed,
            epoch: start(),
            busy: BinaryHeap::new(),
            queue: VecDeque::new(),
            places: Vec::new(),
        }
    }

    /// From 0 to 1 (splitmix64).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn at(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    fn work(&mut self, slower: f64, now: u64) {
        while self.busy.len() < self.upstream.workers {
            let Some(next) = self.queue.pop_front() else { break };
            let takes = self.upstream.service * slower * (0.7 + 0.6 * self.random());
            self.busy.push(Reverse((now + nanos(takes), next)));
        }
    }

    /// Runs one stretch from `from`, in nanoseconds; what it was like after its first two fifths.
    fn run(&mut self, stretch: &Stretch, from: &mut u64) -> Outcome {
        let seed = self.seed;
        let end = *from + nanos(stretch.seconds);
        let settled = *from + nanos(0.4 * stretch.seconds);
        let (mut shed, mut took) = (0, Vec::new());
        let mut calls = match stretch.callers {
            Callers::Open(_) => BinaryHeap::from([Reverse(*from)]),
            Callers::Closed(count, pause) => (0..count)
                .map(|caller| Reverse(*from + nanos(pause) * caller as u64 / count as u64))
                .collect(),
        };
        loop {
            let next = calls.peek().map_or(u64::MAX, |Reverse(at)| *at);
            let done = self.busy.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            let now = next.min(done);
            if now >= end {
                break;
            }
            if done <= next {
                let Some(Reverse((_, number))) = self.busy.pop() else {
                    break;
                };
                let place = self.places[number].take().unwrap();
                let at = self.at(now);
                self.limiter.answered(&place, Answer::Good, at);
                self.limiter.leave(place);
                if now > settled {
                    took.push((at - place.began).as_secs_f64());
                }
                if let Callers::Closed(_, pause) = stretch.callers {
                    calls.push(Reverse(now + nanos(pause)));
                }
            } else {
                calls.pop();
                if let Callers::Open(rate) = stretch.callers {
                    calls.push(Reverse(now + nanos(-(1.0 - self.random()).ln() / rate)));
                }
                if let Some(place) = self.limiter.enter(Who::Alone, self.at(now)) {
                    self.queue.push_back(self.places.len());
                    self.places.push(Some(place));
                } else {
                    shed += usize::from(now > settled);
                    if let Callers::Closed(_, pause) = stretch.callers {
                        calls.push(Reverse(now + nanos(pause)));
                    }
                }
            }
            self.work(stretch.slower, now);
        }
        *from = end;
        let mean = took.iter().sum::<f64>() / took.len().max(1) as f64;
        Outcome {
            goodput: took.len() as f64 / (stretch.seconds * 0.6),
            shed,
            seed,
            latency: mean / (self.upstream.service * stretch.slower),
        }
    }
}

impl Upstream {
    fn capacity(&self) -> f64 {
        self.workers as f64 / self.service
    }

    /// What becomes of loads, as multiples of the capacity, one after the other.
    fn under<const N: usize>(self, loads: [(f64, f64); N], seed: u64) -> [Outcome; N] {
        let (mut world, mut from) = (World::new(self, seed), 0);
        loads.map(|(load, slower)| {
            let stretch = Stretch {
                seconds: 8000.0 / self.capacity().min(2000.0) * slower,
                callers: Callers::Open(load * self.capacity() / slower),
                slower,
            };
            world.run(&stretch, &mut from)
        })
    }
}

/// What is known after a while of batches alone, as many as there is room for, of all sizes.
fn limit_for_batches(workers: usize, seed: u64) -> usize {
    let mut world = World::new(
        Upstream {
            workers,
            service: 0.0,
        },
        seed,
    );
    let (mut now, mut costs) = (0, Vec::new());
    for _ in 0..20_000 {
        while world.limiter.dispatched < world.limiter.room() {
            let cost = Duration::from_secs_f64(0.004 + 0.001 * (world.random() * 16.0).ceil());
            let who = Who::Dispatched { expected: Some(cost) };
            world.places.push(world.limiter.enter(who, world.at(now)));
            world.queue.push_back(costs.len());
            costs.push(cost);
        }
        while world.busy.len() < workers {
            let Some(next) = world.queue.pop_front() else {
                break;
            };
            let takes = costs[next].as_secs_f64() * (0.8 + 0.4 * world.random());
            world.busy.push(Reverse((now + nanos(takes), next)));
        }
        let Some(Reverse((at, number))) = world.busy.pop() else {
            break;
        };
        now = at;
        let place = world.places[number].take().unwrap();
        world.limiter.answered(&place, Answer::Good, world.at(now));
        world.limiter.leave(place);
    }
    world.limiter.limit()
}

#[test]
fn nothing_is_shed_at_half_the_capacity() {
    for upstream in [SERIAL, EIGHT] {
        for seed in 1..6 {
            let [outcome] = upstream.under([(0.5, 1.0)], seed);
            assert_eq!(outcome.shed, 0, "seed {seed}: {upstream:?} {outcome:?}");
        }
    }
}

#[test]
fn overload_costs_neither_work_nor_time() {
    for upstream in [SERIAL, EIGHT] {
        for (load, seed) in [(1.5, 1), (1.5, 2), (1.5, 3), (3.0, 1), (3.0, 2), (3.0, 3)] {
            let [outcome] = upstream.under([(load, 1.0)], seed);
            outcome.check(upstream, 1.0);
        }
    }
}

#[test]
fn a_step_of_the_load_is_followed_up_and_down() {
    for upstream in [SERIAL, EIGHT] {
        for seed in 1..4 {
            let [over, under, again] = upstream.under([(3.0, 1.0), (0.5, 1.0), (1.5, 1.0)], seed);
            over.check(upstream, 1.0);
            assert_eq!(under.shed, 0, "seed {seed}: {upstream:?} {under:?}");
            again.check(upstream, 1.0);
        }
    }
}

#[test]
fn an_upstream_that_turns_slower_is_used_as_well_then_and_afterwards() {
    for upstream in [SERIAL, EIGHT] {
        for seed in 1..4 {
            let [fast, slow, again] = upstream.under([(3.0, 1.0), (3.0, 3.0), (3.0, 1.0)], seed);
            fast.check(upstream, 1.0);
            slow.check(upstream, 3.0);
            again.check(upstream, 1.0);
        }
    }
}

#[test]
fn an_upstream_with_room_for_all_is_given_all() {
    let (mut world, mut from) = (World::new(ELASTIC, 1), 0);
    for rate in [100.0, 1000.0, 10_000.0, 100.0, 10_000.0] {
        let stretch = Stretch {
            seconds: 10.0,
            callers: Callers::Open(rate),
            slower: 1.0,
        };
        let outcome = world.run(&stretch, &mut from);
        assert!(outcome.shed == 0 && outcome.latency < 1.1, "{rate}: {outcome:?}");
    }
}

#[test]
fn callers_that_just_fit_into_the_limit_are_too_many_all_the_same() {
    for limit in [20, 30, 38] {
        for seed in 1..6 {
            let (mut world, mut from) = (World::new(EIGHT, seed), 0);
            world.limiter.limit = limit;
            let stretch = Stretch {
                seconds: 20.0,
                callers: Callers::Closed(60, 0.05),
                slower: 1.0,
            };
            world.run(&stretch, &mut from).check(EIGHT, 1.0);
        }
    }
}

#[test]
fn batches_of_all_sizes_show_the_limit_too() {
    for seed in 1..4 {
        let (serial, eight) = (limit_for_batches(1, seed), limit_for_batches(8, seed));
        assert!(serial <= 4 && (7..=14).contains(&eight), "{serial} {eight}");
    }
}

#[test]
fn batches_and_calls_each_get_half_where_both_want_all() {
    let mut limiter = Limiter::new(AdaptiveConcurrency::default());
    let (now, batch) = (start(), Who::Dispatched { expected: None });
    let batches: Vec<_> = (0..limiter.room())
        .filter_map(|_| limiter.enter(batch, now))
        .collect();
    assert_eq!((batches.len(), limiter.room()), (20, 20));
    limiter.crowded = 1.0;
    let calls = |limiter: &mut Limiter| std::iter::from_fn(|| limiter.enter(Who::Alone, now)).count();
    assert_eq!(calls(&mut limiter), 10);
    assert_eq!(limiter.room(), 10);
    batches.into_iter().for_each(|batch| limiter.leave(batch));
    assert_eq!(calls(&mut limiter), 10);
    assert_eq!(limiter.room(), 10, "half of it, though calls have all");
}

#[test]
fn failures_lower_the_limit_once_for_each_round_and_only_where_it_is_reached() {
    let mut limiter = Limiter::new(AdaptiveConcurrency::default());
    let now = start();
    for _ in 0..100 {
        let place = limiter.enter(Who::Alone, now).unwrap();
        limiter.answered(&place, Answer::Failed, now);
        limiter.leave(place);
    }
    assert_eq!(
        limiter.limit(),
        20,
        "it is not for a lack of room that these fail"
    );
    let places: Vec<_> = (0..20).filter_map(|_| limiter.enter(Who::Alone, now)).collect();
    for place in places {
        limiter.answered(&place, Answer::Failed, now);
        limiter.leave(place);
    }
    assert_eq!(limiter.limit(), 18);
}
