//! Logs: one line an event, text or JSON, on the standard error of this process.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a reader of the log who
//! stands still never holds up a push.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt as lines};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged: a level, and levels of their own for single targets.
///
/// Written as `info` or `info,jitney_control_plane=debug`.
#[derive(Clone, Debug, PartialEq)]
pub struct Level(Targets);

/// A text that is not a [`Level`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a log level: expected off, error, warn, info, debug or trace, or TARGET=LEVEL, comma separated"
)]
pub struct BadLevel(String);

/// Makes sure that what was logged is written before the process ends.
#[derive(Clone, Debug)]
pub struct Log {
    queue: Queue,
}

#[derive(Clone, Debug)]
struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// One event being formatted; it is queued whole when it is dropped.
#[derive(Debug)]
struct Line<'q> {
    queue: &'q Queue,
    text: Vec<u8>,
}

impl std::str::FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        // `Targets` takes any lone word for a target to be logged in full; a misspelt level must not
        // do that.
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim) {
            let bad = || BadLevel(part.chars().take(64).collect());
            match part.split_once('=') {
                None => targets = targets.with_default(level(part).ok_or_else(bad)?),
                Some(("", _)) => return Err(bad()),
                Some((target, word)) => targets = targets.with_target(target, level(word).ok_or_else(bad)?),
            }
        }
        Ok(Self(targets))
    }
}

fn level(word: &str) -> Option<LevelFilter> {
    // The words, and not the numbers that the type reads as well.
    word.bytes()
        .all(|byte| byte.is_ascii_alphabetic())
        .then(|| word.parse().ok())
        .flatten()
        .filter(|_| !word.is_empty())
}

impl Log {
    /// Starts logging.
    ///
    /// # Errors
    /// When the process logs already, or no thread can be started.
    pub fn start(format: Format, level: Level) -> io::Result<Self> {
        let (sender, queued) = sync_channel(LINES_MAX);
        let queue = Queue {
            lines: sender,
            dropped: Arc::default(),
        };
        let dropped = Arc::clone(&queue.dropped);
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(64 * 1024)
            .spawn(move || write_lines(&queued, &dropped, io::stderr()))?;
        let out = lines::layer().with_writer(queue.clone()).with_ansi(false);
        let out: Box<dyn Layer<_> + Send + Sync> = match format {
            Format::Text => out.boxed(),
            Format::Json => out.json().flatten_event(true).boxed(),
        };
        let started = tracing_subscriber::registry()
            .with(out.with_filter(level.0))
            .try_init();
        started.map_err(io::Error::other)?;
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(target: "panic", place, "{}", panic.payload_as_str().unwrap_or("panicked"));
        }));
        Ok(Self { queue })
    }

    /// Returns when every line so far is written, or after a second.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        // A full queue is not waited for: its reader stands still.
        if self.queue.lines.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn write_lines(queued: &Receiver<Message>, dropped: &AtomicU64, mut out: impl Write) {
    while let Ok(message) = queued.recv() {
        // Nobody is left to be told that the log itself cannot be written.
        match message {
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Flush(done) => {
                drop(out.flush());
                let _ = done.try_send(());
            }
        }
        let lost = dropped.swap(0, Relaxed);
        if lost > 0 {
            drop(writeln!(
                out,
                "{lost} lines were not logged: the log is read too slowly"
            ));
        }
    }
}

impl<'q> MakeWriter<'q> for Queue {
    type Writer = Line<'q>;

    fn make_writer(&'q self) -> Line<'q> {
        Line {
            queue: self,
            text: Vec::with_capacity(256),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && self.queue.lines.try_send(Message::Line(text)).is_err() {
            self.queue.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// A burst of rejections; a line is a few hundred bytes.
const LINES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_word_and_by_target() {
        for good in [
            "info",
            "OFF",
            "warn,jitney_api=debug",
            "jitney_control_plane=trace",
        ] {
            assert!(good.parse::<Level>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "3", "info,", "=info", "jitney_api=loud"] {
            let told = bad.parse::<Level>().unwrap_err().to_string();
            assert!(told.contains("is not a log level"), "{told}");
        }
    }
}
