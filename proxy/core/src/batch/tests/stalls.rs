//! Batches that hang, and who has to wait for them.

use super::*;

const MS: u64 = 1000;

/// A bench that knows that batches take a millisecond, with every slot taken by one that hangs.
fn hung(limits: &Arc<Limits>) -> (Bench, Vec<Batch<u32>>) {
    let mut bench = Bench::new();
    bench.teach(limits, MS, 0);
    let mut hung = Vec::new();
    for call in 0.. {
        bench.push("hangs", limits, call);
        match bench.poll().pop() {
            Some(batch) => hung.push(batch),
            None => break,
        }
    }
    (bench, hung)
}

/// Far more full batches than there are slots, and time for each to pass those that hang.
fn flood(bench: &mut Bench, limits: &Arc<Limits>) {
    for _ in 0..8 {
        full(bench, limits);
    }
    for _ in 0..8 {
        bench.after(100 * MS);
        bench.poll();
    }
}

fn full(bench: &mut Bench, limits: &Arc<Limits>) {
    for call in 0..limits.max_size {
        bench.push("hangs", limits, 100 + u32::try_from(call).expect("small"));
    }
}

#[test]
fn full_batches_do_not_wait_for_one_that_hangs() {
    let limits = limits(|_| {});
    let (mut bench, hung) = hung(&limits);
    full(&mut bench, &limits);
    assert!(bench.poll().is_empty(), "the window is full");
    let wake = bench.wake().expect("somebody waits");
    assert_eq!(wake, 20_000, "eight milliseconds would be a pause like any other");
    bench.after(20 * MS);
    assert_eq!(bench.only().items, limits.max_size);
    for batch in &hung {
        bench.done(batch);
    }
    assert_eq!(bench.batcher.in_flight(), 1);
}

#[test]
fn what_still_gathers_waits_a_second() {
    let limits = limits(|_| {});
    let (mut bench, _hung) = hung(&limits);
    bench.after(999 * MS);
    assert!(bench.poll().is_empty());
    bench.after(MS);
    assert_eq!(bench.only().reason, FlushReason::SlotFree);
}

#[test]
fn an_upstream_that_hangs_altogether_gets_four_batches_more() {
    let limits = limits(|_| {});
    let (mut bench, hung) = hung(&limits);
    flood(&mut bench, &limits);
    assert_eq!(bench.batcher.in_flight(), hung.len() + 4);
}

#[test]
fn a_batch_that_comes_back_late_gives_its_turn_to_another() {
    let limits = limits(|_| {});
    let (mut bench, hung) = hung(&limits);
    flood(&mut bench, &limits);
    for batch in &hung {
        bench.end(batch, Outcome::Failed);
    }
    bench.poll();
    let more = bench.batcher.in_flight();
    assert!((4..=4 + hung.len()).contains(&more), "{more} in flight");
}

#[test]
fn a_fixed_window_is_never_exceeded() {
    let limits = slots(1);
    let (mut bench, hung) = hung(&limits);
    full(&mut bench, &limits);
    bench.after(10_000 * MS);
    assert!(bench.poll().is_empty());
    assert_eq!(hung.len(), 1);
}
