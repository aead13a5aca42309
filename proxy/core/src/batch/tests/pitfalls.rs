//! The pitfalls of dispatchers that came before, one test each.

use super::*;

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
