//! The pitfalls of dispatchers that came before, one test each.

use super::*;

/// An upstream that works on one batch at a time: 4 ms and 250 µs an item.
#[derive(Default)]
struct Serial {
    /// When it will have done, in microseconds, and what.
    flights: VecDeque<(u64, Batch<u32>)>,
    factor: u64,
}

impl Serial {
    /// Keeps so many calls queued for so many batches, all of one class.
    fn work(&mut self, bench: &mut Bench, limits: &Arc<Limits>, class: u32, depth: usize, batches: usize) {
        let key = format!("class {class}");
        for _ in 0..batches {
            while bench.batcher.queued() < depth {
                bench
                    .queue(&key, limits, Queued { class, ..one(0) })
                    .expect("queued");
            }
            self.send(bench);
            self.answer(bench);
        }
    }

    fn send(&mut self, bench: &mut Bench) {
        for batch in bench.poll() {
            let now = bench.micros();
            let free = self.flights.back().map_or(now, |(done, _)| now.max(*done));
            let items = u64::try_from(batch.items).expect("small");
            self.flights
                .push_back((free + self.factor.max(1) * (4000 + 250 * items), batch));
        }
    }

    fn answer(&mut self, bench: &mut Bench) {
        if let Some((done, batch)) = self.flights.pop_front() {
            bench.at(done).done(&batch);
        }
    }

    fn rest(&mut self, bench: &mut Bench) {
        while bench.batcher.queued() + bench.batcher.in_flight() > 0 {
            self.send(bench);
            self.answer(bench);
        }
    }
}

fn window(bench: &Bench) -> f64 {
    bench.batcher.snapshot(bench.now).window
}

fn cost(bench: &Bench, class: u32) -> (f64, f64) {
    let snapshot = bench.batcher.snapshot(bench.now);
    let known = snapshot
        .classes
        .iter()
        .find(|known| known.class == class)
        .expect("the class was used");
    (
        known.fixed_seconds.expect("learned"),
        known.per_item_seconds.expect("learned"),
    )
}

#[test]
fn a_bound_holds_back_what_slots_would_let_go_until_it_is_raised() {
    let (mut bench, limits) = (Bench::new(), slots(4));
    bench.batcher.bound(1);
    for call in 0..2 {
        bench.push("k", &limits, call);
    }
    assert_eq!(bench.sent(), [(vec![0, 1], FlushReason::Idle)]);
    bench.push("k", &limits, 2);
    bench.push("other", &limits, 3);
    assert_eq!(bench.sent(), []);
    bench.batcher.bound(2);
    assert_eq!(bench.sent(), [(vec![2], FlushReason::SlotFree)]);
    // However low it is, one may go.
    bench.batcher.bound(0);
    assert_eq!(bench.sent(), []);
    bench.batcher.bound(usize::MAX);
    assert_eq!(bench.sent(), [(vec![3], FlushReason::SlotFree)]);
}

#[test]
fn a_convoy_that_comes_back_together_is_broken_up() {
    let mut bench = Bench::new();
    let limits = slots(4);
    for call in 0..8 {
        bench.push("k", &limits, call);
    }
    let convoy = bench.poll();
    bench.after(1000).done(&convoy[0]);
    for call in 0..2 {
        bench.push("k", &limits, call);
    }
    assert_eq!(bench.only().items, 2, "one slot is free: they share it");
    for batch in &convoy[1..] {
        bench.done(batch);
    }
    for call in 0..6 {
        bench.push("k", &limits, call);
    }
    let sizes: Vec<_> = bench.poll().iter().map(|batch| batch.items).collect();
    assert_eq!(sizes, [2, 2, 2], "three are free: nobody waits for the convoy");
}

#[test]
fn one_heavy_call_does_not_hold_up_the_light_ones() {
    let mut bench = Bench::new();
    let limits = slots(2);
    bench
        .queue("k", &limits, Queued { items: 8, ..one(0) })
        .expect("queued");
    bench.push("k", &limits, 1);
    bench.push("k", &limits, 2);
    let sent: Vec<_> = bench.poll().iter().map(calls).collect();
    assert_eq!(sent, [vec![0], vec![1, 2]]);
}

#[test]
fn a_burst_by_the_clock_is_admitted_by_bytes() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.max_queue_bytes = 10_000;
        limits.window = Window::Fixed(1);
    });
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    let admitted = (0..100).filter(|call| {
        bench
            .queue(
                "k",
                &limits,
                Queued {
                    bytes: 1000,
                    ..one(*call)
                },
            )
            .is_ok()
    });
    assert_eq!(admitted.count(), 10);
    assert_eq!(bench.batcher.snapshot(bench.now).queued_bytes, 10_000);
}

#[test]
fn the_whole_backend_is_bounded_whatever_its_keys() {
    let mut bench = Bench::with(Settings {
        max_queued_items: 10,
        ..Settings::default()
    });
    let limits = slots(1);
    bench.push("busy", &limits, 0);
    let _busy = bench.only();
    let admitted = (0..40).filter(|call| bench.queue(&format!("{call}"), &limits, one(*call)).is_ok());
    assert_eq!(admitted.count(), 10);
}

#[test]
fn calls_of_one_key_meet_wherever_they_were_read() {
    let mut bench = Bench::new();
    let one_core = slots(1);
    let other_core = Arc::new(Limits::clone(&one_core));
    bench.push("k", &one_core, 0);
    let busy = bench.only();
    bench.push("k", &one_core, 1);
    bench.push("k", &other_core, 2);
    bench.done(&busy);
    assert_eq!(calls(&bench.only()), [1, 2]);
}

#[test]
fn a_slow_class_does_not_spoil_the_model_of_a_fast_one() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    for _ in 0..30 {
        for (class, micros) in [(1, 1000), (2, 50_000)] {
            bench
                .queue(&format!("{class}"), &limits, Queued { class, ..one(0) })
                .expect("queued");
            let batch = bench.only();
            bench.after(micros).done(&batch);
        }
    }
    let (fast, slow) = (cost(&bench, 1), cost(&bench, 2));
    assert!((0.0009..0.0011).contains(&(fast.0 + fast.1)), "{fast:?}");
    assert!((0.045..0.055).contains(&(slow.0 + slow.1)), "{slow:?}");
}

#[test]
fn what_failed_teaches_nothing_about_cost() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    bench.teach(&limits, 4000, 100);
    let before = cost(&bench, 0);
    for outcome in [
        Outcome::Failed,
        Outcome::Abandoned,
        Outcome::Overloaded { retry_after: None },
    ] {
        for _ in 0..20 {
            bench.push("k", &limits, 0);
            let batch = bench.only();
            bench.after(1).end(&batch, outcome);
        }
    }
    assert_eq!(cost(&bench, 0), before);
}

#[test]
fn permanent_overload_does_not_widen_the_window() {
    let mut bench = Bench::new();
    let limits = limits(|limits| limits.max_queue_size = 1000);
    let mut upstream = Serial::default();
    let mut wide = 0;
    for _ in 0..300 {
        upstream.work(&mut bench, &limits, 0, 40, 10);
        wide += usize::from(window(&bench) > 1.0);
    }
    assert!(wide <= 6, "the window was above 1 in {wide} looks of 300");
    let (fixed, per_item) = cost(&bench, 0);
    let full = fixed + 8.0 * per_item;
    assert!(
        (0.005..0.0075).contains(&full),
        "the model has drifted to {full} s for a full batch"
    );
}

#[test]
fn an_upstream_that_turns_slower_is_learned_anew() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    let mut upstream = Serial::default();
    upstream.work(&mut bench, &limits, 0, 20, 100);
    upstream.factor = 3;
    upstream.work(&mut bench, &limits, 0, 20, 400);
    upstream.rest(&mut bench);
    assert_eq!(window(&bench), 1.0);
    // A call whose deadline the slower upstream cannot make is refused, one it can make is not.
    bench.push("k", &limits, 0);
    let _busy = bench.only();
    let mut with = |ms| {
        let deadline = Some(bench.now + Duration::from_millis(ms));
        bench
            .queue("class 0", &limits, Queued { deadline, ..one(1) })
            .is_ok()
    };
    assert!(!with(6) && with(25));
}

#[test]
fn waits_below_a_millisecond_are_kept() {
    let mut bench = Bench::new();
    let limits = limits(|limits| {
        limits.dispatch = Dispatch::Fixed;
        limits.timeout = Duration::from_micros(150);
    });
    bench.push("k", &limits, 0);
    assert_eq!(bench.wake(), Some(150));
    assert!(bench.after(149).poll().is_empty());
    assert_eq!(bench.after(1).sent(), [(vec![0], FlushReason::Timeout)]);
}

#[test]
fn a_pessimistic_model_never_locks_everyone_out() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    bench.teach(&limits, 5_000_000, 0);
    let deadline = Some(bench.now + Duration::from_secs(2));
    let call = Queued { deadline, ..one(1) };
    assert!(
        bench.queue("k", &limits, call).is_ok(),
        "with nothing in flight the model is put to the test"
    );
}

#[test]
fn an_announcement_that_is_never_taken_back_holds_nobody_for_long() {
    let mut bench = Bench::new();
    let limits = two_slots(Duration::ZERO);
    bench.teach(&limits, 4000, 100);
    for _ in 0..3 {
        bench.batcher.announce(0, bench.now);
    }
    bench.push("k", &limits, 0);
    assert_eq!(bench.sent().len(), 1, "a lone call never waits");
    bench.push("k", &limits, 1);
    assert!(bench.poll().is_empty());
    let wait = bench.wake().expect("held");
    assert!(wait <= 2000, "{wait}");
    assert_eq!(bench.after(2000).sent(), [(vec![1], FlushReason::Timeout)]);
}

#[test]
fn a_retract_without_an_announcement_is_harmless() {
    let mut bench = Bench::new();
    bench.batcher.retract(7, bench.now);
    bench.push("k", &limits(|_| {}), 0);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn time_going_backwards_does_not_panic() {
    let mut bench = Bench::new();
    let limits = limits(|_| {});
    bench.at(10_000).push("k", &limits, 0);
    let batch = bench.only();
    bench.at(0).push("k", &limits, 1);
    bench.done(&batch);
    bench.poll();
    bench.batcher.snapshot(bench.now);
}

#[test]
fn callers_that_give_up_in_front_of_a_stuck_upstream_leave_nothing_behind() {
    let mut bench = Bench::new();
    let limits = slots(1);
    bench.push("k", &limits, 0);
    let _stuck = bench.only();
    for call in 0..5000 {
        let ticket = bench.push("k", &limits, call);
        assert_eq!(bench.batcher.cancel(ticket), Some(call));
        assert_eq!(bench.wake(), None);
    }
    assert_eq!(bench.batcher.queued(), 0);
}
