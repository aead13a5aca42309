//! A connection beside what may end it, which is asked only when it has something to say: whatever else wakes the
//! task is none of its business.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

/// What the end of a connection wakes.
#[derive(Debug)]
struct Bell {
    is_rung: AtomicBool,
    /// Stays the same for all of a task's life.
    task: OnceLock<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

/// The first that ends ends the other.
pub(super) async fn either(serving: impl Future<Output = ()>, end: impl Future<Output = ()>) {
    let (mut serving, mut end) = (pin!(serving), pin!(end));
    let bell = Arc::new(Bell {
        is_rung: AtomicBool::new(true),
        task: OnceLock::new(),
    });
    let waker = Waker::from(Arc::clone(&bell));
    poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Cheaper than taking the bell down, as it is hardly ever rung.
        if !bell.is_rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        bell.task.get_or_init(|| cx.waker().clone());
        bell.is_rung.store(false, Ordering::Release);
        end.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::sync::Notify;

    #[tokio::test]
    async fn the_first_that_ends_ends_the_other() {
        either(ready(()), pending()).await;
        either(pending(), ready(())).await;
        either(pending(), tokio::time::sleep(Duration::from_millis(1))).await;
    }

    #[tokio::test]
    async fn the_end_is_asked_only_when_it_was_woken() {
        let (other, end) = (Notify::new(), Notify::new());
        let mut asked = 0;
        let mut ending = pin!(async {
            end.notified().await;
            end.notified().await;
        });
        let ended = either(
            async {
                loop {
                    other.notified().await;
                }
            },
            poll_fn(|cx| {
                asked += 1;
                ending.as_mut().poll(cx)
            }),
        );
        let waking = async {
            for _ in 0..5 {
                other.notify_one();
                tokio::task::yield_now().await;
            }
            for _ in 0..2 {
                end.notify_one();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(ended, waking);
        assert_eq!(asked, 3);
    }
}
