//! The dispatcher, call by call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::tests::start;

mod pitfalls;
mod properties;
mod stalls;

/// A batcher of numbered calls on a clock that only the test moves.
struct Bench {
    batcher: Batcher<u32>,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let now = start();
        Self {
            batcher: Batcher::new(settings),
            start: now,
            now,
        }
    }

    /// Moves the clock to so many microseconds after the start.
    fn at(&mut self, micros: u64) -> &mut Self {
        self.now = self.start + Duration::from_micros(micros);
        self
    }

    fn after(&mut self, micros: u64) -> &mut Self {
        self.now += Duration::from_micros(micros);
        self
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.now.duration_since(self.start).as_micros()).expect("short scripts")
    }

    #[track_caller]
    fn push(&mut self, key: &str, limits: &Arc<Limits>, call: u32) -> Ticket {
        self.queue(key, limits, one(call)).expect("queued")
    }

    fn queue(&mut self, key: &str, limits: &Arc<Limits>, call: Queued<u32>) -> Result<Ticket, Refused<u32>> {
        self.batcher.push(key.as_bytes(), limits, call, self.now)
    }

    /// Everything that leaves now.
    fn poll(&mut self) -> Vec<Batch<u32>> {
        std::iter::from_fn(|| self.batcher.poll_batch(self.now)).collect()
    }

    /// Members of everything that leaves now, with the reasons.
    fn sent(&mut self) -> Vec<(Vec<u32>, FlushReason)> {
        self.poll()
            .iter()
            .map(|batch| (calls(batch), batch.reason))
            .collect()
    }

    #[track_caller]
    fn only(&mut self) -> Batch<u32> {
        let mut batches = self.poll();
        assert_eq!(batches.len(), 1, "{batches:?}");
        batches.remove(0)
    }

    fn expired(&mut self) -> Vec<(u32, Expired)> {
        std::iter::from_fn(|| self.batcher.poll_expired(self.now)).collect()
    }

    fn done(&mut self, batch: &Batch<u32>) {
        self.end(batch, Outcome::Ok);
    }

    fn end(&mut self, batch: &Batch<u32>, outcome: Outcome) {
        self.batcher.complete(batch.id, outcome, self.now);
    }

    /// Wake-up wanted, in microseconds from now.
    fn wake(&self) -> Option<u128> {
        self.batcher
            .poll_timeout()
            .map(|at| at.saturating_duration_since(self.now).as_micros())
    }

    /// So many calls at once, each batch of which takes a millisecond.
    fn round(&mut self, limits: &Arc<Limits>, calls: u32, outcome: Outcome) {
        for call in 0..calls {
            self.push("round", limits, call);
        }
        while self.batcher.queued() > 0 {
            let batches = self.poll();
            self.after(1000);
            for batch in &batches {
                self.end(batch, outcome);
            }
        }
    }

    /// Lone batches of each size, so that the cost model knows `fixed + per_item * size`.
    fn teach(&mut self, limits: &Arc<Limits>, fixed: u64, per_item: u64) {
        for round in 0..20 {
            let size = if round % 2 == 0 { 1 } else { 8 };
            let call = Queued {
                items: size,
                ..one(0)
            };
            self.queue("lesson", limits, call).expect("queued");
            let batch = self.only();
            self.after(fixed + per_item * u64::try_from(size).expect("small"));
            self.done(&batch);
        }
    }
}

fn one(call: u32) -> Queued<u32> {
    Queued {
        call,
        items: 1,
        bytes: 10,
        shared_bytes: 20,
        deadline: None,
        priority: 3,
        tenant: 0,
        class: 0,
    }
}

fn calls(batch: &Batch<u32>) -> Vec<u32> {
    batch.members.iter().map(|member| member.call).collect()
}

fn limits(change: impl FnOnce(&mut Limits)) -> Arc<Limits> {
    let mut limits = Limits {
        max_size: 8,
        ..Limits::default()
    };
    change(&mut limits);
    Arc::new(limits)
}

fn slots(n: usize) -> Arc<Limits> {
    limits(|limits| {
        limits.dispatch = Dispatch::Eager;
        limits.window = Window::Fixed(n);
    })
}

/// Adaptive, so that it waits for announced arrivals, with two slots whatever it learns.
fn two_slots(timeout: Duration) -> Arc<Limits> {
    limits(|limits| {
        limits.window = Window::Fixed(2);
        limits.timeout = timeout;
    })
}

fn fixed(timeout_ms: u64) -> Arc<Limits> {
    limits(|limits| {
        limits.dispatch = Dispatch::Fixed;
        limits.timeout = Duration::from_millis(timeout_ms);
    })
}

#[test]
fn a_lone_call_leaves_at_once_and_wants_no_wake_up() {
    let mut bench = Bench::new();
    bench.push("k", &limits(|_| {}), 1);
    assert_eq!(bench.sent(), [(vec![1], FlushReason::Idle)]);
    assert_eq!(bench.wake(), None);
}

#[test]
fn calls_gather_while_the_window_is_full() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 1);
    let first = bench.only();
    for call in 2..5 {
        bench.push("k", &limits, call);
    }
    assert!(bench.poll().is_empty());
    bench.after(500).done(&first);
    let batch = bench.only();
    assert_eq!(
        (calls(&batch), batch.reason),
        (vec![2, 3, 4], FlushReason::SlotFree)
    );
    assert_eq!(batch.members[0].waited, Duration::from_micros(500));
    assert_eq!(batch.bytes, 20 + 3 * 10);
}

#[test]
fn a_full_batch_leaves_the_rest_queued() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let first = bench.only();
    for call in 1..12 {
        bench.push("k", &limits, call);
    }
    bench.done(&first);
    let batch = bench.only();
    assert_eq!(
        (calls(&batch), batch.reason),
        ((1..9).collect(), FlushReason::Full)
    );
    assert_eq!(bench.batcher.queued(), 3);
}

#[test]
fn queued_calls_spread_over_the_free_slots() {
    let mut bench = Bench::new();
    let limits = slots(4);
    for call in 0..8 {
        bench.push("k", &limits, call);
    }
    let sizes: Vec<_> = bench.poll().iter().map(|batch| batch.items).collect();
    assert_eq!(sizes, [2, 2, 2, 2]);
}

#[test]
fn the_byte_cap_closes_a_batch() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.max_bytes = 45;
        limits.window = Window::Fixed(1);
    });
    for call in 0..3 {
        bench.push("k", &limits, call);
    }
    assert_eq!(bench.sent(), [(vec![0, 1], FlushReason::Bytes)]);
}

#[test]
fn an_oversized_call_travels_alone() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench
        .queue("k", &limits, Queued { items: 9, ..one(0) })
        .expect("queued");
    bench.push("k", &limits, 1);
    let first = bench.only();
    assert_eq!((calls(&first), first.reason), (vec![0], FlushReason::Full));
    bench.done(&first);
    assert_eq!(calls(&bench.only()), [1]);
}

#[test]
fn fixed_leaves_full_or_after_its_timeout_and_for_nothing_else() {
    let mut bench = Bench::new();
    let limits = fixed(5);
    bench.push("k", &limits, 0);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.wake(), Some(5000));
    bench.at(4999).push("k", &limits, 1);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.at(5000).sent(), [(vec![0, 1], FlushReason::Timeout)]);
    for call in 2..11 {
        bench.push("k", &limits, call);
    }
    assert_eq!(bench.sent(), [((2..10).collect(), FlushReason::Full)]);
    assert_eq!(
        bench.wake(),
        Some(5000),
        "the call that stayed waits its own time"
    );
    assert_eq!(bench.at(10_000).sent(), [(vec![10], FlushReason::Timeout)]);
}

#[test]
fn fixed_without_a_timeout_leaves_at_once() {
    let mut bench = Bench::new();
    bench.push("k", &fixed(0), 0);
    assert_eq!(bench.sent(), [(vec![0], FlushReason::Timeout)]);
}

#[test]
fn a_fixed_caller_that_left_is_not_in_the_batch() {
    let mut bench = Bench::new();
    let limits = fixed(5);
    bench.push("k", &limits, 0);
    let left = bench.push("k", &limits, 1);
    bench.push("k", &limits, 2);
    assert_eq!(bench.batcher.cancel(left), Some(1));
    assert_eq!(bench.batcher.cancel(left), None);
    assert_eq!(bench.at(5000).sent(), [(vec![0, 2], FlushReason::Timeout)]);
}

#[test]
fn the_last_caller_to_leave_takes_the_timers_along() {
    let mut bench = Bench::new();
    let ticket = bench.push("k", &fixed(5), 0);
    assert_eq!(bench.batcher.cancel(ticket), Some(0));
    assert_eq!(bench.wake(), None);
    assert!(bench.at(5000).poll().is_empty());
}

#[test]
fn keys_are_never_mixed() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let first = bench.only();
    for (key, call) in [("a", 1), ("b", 2), ("a", 3)] {
        bench.push(key, &limits, call);
    }
    bench.done(&first);
    let second = bench.only();
    assert_eq!(calls(&second), [1, 3]);
    bench.done(&second);
    assert_eq!(calls(&bench.only()), [2]);
}

#[test]
fn announced_arrivals_are_waited_for_while_the_upstream_is_busy() {
    let mut bench = Bench::new();
    let limits = two_slots(Duration::ZERO);
    bench.teach(&limits, 4000, 100);
    bench.push("k", &limits, 0);
    let lone = bench.only();
    let now = bench.now;
    bench.batcher.announce(0, now);
    bench.push("k", &limits, 1);
    assert!(bench.poll().is_empty());
    assert!(
        bench.wake().is_some_and(|wait| (1900..=2000).contains(&wait)),
        "c0/2, not {:?}",
        bench.wake()
    );
    bench.after(300);
    let now = bench.now;
    bench.batcher.retract(0, now);
    bench.push("k", &limits, 2);
    assert_eq!(bench.sent(), [(vec![1, 2], FlushReason::Idle)]);
    bench.done(&lone);
}

#[test]
fn a_hold_ends_by_itself() {
    let mut bench = Bench::new();
    let limits = two_slots(Duration::from_millis(1));
    bench.teach(&limits, 4000, 100);
    bench.push("k", &limits, 0);
    let _lone = bench.only();
    let now = bench.now;
    bench.batcher.announce(0, now);
    bench.push("k", &limits, 1);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.wake(), Some(1000), "the timeout caps the wait");
    assert_eq!(bench.after(1000).sent(), [(vec![1], FlushReason::Timeout)]);
}

#[test]
fn a_hold_ends_when_the_upstream_falls_idle() {
    let mut bench = Bench::new();
    let limits = two_slots(Duration::ZERO);
    bench.teach(&limits, 4000, 100);
    bench.push("k", &limits, 0);
    let lone = bench.only();
    let now = bench.now;
    bench.batcher.announce(0, now);
    bench.push("k", &limits, 1);
    assert!(bench.poll().is_empty());
    bench.after(100).done(&lone);
    assert_eq!(calls(&bench.only()), [1]);
}

#[test]
fn a_deadline_cuts_a_hold_short() {
    let mut bench = Bench::new();
    let limits = two_slots(Duration::ZERO);
    bench.teach(&limits, 4000, 100);
    bench.push("k", &limits, 0);
    let _lone = bench.only();
    let now = bench.now;
    bench.batcher.announce(0, now);
    let deadline = Some(now + Duration::from_micros(5500));
    bench
        .queue("k", &limits, Queued { deadline, ..one(1) })
        .expect("queued");
    assert!(bench.poll().is_empty());
    let wait = bench.wake().expect("held");
    assert!(wait < 800, "{wait}");
    let wait = u64::try_from(wait).expect("short");
    assert_eq!(bench.after(wait).sent(), [(vec![1], FlushReason::Deadline)]);
}

#[test]
fn each_member_leaves_at_its_own_deadline() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let first = bench.only();
    let deadline = Some(bench.now + Duration::from_millis(3));
    bench
        .queue("k", &limits, Queued { deadline, ..one(1) })
        .expect("queued");
    bench.push("k", &limits, 2);
    assert_eq!(bench.wake(), Some(3000));
    bench.at(3000);
    assert_eq!(bench.expired(), [(1, Expired::Deadline)]);
    assert_eq!(bench.expired(), []);
    bench.done(&first);
    assert_eq!(calls(&bench.only()), [2]);
}

#[test]
fn an_expired_call_is_no_member_even_if_nobody_asked_for_it_first() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let first = bench.only();
    bench.push("k", &limits, 1);
    bench.at(2_000_000).done(&first);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.expired(), [(1, Expired::QueueTimeout)]);
    assert_eq!(bench.wake(), None);
}

#[test]
fn a_batch_has_the_latest_deadline_of_its_members() {
    let mut bench = Bench::new();
    let limits = slots(1);
    let base = bench.now;
    for (call, ms) in [(0, 30), (1, 50), (2, 40)] {
        let deadline = Some(base + Duration::from_millis(ms));
        bench
            .queue(
                "k",
                &limits,
                Queued {
                    deadline,
                    ..one(call)
                },
            )
            .expect("queued");
    }
    assert_eq!(bench.only().deadline, Some(base + Duration::from_millis(50)));
}

#[test]
fn a_call_without_a_deadline_leaves_the_batch_without() {
    let mut bench = Bench::new();
    let limits = slots(1);
    let deadline = Some(bench.now + Duration::from_millis(30));
    bench
        .queue("k", &limits, Queued { deadline, ..one(0) })
        .expect("queued");
    bench.push("k", &limits, 1);
    assert_eq!(bench.only().deadline, None);
}

#[test]
fn a_call_that_cannot_make_it_is_refused_at_once() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    bench.teach(&limits, 4000, 100);
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    let deadline = Some(bench.now + Duration::from_millis(3));
    let refused = bench.queue("k", &limits, Queued { deadline, ..one(1) });
    assert!(matches!(refused, Err(Refused::TooLate(1))));
}

#[test]
fn a_full_queue_sheds_and_says_when_to_come_back() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.max_queue_size = 2;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    bench.push("k", &limits, 1);
    bench.push("k", &limits, 2);
    let Err(Refused::QueueFull { call: 3, retry_after }) = bench.queue("k", &limits, one(3)) else {
        panic!("the queue has a bound");
    };
    assert!(retry_after > Duration::ZERO && retry_after <= limits.queue_timeout);
}

#[test]
fn a_squeezed_queue_takes_less_until_it_is_squeezed_no_more() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.max_queue_size = 16;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    bench.batcher.squeeze(8);
    bench.push("k", &limits, 1);
    bench.push("k", &limits, 2);
    assert!(matches!(
        bench.queue("k", &limits, one(3)),
        Err(Refused::QueueFull { .. })
    ));
    bench.batcher.squeeze(1);
    bench.push("k", &limits, 3);
}

#[test]
fn queued_bytes_are_bounded() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.max_queue_bytes = 15;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    bench.push("k", &limits, 1);
    assert!(matches!(
        bench.queue("k", &limits, one(2)),
        Err(Refused::QueueFull { .. })
    ));
}

#[test]
fn idle_keys_make_room_and_busy_ones_do_not() {
    let mut bench = Bench::with(Settings {
        max_keys: 2,
        ..Settings::default()
    });
    let limits = slots(1);
    for key in ["a", "b", "c"] {
        bench.push(key, &limits, 0);
        let batch = bench.only();
        bench.done(&batch);
    }
    assert_eq!(bench.batcher.snapshot(bench.now).key_evictions, 1);
    bench.push("a", &limits, 0);
    let _busy = bench.only();
    bench.push("a", &limits, 1);
    bench.push("b", &limits, 2);
    assert!(matches!(
        bench.queue("c", &limits, one(3)),
        Err(Refused::TooManyKeys(3))
    ));
}

#[test]
fn the_shortest_calls_go_first_without_starving_long_ones() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.order = Order::ShortestFirst;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let busy = bench.only();
    for (call, items) in [(1, 8), (2, 1), (3, 4)] {
        bench
            .queue("k", &limits, Queued { items, ..one(call) })
            .expect("queued");
    }
    bench.done(&busy);
    let batch = bench.only();
    assert_eq!(calls(&batch), [2, 3]);
    // An eighth of the queue timeout makes up for one item.
    bench.after(1_800_000).push("k", &limits, 4);
    bench.done(&batch);
    assert_eq!(calls(&bench.only()), [1]);
}

#[test]
fn urgent_calls_go_first() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.order = Order::Priority;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let busy = bench.only();
    bench
        .queue(
            "late",
            &limits,
            Queued {
                priority: 5,
                ..one(1)
            },
        )
        .expect("queued");
    bench
        .queue(
            "soon",
            &limits,
            Queued {
                priority: 0,
                ..one(2)
            },
        )
        .expect("queued");
    bench.done(&busy);
    assert_eq!(calls(&bench.only()), [2]);
}

#[test]
fn the_earliest_deadline_goes_first() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.order = Order::EarliestDeadline;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let busy = bench.only();
    for (call, ms) in [(1, 900), (2, 500), (3, 700)] {
        let deadline = Some(bench.now + Duration::from_millis(ms));
        bench
            .queue(
                "k",
                &limits,
                Queued {
                    deadline,
                    ..one(call)
                },
            )
            .expect("queued");
    }
    bench.push("k", &limits, 4);
    bench.done(&busy);
    assert_eq!(calls(&bench.only()), [2, 3, 1, 4]);
}

#[test]
fn tenants_take_turns_between_keys() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let mut busy = bench.only();
    for call in 0..80 {
        bench
            .queue(
                "loud",
                &limits,
                Queued {
                    tenant: 1,
                    ..one(call)
                },
            )
            .expect("queued");
    }
    bench
        .queue(
            "quiet",
            &limits,
            Queued {
                tenant: 2,
                ..one(100)
            },
        )
        .expect("queued");
    let mut served = 0;
    loop {
        bench.after(100).done(&busy);
        busy = bench.only();
        if calls(&busy) == [100] {
            break;
        }
        served += busy.items;
    }
    assert!(served <= 40, "{served} calls of the loud tenant went before");
}

#[test]
fn tenants_share_a_batch_evenly() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let busy = bench.only();
    for call in 1..20 {
        bench
            .queue(
                "k",
                &limits,
                Queued {
                    tenant: 1,
                    ..one(call)
                },
            )
            .expect("queued");
    }
    for call in 100..102 {
        bench
            .queue(
                "k",
                &limits,
                Queued {
                    tenant: 2,
                    ..one(call)
                },
            )
            .expect("queued");
    }
    bench.done(&busy);
    let batch = bench.only();
    assert_eq!(batch.items, 8);
    assert!(
        calls(&batch).contains(&100) && calls(&batch).contains(&101),
        "{:?}",
        calls(&batch)
    );
}

#[test]
fn repeated_overload_pauses_the_lane_for_its_retry_after() {
    let mut bench = Bench::new();
    let limits = slots(1);
    let overloaded = Outcome::Overloaded {
        retry_after: Some(Duration::from_millis(200)),
    };
    for call in 0..3 {
        bench.push("k", &limits, call);
        let batch = bench.only();
        bench.after(100).end(&batch, overloaded);
    }
    bench.push("k", &limits, 3);
    assert!(bench.poll().is_empty());
    bench.push("other", &limits, 4);
    assert_eq!(calls(&bench.only()), [4], "another identity has its own quota");
    assert_eq!(bench.wake(), Some(200_000));
}

#[test]
fn a_paused_lane_goes_on_after_its_pause() {
    let mut bench = Bench::new();
    let limits = slots(1);
    let overloaded = Outcome::Overloaded {
        retry_after: Some(Duration::from_secs(60)),
    };
    for call in 0..3 {
        bench.push("k", &limits, call);
        let batch = bench.only();
        bench.end(&batch, overloaded);
    }
    bench.push("k", &limits, 3);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.wake(), Some(1_000_000), "no pause outlives the calls");
    assert_eq!(calls(&bench.after(1_000_000).only()), [3]);
}

#[test]
fn a_burst_of_overload_shrinks_the_window_once() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    while bench.batcher.snapshot(bench.now).window < 4.0 {
        bench.round(&limits, 16, Outcome::Ok);
    }
    let before = bench.batcher.snapshot(bench.now).window;
    bench.round(&limits, 16, Outcome::Overloaded { retry_after: None });
    let after = bench.batcher.snapshot(bench.now).window;
    assert!(
        after < before && after >= (before * 0.7).floor(),
        "{before} to {after}"
    );
}

#[test]
fn a_batch_that_was_too_large_halves_the_size_which_then_grows_one_at_a_time() {
    let mut bench = Bench::new();
    let limits = slots(1);
    let mut sizes = Vec::new();
    for round in 0..60 {
        for call in 0..8 {
            bench.push("k", &limits, call);
        }
        while bench.batcher.queued() > 0 {
            let batch = bench.only();
            if round > 0 || batch.items == 8 {
                sizes.push(batch.items);
            }
            let outcome = if batch.items > 5 {
                Outcome::TooLarge
            } else {
                Outcome::Ok
            };
            bench.end(&batch, outcome);
        }
    }
    assert_eq!(sizes[..2], [8, 4]);
    assert!(
        sizes.contains(&5) && sizes.contains(&6) && !sizes.contains(&7),
        "{sizes:?}"
    );
    assert!(
        sizes.iter().filter(|size| **size == 6).count() <= 4,
        "asking again costs ever less: {sizes:?}"
    );
}

#[test]
fn drain_empties_every_queue() {
    let mut bench = Bench::new();
    let eager = slots(1);
    let timed = fixed(50);
    bench.push("k", &eager, 0);
    let _busy = bench.only();
    bench.push("k", &eager, 1);
    bench.push("f", &timed, 2);
    assert!(bench.poll().is_empty());
    bench.batcher.drain();
    let mut sent = bench.sent();
    sent.sort();
    assert_eq!(
        sent,
        [(vec![1], FlushReason::Drain), (vec![2], FlushReason::Drain)]
    );
    assert_eq!(bench.wake(), None);
    bench.push("late", &timed, 3);
    assert_eq!(bench.sent(), [(vec![3], FlushReason::Drain)]);
}

#[test]
fn a_batch_completes_once() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let first = bench.only();
    bench.done(&first);
    bench.push("k", &limits, 1);
    let _second = bench.only();
    bench.done(&first);
    bench.push("k", &limits, 2);
    assert!(bench.poll().is_empty(), "a late second report frees no slot");
}

#[test]
fn a_small_window_of_one_route_does_not_block_another() {
    let mut bench = Bench::new();
    let narrow = slots(1);
    let wide = slots(4);
    bench.push("narrow", &narrow, 0);
    let _busy = bench.only();
    bench.push("narrow", &narrow, 1);
    bench.push("wide", &wide, 2);
    assert_eq!(calls(&bench.only()), [2]);
}

/// Fills the window with batches of one key.
fn occupied(bench: &mut Bench, limits: &Arc<Limits>) {
    for call in 0..64 {
        bench.push("slow", limits, call);
        if bench.poll().is_empty() {
            return;
        }
    }
    panic!("the window has no end");
}

#[test]
fn slow_key_holds_up_no_other_that_was_served_before() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    bench.push("quick", &limits, 100);
    let first = bench.only();
    bench.after(1_000).done(&first);
    occupied(&mut bench, &limits);
    bench.push("made up", &limits, 101);
    assert!(bench.poll().is_empty(), "a new key knows no window");
    bench.push("quick", &limits, 102);
    assert_eq!(bench.sent(), [(vec![102], FlushReason::Idle)]);
    bench.push("quick", &limits, 103);
    assert!(bench.poll().is_empty(), "it can gather behind its own batch now");
}
