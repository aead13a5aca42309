//! A bounded queue of lines and the thread that writes them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Where lines are queued. At the bound a line is dropped, and later the number of them is written.
#[derive(Clone, Debug)]
pub struct LineQueue {
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
pub struct Line<'q> {
    queue: &'q LineQueue,
    text: Vec<u8>,
}

impl LineQueue {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queued) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Self {
            lines,
            dropped: Arc::clone(&dropped),
        };
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(64 * 1024)
            .spawn(move || write_lines(&queued, &dropped, out))?;
        Ok(queue)
    }

    /// Waits until what was queued before is written, a second at most.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        // The queue may be full; its reader gets as much time as the flush has.
        for _ in 0..100 {
            match self.lines.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            if wait.recv_timeout(Duration::from_millis(10)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        let _ = wait.recv_timeout(Duration::from_secs(1));
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

impl<'q> MakeWriter<'q> for LineQueue {
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

/// Enough for a burst of access lines; a line is a few hundred bytes.
const LINES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A reader of the log who takes one line each time the test says so.
    struct Gated {
        gate: Receiver<()>,
        seen: SyncSender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // A closed gate lets everything through.
            let _ = self.gate.recv();
            drop(self.seen.try_send(text.to_vec()));
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn stuck_reader_costs_lines_not_calls() {
        let (open, gate) = sync_channel(0);
        let (seen, lines) = sync_channel(100_000);
        let queue = LineQueue::start(Gated { gate, seen }).unwrap();
        for n in 0..10_000 {
            queue
                .make_writer()
                .write_all(format!("line {n}\n").as_bytes())
                .unwrap();
        }
        drop(open);
        queue.flush();
        let seen: Vec<String> = lines
            .try_iter()
            .map(|line| String::from_utf8(line).unwrap())
            .collect();
        let written = seen.iter().filter(|line| line.starts_with("line ")).count();
        assert!((4096..=4098).contains(&written), "{written}");
        let said: String = seen.concat();
        let lost = 10_000 - written;
        assert!(said.contains(&format!("{lost} lines were not logged")), "{lost}");
    }
}
