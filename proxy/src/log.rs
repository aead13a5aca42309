//! Logs: one line an event, text or JSON, at a level that can be changed while running.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a reader of the log who
//! stands still never holds up a call.

use std::fmt;
use std::sync::Arc;

use jitney_api::program::{LineQueue, filter, writer};
use jitney_api::{BadLevel, LogLevel};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

mod access;
mod seldom;

pub(crate) use access::CUT_OFF;
pub use access::{Access, Asked, Connection, InBatch};
pub use jitney_api::program::{Format, log_panics};
pub(crate) use seldom::Seldom;

/// What is logged: a level, and levels of their own for single targets.
///
/// Written as `info` or `info,jitney_proxy=debug,access=info`.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    text: String,
    targets: Targets,
    /// Whether it says what there is of access lines.
    has_access: bool,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread could be started.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The process logs already.
    #[error("{0}")]
    Already(#[from] tracing_subscriber::util::TryInitError),
}

/// Changes what is logged, and makes sure that it is written before the process ends.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<parking_lot::Mutex<Level>>,
    queue: LineQueue,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl")
            .field("level", &*self.level.lock())
            .finish_non_exhaustive()
    }
}

impl std::str::FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        let level: LogLevel = text.parse()?;
        let targets = filter(&level);
        let has_access = level.parts().any(|(target, _)| target == Some(access::TARGET));
        Ok(Self {
            has_access,
            text: text.trim().to_owned(),
            targets: if has_access {
                targets
            } else {
                targets.with_target(access::TARGET, LevelFilter::OFF)
            },
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Level {
    /// The same level, if it is `wanted` with one access line a call, unless it says itself which of them there are.
    #[must_use]
    pub fn with_access_log(self, wanted: bool) -> Self {
        if !wanted || self.has_access {
            return self;
        }
        Self {
            has_access: true,
            text: format!("{},{}=info", self.text, access::TARGET),
            targets: self.targets.with_target(access::TARGET, LevelFilter::INFO),
        }
    }
}

impl LogControl {
    /// Starts logging to the standard error of this process.
    ///
    /// # Errors
    /// When the process logs already, or no thread can be started.
    pub fn start(format: Format, level: Level) -> Result<Self, StartError> {
        let queue = LineQueue::start(std::io::stderr())?;
        let (filter, handle) = reload::Layer::new(level.targets.clone());
        let out = writer(format, &queue);
        tracing_subscriber::registry().with(filter).with(out).try_init()?;
        Ok(Self {
            filter: handle,
            level: Arc::new(parking_lot::Mutex::new(level)),
            queue,
        })
    }

    /// Changes what is logged from now on.
    pub fn set(&self, level: Level) {
        // Fails only when the subscriber is gone, and it lives as long as the process.
        drop(self.filter.reload(level.targets.clone()));
        *self.level.lock() = level;
    }

    /// What is logged now.
    pub fn level(&self) -> Level {
        self.level.lock().clone()
    }

    /// Returns when every line so far is written, or after a second.
    pub fn flush(&self) {
        self.queue.flush();
    }
}

#[cfg(test)]
mod tests;
