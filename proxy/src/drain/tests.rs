//! The end, in its order.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn is_ready(future: impl Future<Output = ()>) -> bool {
    matches!(
        pin!(future).poll(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(())
    )
}

#[test]
fn drained_means_begun_and_no_guard_left() {
    let drain = Drain::new();
    assert!(!is_ready(drain.drained()), "an idle process is not drained");
    let listener = drain.guard();
    drain.signal();
    let connection = listener.clone();
    drop(listener);
    assert!(!is_ready(drain.drained()));
    drop(connection);
    assert!(is_ready(drain.drained()));
}

#[test]
fn who_asks_late_is_told_at_once() {
    let drain = Drain::new();
    assert!(!is_ready(drain.draining()));
    assert!(!drain.is_draining());
    drain.signal();
    drain.signal();
    assert!(drain.is_draining());
    assert!(is_ready(drain.draining()));
}

#[tokio::test]
async fn waiting_task_is_woken_by_the_last_guard() {
    let drain = Drain::new();
    let guard = drain.guard();
    let waiter = tokio::spawn({
        let drain = drain.clone();
        async move { drain.drained().await }
    });
    drain.signal();
    drop(guard);
    waiter.await.unwrap();
}
