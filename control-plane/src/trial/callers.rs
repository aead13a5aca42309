//! The callers: eight at once, each of whom has to get its own item, byte for byte.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{CallArgs, NoReply, Seen, get, item, shown};

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    calls: u64,
    seen: Seen,
}

/// Why it is no success, with what to look at.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nobody is there, or nobody lets the calls through.
    #[error(
        "{service} has answered no call in {} s: {last}. Look at the pods of the service, and at the log of this \
         pod's sidecar", patience.as_secs()
    )]
    NoReply {
        /// Who was called.
        service: String,
        /// How long.
        patience: Duration,
        /// What the last call came to.
        last: String,
    },
    /// A caller did not get what is its own.
    #[error("{service}{path}: expected {expected}, got {got}")]
    Wrong {
        /// Who was called.
        service: String,
        /// What for.
        path: String,
        /// The reply that a direct call has.
        expected: String,
        /// What came.
        got: String,
    },
    /// All is answered, and nothing is batched.
    #[error("{calls} calls were answered, eight at once, and no batch was formed: {why}")]
    NoBatch {
        /// How many.
        calls: u64,
        /// What is known of the reason.
        why: String,
    },
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, seen } = self;
        let Seen {
            merged,
            batches,
            items,
        } = seen;
        write!(
            f,
            "calls are batched: {calls} were made, eight at once, and each had its own reply; the sidecar of the \
             service has formed {batches} batches of {items} items, {merged} of them of more than one"
        )
    }
}

/// Calls until a batch was formed.
pub(super) async fn run(args: &CallArgs) -> Result<Shown, Failed> {
    let service = args.service.as_str();
    first_reply(service, args.patience).await?;
    let (end, mut calls) = (Instant::now() + args.patience, 0);
    loop {
        let told = round(service, calls).await?;
        calls += told;
        let why = match look(service).await {
            Ok(seen) if seen.merged > 0 && seen.items > seen.batches => return Ok(Shown { calls, seen }),
            Ok(seen) => reason(&seen),
            Err(error) => format!("{service}/seen: {error}. Has its pod been given a sidecar?"),
        };
        if Instant::now() >= end {
            return Err(Failed::NoBatch { calls, why });
        }
        sleep(BETWEEN_ROUNDS).await;
    }
}

/// Until pods are ready and every node and sidecar knows of them, a call may come to nothing.
async fn first_reply(service: &str, patience: Duration) -> Result<(), Failed> {
    let end = Instant::now() + patience;
    loop {
        let Err(last) = get(service, "/items/0").await else {
            return Ok(());
        };
        if Instant::now() >= end {
            return Err(Failed::NoReply {
                service: service.to_owned(),
                patience,
                last: last.to_string(),
            });
        }
        sleep(BETWEEN_ROUNDS).await;
    }
}

/// Callers at once, each for an item that nobody has asked for; gives how many there were.
async fn round(service: &str, from: u64) -> Result<u64, Failed> {
    let mut asking = JoinSet::new();
    for id in from + 1..=from + CALLERS {
        let service = service.to_owned();
        asking.spawn(async move {
            let (path, expected) = (format!("/items/{id}"), item(&id.to_string()));
            let reply = get(&service, &path).await;
            let got = match reply {
                Ok(body) if body == expected.as_bytes() => return Ok(()),
                Ok(body) => shown(&body),
                Err(error) => error.to_string(),
            };
            Err(Failed::Wrong {
                service,
                path,
                expected,
                got,
            })
        });
    }
    while let Some(asked) = asking.join_next().await {
        // A panic in there ends the process with its message.
        asked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(CALLERS)
}

async fn look(service: &str) -> Result<Seen, NoReply> {
    let body = get(service, "/seen").await?;
    serde_json::from_slice(&body).map_err(|_| NoReply::Status {
        status: StatusCode::OK,
        text: shown(&body),
    })
}

fn reason(seen: &Seen) -> String {
    if seen.batches == 0.0 {
        "the sidecar of the service runs no policy for them. Look at the status of the BatchPolicy".to_owned()
    } else {
        let Seen {
            merged,
            batches,
            items,
        } = seen;
        format!(
            "its sidecar counts {batches} batches of {items} items, and {merged} calls for several items came"
        )
    }
}

/// How many call at once.
const CALLERS: u64 = 8;
/// So that waiting is no load.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(200);
