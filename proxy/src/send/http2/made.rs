//! One connection of HTTP/2: how it is made, and whether it has room for a call.

use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::super::lease::Stream;
use super::super::ours::Outgoing;
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::mtls::Standing;
use crate::transport::Transport;
use crate::wire::{Budget, CONNECTION_WINDOW, Queue, STREAM_WINDOW, Wire};

/// A connection that was made.
#[derive(Debug)]
pub(in crate::send) struct Made {
    pub(super) sender: SendRequest<Body>,
    /// For how long it is proven who is there; `None`: nobody proves it.
    pub(super) standing: Option<Standing>,
    /// How many streams the endpoint allows, and what it may still send in short frames.
    pub(super) budget: Budget,
}

const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Calls that were taken back of late, and for how long each is remembered: what arrives of a reply behind that is an
/// error of the endpoint's, and after a thousand of these the connection is ended.
const MAX_RESETS: usize = 1024;
const RESETS_KNOWN: Duration = Duration::from_secs(10);
/// While calls are in flight a sidecar is asked so often whether it is there, and has as long to say so. Nobody else
/// is: servers of gRPC end connections on which they are asked more often than every five minutes ("too many pings"),
/// and [`crate::keepalive`] finds out who is gone.
const KEEP_ALIVE_OF_SIDECAR: Duration = Duration::from_secs(5);

impl Made {
    /// Whether calls may be sent on it.
    pub(super) fn is_good(&self) -> bool {
        !self.sender.is_closed() && self.standing.as_ref().is_none_or(|standing| !standing.is_over())
    }

    /// Whether the next call is better sent on another one.
    pub(super) fn is_outdated(&self) -> bool {
        self.budget.is_worn() || self.standing.as_ref().is_some_and(Standing::is_outdated)
    }

    /// Whether a stream would wait, and how many there are.
    pub(super) fn load(&self) -> (bool, bool, usize) {
        let taken = self.budget.places().taken();
        (!self.has_room(usize::MAX), self.is_stalled(), taken)
    }

    /// Whether one more would be no more than these, nor than the endpoint allows.
    pub(super) fn has_room(&self, streams: usize) -> bool {
        // One may begin before it is known how many may.
        let allowed = self.budget.streams().unwrap_or(1);
        self.budget.places().taken() < allowed.min(streams) && !self.is_clogged()
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.budget.places().is_stalled()
    }

    pub(super) fn is_clogged(&self) -> bool {
        self.budget.places().is_clogged()
    }

    pub(super) fn open(&self) -> (SendRequest<Body>, Stream) {
        (self.sender.clone(), Stream::open(&self.budget))
    }
}

/// Makes an HTTP/2 connection of a TCP connection.
pub(in crate::send) async fn handshake(
    stream: Transport<Outgoing>,
    standing: Option<Standing>,
    queue: &Arc<Queue>,
) -> Result<Made, Error> {
    let keep_alive = match stream {
        Transport::Bare(_) => None,
        Transport::Secured(_) => Some(KEEP_ALIVE_OF_SIDECAR),
    };
    let budget = Budget::behind(queue);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Not adaptive: then one reader's window would be all that there is, and the budget next to nothing.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(MAX_RESETS)
        .reset_stream_duration(RESETS_KNOWN)
        .max_header_list_size(MAX_HEADER_LIST)
        // One stream at once; how many more the peer says with its first frame. More would be refused.
        .initial_max_send_streams(1)
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(KEEP_ALIVE_OF_SIDECAR)
        .handshake(TokioIo::new(Wire::new(stream).of_server(&budget)))
        .await
        .map_err(|error| Error::caused(ErrorKind::Connect, error))?;
    // A task of its own, which nothing wakes that happens on the connection.
    let watching = standing.clone().map(|standing| {
        let queue = Arc::clone(queue);
        tokio::spawn(async move {
            // It is shared no more then, and ends with the last stream on it.
            standing.ended().await;
            queue.look_again();
        })
    });
    let queue = Arc::clone(queue);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
        queue.look_again();
        if let Some(watching) = watching {
            watching.abort();
        }
    });
    Ok(Made {
        sender,
        standing,
        budget,
    })
}
