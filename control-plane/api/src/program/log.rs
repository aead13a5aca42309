//! One line an event, text or JSON.

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as lines};

use super::LineQueue;
use crate::LogLevel;

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What lets through what a level says; nothing else.
pub fn filter(level: &LogLevel) -> Targets {
    level.parts().fold(Targets::new(), |targets, (target, level)| {
        // Both sides know the same words.
        let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
        match target {
            None => targets.with_default(level),
            Some(target) => targets.with_target(target, level),
        }
    })
}

/// What writes events as lines to a queue.
pub fn writer<S>(format: Format, queue: &LineQueue) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let out = lines::layer().with_writer(queue.clone()).with_ansi(false);
    match format {
        Format::Text => out.boxed(),
        Format::Json => out.json().flatten_event(true).boxed(),
    }
}

/// Has panics logged like everything else.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "panic", place, "{}", panic.payload_as_str().unwrap_or("panicked"));
    }));
}
