//! The idle HTTP/1.1 connections to one endpoint: last in, first out, so that what is not needed ages.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lease::Held;
use super::ours::Outgoing;
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::transport::Transport;
use crate::waking;
use crate::wire::Wire;

/// The idle connections.
#[derive(Debug)]
pub(super) struct Idle {
    connections: Mutex<Vec<Parked>>,
    /// The most that are kept; 0 once the list is closed.
    max: AtomicUsize,
    /// Counts the sweeps, so that parking a connection reads no clock.
    epoch: AtomicU32,
    /// Wakes the sweeper when the list is no longer empty.
    filled: Arc<Notify>,
}

#[derive(Debug)]
struct Parked {
    sender: SendRequest<Body>,
    since: u32,
}

/// A connection whose task has not yet come round to saying that it is ready is looked past, at most so often.
const LOOKED_PAST: usize = 8;
/// The largest head of a reply, and the most that is buffered of a body.
const MAX_BUFFER: usize = 64 * 1024;

impl Idle {
    /// No connections yet; a task ends those that nobody used for `timeout` to twice that.
    pub(super) fn start(max: usize, timeout: Duration) -> Arc<Self> {
        let idle = Arc::new(Self {
            connections: Mutex::new(Vec::new()),
            max: AtomicUsize::new(max),
            epoch: AtomicU32::new(0),
            filled: Arc::new(Notify::new()),
        });
        tokio::spawn(sweep(Arc::downgrade(&idle), Arc::clone(&idle.filled), timeout));
        idle
    }

    /// A connection that is ready for a request.
    pub(super) fn take(&self) -> Option<SendRequest<Body>> {
        let mut connections = self.connections.lock();
        let mut looked_past = 0;
        let mut at = connections.len();
        while at > 0 && looked_past < LOOKED_PAST {
            at -= 1;
            if connections[at].sender.is_ready() {
                return Some(connections.remove(at).sender);
            }
            if connections[at].sender.is_closed() {
                drop(connections.remove(at));
            } else {
                looked_past += 1;
            }
        }
        None
    }

    /// Keeps a connection for the next call, unless there are enough.
    pub(super) fn put(&self, sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        let since = self.epoch.load(Ordering::Relaxed);
        let mut connections = self.connections.lock();
        if connections.len() >= self.max.load(Ordering::Relaxed) {
            return;
        }
        connections.push(Parked { sender, since });
        let is_first = connections.len() == 1;
        drop(connections);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// Ends all that are idle, and keeps no other.
    pub(super) fn close(&self) {
        let mut connections = self.connections.lock();
        // With the lock held: whoever is about to keep one sees either this or is cleared away here.
        self.max.store(0, Ordering::Relaxed);
        let idle = std::mem::take(&mut *connections);
        drop(connections);
        drop(idle);
    }

    pub(super) fn len(&self) -> usize {
        self.connections.lock().len()
    }

    /// Ends what was parked before the last sweep; true while anything is left.
    fn sweep(&self) -> bool {
        let now = self.epoch.fetch_add(1, Ordering::Relaxed);
        let mut connections = self.connections.lock();
        connections.retain(|parked| parked.since == now && !parked.sender.is_closed());
        !connections.is_empty()
    }
}

/// Sweeps while there is something to sweep, and sleeps without a timer while there is not.
async fn sweep(idle: Weak<Idle>, filled: Arc<Notify>, every: Duration) {
    loop {
        filled.notified().await;
        loop {
            tokio::time::sleep(every).await;
            match idle.upgrade() {
                None => return,
                Some(idle) if !idle.sweep() => break,
                Some(_) => {}
            }
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // The sweeper then finds nobody to sweep for, and ends.
        self.filled.notify_one();
    }
}

/// Sends a request: to be waited for is the head of its reply, with what is left of the connection then. The future
/// fails with the request, if that was certainly not sent. Dropping the two closes the connection.
///
/// No future of its own, which would hold the request a second time.
pub(super) fn send(
    mut sender: SendRequest<Body>,
    request: Request<Body>,
) -> (
    impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>>,
    Held,
) {
    let sending = sender.try_send_request(request);
    // The channel between them is closed before it is emptied. What is put in between the two stays there as long as
    // there is a sender, and whoever waits for a reply to that waits in vain.
    let open = Some(sender).filter(|sender| !sender.is_closed());
    (sending, open.map_or(Held::Nothing, Held::Http1))
}

/// Makes an HTTP/1.1 connection of a TCP connection; one for an upgrade may switch protocols.
pub(super) async fn handshake(
    stream: Transport<Outgoing>,
    is_for_upgrade: bool,
) -> Result<SendRequest<Body>, Error> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(Wire::new(stream)))
        .await
        .map_err(|error| Error::caused(ErrorKind::Connect, error))?;
    // The task ends when its sender is dropped and the last reply was read, or when the peer closes.
    if is_for_upgrade {
        tokio::spawn(async move { log_end(waking::run(connection.with_upgrades()).await) });
    } else {
        tokio::spawn(async move { log_end(waking::run(connection).await) });
    }
    Ok(sender)
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "upstream connection ended");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread::JoinHandle;

    use super::*;

    /// So often a request meets the end of its connection: where two threads run at once, one of some thousand times
    /// at the wrong moment.
    pub(in crate::send) const MEETINGS: u32 = 6_000;

    /// Ends a connection on another thread as soon as it is told to.
    pub(in crate::send) fn end<C: Send + 'static>(
        connection: C,
        turn: u32,
    ) -> (Arc<AtomicBool>, JoinHandle<()>) {
        let is_told = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_told);
        let ending = std::thread::spawn(move || {
            while !told.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            (0..turn % 64).for_each(|_| std::hint::spin_loop());
            drop(connection);
        });
        (is_told, ending)
    }

    #[tokio::test]
    async fn a_request_that_meets_the_end_of_its_connection_is_not_waited_for() {
        for turn in 0..MEETINGS {
            let (stream, _peer) = tokio::io::duplex(16);
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            let (tell, ending) = end(connection, turn);
            tell.store(true, Ordering::Release);
            let (sending, _held) = send(sender, Request::new(Body::empty()));
            let mut failure = sending.await.unwrap_err();
            assert!(failure.take_message().is_some(), "it was not sent");
            ending.join().unwrap();
        }
    }
}
