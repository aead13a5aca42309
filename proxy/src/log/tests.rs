//! What the log looks like, and what it costs when it is off.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[test]
fn levels_are_checked_word_by_word() {
    for (text, is_level) in [
        ("info", true),
        ("WARN", true),
        (" debug ", true),
        ("off", true),
        ("info,jitney_proxy=debug", true),
        ("warn,access=info,hyper::proto=trace", true),
        ("", false),
        ("verbose", false),
        ("info,", false),
        ("info,jitney_proxy", false),
        ("jitney_proxy=loud", false),
        ("=info", false),
        ("a b=info", false),
        ("[span]=info", false),
        ("3", false),
    ] {
        assert_eq!(text.parse::<Level>().is_ok(), is_level, "{text:?}");
    }
    let error = "x".repeat(10_000).parse::<Level>().unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
}

#[test]
fn access_lines_are_off_unless_asked_for() {
    let on = |text: &str| {
        let level: Level = text.parse().unwrap();
        level.targets.would_enable("access", &tracing::Level::INFO)
    };
    assert!(!on("trace"));
    assert!(on("warn,access=info"));
    let level: Level = "warn".parse().unwrap();
    assert!(
        level
            .with_access_log()
            .targets
            .would_enable("access", &tracing::Level::INFO)
    );
}

/// A reader of the log who takes one line each time the test says so.
struct Gated {
    gate: Receiver<()>,
    seen: SyncSender<Vec<u8>>,
}

impl Write for Gated {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        // A closed gate lets everything through.
        let _ = self.gate.recv();
        drop(self.seen.try_send(text.to_vec()));
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
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
