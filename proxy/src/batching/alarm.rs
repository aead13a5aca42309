//! The one clock and timer of a dispatcher. tokio's wheel turns 1 ms into 2, so waits hang on a
//! `timerfd`, which is armed only while a wake-up is wanted: an idle dispatcher never wakes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Now, by the clock that tests may pause.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A timer that fires within some 50 µs of the asked instant. It takes a descriptor when it is first set.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    fd: Option<AsyncFd<Timer>>,
    set_for: Option<Instant>,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// Sets, moves or unsets the timer; one system call, and none when nothing changes.
    ///
    /// # Errors
    /// When the process may open no more files; then it fires all the same, within some 2 ms.
    pub(crate) fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        if at == self.set_for {
            return Ok(());
        }
        self.set_for = at;
        let timer = match &mut self.fd {
            Some(fd) => fd,
            none if at.is_some() => none.insert(open()?),
            None => return Ok(()),
        };
        let timer = &timer.get_ref().0;
        match at {
            Some(at) => {
                // Zero would disarm it, so what is already due fires in a nanosecond.
                let wait = at.saturating_duration_since(now()).max(Duration::from_nanos(1));
                timer.set(
                    Expiration::OneShot(TimeSpec::from_duration(wait)),
                    TimerSetTimeFlags::empty(),
                )
            }
            None => timer.unset(),
        }
        .map_err(io::Error::from)
    }

    /// Waits until the timer fires; for ever while it is not set.
    pub(crate) async fn fired(&mut self) -> io::Result<()> {
        let Some(at) = self.set_for else {
            return std::future::pending().await;
        };
        let Some(fd) = &self.fd else {
            tokio::time::sleep_until(at.into()).await;
            self.set_for = None;
            return Ok(());
        };
        let mut guard = fd.readable().await?;
        guard.clear_ready();
        // Reading resets the descriptor; setting it again would, too.
        self.set_for = None;
        match fd.get_ref().0.wait() {
            Ok(()) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn open() -> io::Result<AsyncFd<Timer>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(io::Error::from)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; `Timer` owns its descriptor and never changes it"
    )]
    AsyncFd::with_interest(Timer(timer), Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_fires_when_set_and_not_before() {
        let mut alarm = Alarm::default();
        let at = now() + Duration::from_millis(3);
        alarm.set(Some(at)).unwrap();
        alarm.fired().await.unwrap();
        assert!(now() >= at);
    }

    #[tokio::test]
    async fn what_is_already_due_fires() {
        let mut alarm = Alarm::default();
        alarm.set(Some(now())).unwrap();
        alarm.fired().await.unwrap();
    }

    #[tokio::test]
    async fn unset_it_never_fires() {
        let mut alarm = Alarm::default();
        alarm.set(Some(now() + Duration::from_millis(1))).unwrap();
        alarm.set(None).unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(20), alarm.fired()).await;
        assert!(wait.is_err());
    }

    #[tokio::test]
    async fn it_can_be_set_again() {
        let mut alarm = Alarm::default();
        for _ in 0..3 {
            alarm.set(Some(now() + Duration::from_micros(200))).unwrap();
            alarm.fired().await.unwrap();
        }
    }
}
