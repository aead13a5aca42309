//! Logs: one line an event, text or JSON, on the standard error of this process.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a reader of the log who
//! stands still never holds up a push.

use std::io;

use jitney_api::LogLevel;
pub use jitney_api::program::Format;
use jitney_api::program::{LineQueue, filter, log_panics, writer};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Makes sure that what was logged is written before the process ends.
#[derive(Clone, Debug)]
pub struct Log {
    queue: LineQueue,
}

impl Log {
    /// Starts logging.
    ///
    /// # Errors
    /// When the process logs already, or no thread can be started.
    pub fn start(format: Format, level: &LogLevel) -> io::Result<Self> {
        let queue = LineQueue::start(io::stderr())?;
        let out = writer(format, &queue).with_filter(filter(level));
        let started = tracing_subscriber::registry().with(out).try_init();
        started.map_err(io::Error::other)?;
        log_panics();
        Ok(Self { queue })
    }

    /// Returns when every line so far is written, or after a second.
    pub fn flush(&self) {
        self.queue.flush();
    }
}
