//! The HTTP/2 connections to one endpoint, shared by all calls, and whether it speaks HTTP/2 at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lease::Stream;
use super::ours::Outgoing;
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::transport::Transport;
use crate::wire::{Budget, Queue};

mod made;

pub(super) use made::{Made, handshake};

/// The shared connections.
#[derive(Debug, Default)]
pub(super) struct Shared {
    connections: Mutex<Vec<Made>>,
    /// Held while a connection is made, so that a burst of calls makes one.
    connecting: tokio::sync::Mutex<()>,
    /// How many could not be made, and why the last one could not.
    failed: Mutex<(u64, Option<ErrorKind>)>,
    /// How often the endpoint was asked whether it speaks HTTP/2.
    asked: AtomicU64,
    /// Set once no connection is shared any more. Written and read with `connections` locked.
    is_closed: AtomicBool,
    spoken: AtomicU8,
    /// Who waits for a stream where no further connection is made.
    queue: Arc<Queue>,
}

/// What a call finds.
enum Found {
    Room((SendRequest<Body>, Stream)),
    /// Another connection is to be made.
    NoRoom,
    /// A stream is to be waited for.
    Full,
}

/// Streams on one connection before another one is made (RFC 9113 section 6.5.2: servers should allow at least 100;
/// fewer if this one says so).
const MAX_STREAMS: usize = 100;
/// Connections to one endpoint; beyond these, streams wait for their turn.
const MAX_CONNECTIONS: usize = 16;
/// So many on which nothing is read, and no other is made: it is not the one connection's fault.
const MAX_CLOGGED: usize = 2;
/// How long an endpoint may take to say that it speaks HTTP/2, and how much of it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;
/// It said nothing in time, or ended the connection: most of HTTP/1.1 do that, and one of HTTP/2 that is busy, or ends.
const HARDLY: u8 = 3;

impl Shared {
    /// A sender with room for a stream; `connect` makes a connection when there is none. One that was made with an
    /// earlier certificate of this side's, or whose budget is worn, is used while no other can be made, as long as
    /// who is there is proven.
    ///
    /// # Cancellation
    /// Nothing is left behind.
    pub(super) async fn sender<C, F>(&self, connect: C) -> Result<(SendRequest<Body>, Stream), Error>
    where
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<Made, Error>> + Send,
    {
        let mut found = self.find();
        loop {
            found = match found {
                Found::Room(found) => return Ok(found),
                Found::Full => {
                    let unless_full = || Some(self.find()).filter(|found| !matches!(found, Found::Full));
                    // Boxed as all that is rare.
                    Box::pin(self.queue.wait(unless_full)).await
                }
                Found::NoRoom => match Box::pin(self.make(&connect)).await {
                    Ok(found) => found,
                    Err(error) => return self.find_outdated().ok_or(error),
                },
            };
        }
    }

    async fn make<C, F>(&self, connect: &C) -> Result<Found, Error>
    where
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<Made, Error>> + Send,
    {
        let before = self.failed.lock().0;
        let connecting = self.connecting.lock().await;
        let found = self.find();
        if !matches!(found, Found::NoRoom) {
            return Ok(found);
        }
        if let Some(young) = self.young() {
            // How many calls it takes is known a round trip after it was made, and none would begin before.
            let _late = tokio::time::timeout(PROBE_TIMEOUT, young.streams_are_known()).await;
            young.presume_streams();
            let found = self.find();
            if !matches!(found, Found::NoRoom) {
                return Ok(found);
            }
        }
        self.failed_since(before)?;
        let made = connect().await.inspect_err(|error| self.fails(error))?;
        let found = Found::Room(made.open());
        let mut connections = self.connections.lock();
        // Those that are outdated end with their last streams.
        let outdated: Vec<_> = connections.extract_if(.., |other| other.is_outdated()).collect();
        if !self.is_closed.load(Ordering::Relaxed) {
            connections.push(made);
        }
        drop(connections);
        drop((outdated, connecting));
        Ok(found)
    }

    /// Sends a request, and waits for the head of its reply.
    ///
    /// # Errors
    /// With the request, if it was certainly not sent.
    ///
    /// # Cancellation
    /// Dropping the future resets the stream.
    pub(super) async fn send(
        &self,
        mut sender: SendRequest<Body>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let sending = sender.try_send_request(request);
        // As for HTTP/1: nobody may wait with a sender in hand, and no other is to be kept of a connection that is over.
        if sender.is_closed() {
            self.connections.lock().retain(Made::is_good);
        }
        drop(sender);
        sending.await
    }

    /// Whoever waited for one that could not be made has waited long enough.
    fn failed_since(&self, before: u64) -> Result<(), Error> {
        match *self.failed.lock() {
            (count, Some(kind)) if count != before => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn fails(&self, error: &Error) {
        let mut failed = self.failed.lock();
        *failed = (failed.0 + 1, Some(error.kind()));
    }

    fn find(&self) -> Found {
        let mut connections = self.connections.lock();
        connections.retain(Made::is_good);
        let current = || connections.iter().filter(|made| !made.is_outdated());
        let Some(least) = current().min_by_key(|made| made.load()) else {
            return Found::NoRoom;
        };
        if least.has_room(MAX_STREAMS) {
            return Found::Room(least.open());
        }
        let clogged = current().filter(|made| made.is_clogged()).count();
        let is_last = clogged >= MAX_CLOGGED || current().count() >= MAX_CONNECTIONS;
        match is_last {
            false => Found::NoRoom,
            // As many as the endpoint itself allows, as long as it reads.
            true if least.has_room(usize::MAX) && !least.is_stalled() => Found::Room(least.open()),
            true => Found::Full,
        }
    }

    /// A connection of which it is not known yet how many streams the endpoint allows.
    fn young(&self) -> Option<Budget> {
        let connections = self.connections.lock();
        let mut budgets = connections.iter().map(|made| &made.budget);
        budgets.find(|budget| budget.streams().is_none()).cloned()
    }

    fn find_outdated(&self) -> Option<(SendRequest<Body>, Stream)> {
        let connections = self.connections.lock();
        let good = connections.iter().filter(|made| made.is_good());
        good.min_by_key(|made| made.load()).map(Made::open)
    }

    /// To whom a place on any of the connections is told.
    pub(super) const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Lets go of all connections: each ends with the last stream on it. Those made later are not shared.
    pub(super) fn close(&self) {
        let mut connections = self.connections.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        let shared = std::mem::take(&mut *connections);
        drop(connections);
        drop(shared);
        self.queue.look_again();
    }

    pub(super) fn len(&self) -> usize {
        self.connections.lock().len()
    }

    /// What was found out about the endpoint: whether it speaks HTTP/2 with prior knowledge.
    fn known(&self, is_lost: bool) -> Option<bool> {
        match self.spoken.load(Ordering::Relaxed) {
            UNKNOWN => None,
            HARDLY if is_lost => None,
            known => Some(known == YES),
        }
    }

    /// Whether the endpoint speaks HTTP/2 with prior knowledge: asked once, then remembered. One that did not say is
    /// asked again for a call that is `lost` without it, at once for all that wait.
    pub(super) async fn is_spoken<C, F>(&self, is_lost: bool, connect: C) -> Result<bool, Error>
    where
        C: FnOnce() -> F + Send,
        F: Future<Output = Result<Transport<Outgoing>, Error>> + Send,
    {
        if let Some(known) = self.known(is_lost) {
            return Ok(known);
        }
        let (asked, failed) = (self.asked.load(Ordering::Relaxed), self.failed.lock().0);
        let asking = self.connecting.lock().await;
        let is_news = self.asked.load(Ordering::Relaxed) != asked;
        if let Some(known) = self.known(is_lost && !is_news) {
            return Ok(known);
        }
        self.failed_since(failed)?;
        let connected = connect().await.inspect_err(|error| self.fails(error))?;
        let told = tokio::time::timeout(PROBE_TIMEOUT, probe(connected)).await;
        let spoken = match told.ok().flatten() {
            Some(true) => YES,
            Some(false) => NO,
            None => HARDLY,
        };
        self.spoken.store(spoken, Ordering::Relaxed);
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(asking);
        Ok(spoken == YES)
    }

    /// Asks again next time: what listens there may have been replaced.
    pub(super) fn forget(&self) {
        self.spoken.store(UNKNOWN, Ordering::Relaxed);
    }
}

/// An HTTP/2 server's first frame is SETTINGS (RFC 9113 section 3.4); anything else is no HTTP/2. `None`: it said
/// nothing.
async fn probe(mut stream: Transport<Outgoing>) -> Option<bool> {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const SETTINGS: u8 = 4;
    let mut frame = [0; 9];
    stream.write_all(HELLO).await.ok()?;
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame[3] == SETTINGS && frame[5..] == [0; 4])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::DuplexStream;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::super::http1::tests::{MEETINGS, end};
    use super::super::ours::Ours;
    use super::*;
    use crate::metrics::{Metrics, OpenConnection};

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_one_connection_that_cannot_be_made_and_not_one_after_the_other() {
        let (shared, tried) = (Arc::new(Shared::default()), Arc::new(AtomicUsize::new(0)));
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let (shared, tried) = (Arc::clone(&shared), Arc::clone(&tried));
            calls.spawn(async move {
                let connect = || async {
                    tried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    Err(ErrorKind::ConnectTimeout.into())
                };
                let failed = shared.sender(connect).await.map(drop).unwrap_err();
                failed.kind()
            });
        }
        assert_eq!(calls.join_all().await, [ErrorKind::ConnectTimeout; 16]);
        assert_eq!(tried.load(Ordering::Relaxed), 1);
        let again = || async {
            tried.fetch_add(1, Ordering::Relaxed);
            Err(ErrorKind::Connect.into())
        };
        assert!(shared.sender(again).await.is_err());
        assert_eq!(tried.load(Ordering::Relaxed), 2, "the next one tries anew");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_lost_without_it_ask_an_endpoint_that_did_not_say_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, asked) = (Arc::new(Shared::default()), Arc::new(AtomicUsize::new(0)));
        let ask = |is_lost| {
            let (shared, asked) = (Arc::clone(&shared), Arc::clone(&asked));
            async move {
                let connect = || async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let stream = TcpStream::connect(address).await.unwrap();
                    let open = OpenConnection::count(&Metrics::new().backend("users"));
                    Ok(Transport::Bare(Ours::default().remember(stream, open)))
                };
                shared.is_spoken(is_lost, connect).await.unwrap()
            }
        };
        for expected in 1..=3 {
            let all = (0..8).map(|_| tokio::spawn(ask(true)));
            for spoken in all.collect::<Vec<_>>() {
                assert!(!spoken.await.unwrap());
            }
            assert!(!ask(false).await, "it is remembered");
            assert_eq!(asked.load(Ordering::Relaxed), expected, "once for all that wait");
        }
        drop(listener);
    }

    type Connection = http2::Connection<TokioIo<DuplexStream>, Body, TokioExecutor>;

    async fn made(stream: DuplexStream) -> (Made, Connection) {
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        let made = Made {
            sender,
            standing: None,
            budget: Budget::default(),
        };
        (made, connection)
    }

    #[tokio::test]
    async fn as_many_streams_are_open_as_the_endpoint_allows() {
        let (shared, mut open, mut held) = (Shared::default(), Vec::new(), Vec::new());
        for _ in 0..MAX_CONNECTIONS {
            assert!(matches!(shared.find(), Found::NoRoom));
            let (stream, peer) = tokio::io::duplex(4096);
            let (made, connection) = made(stream).await;
            // It has not said how many, and one may be open before it does.
            open.push(made.open());
            shared.connections.lock().push(made);
            held.push((connection, peer));
        }
        assert!(matches!(shared.find(), Found::Full));
        let budgets: Vec<_> = shared
            .connections
            .lock()
            .iter()
            .map(|made| made.budget.clone())
            .collect();
        budgets.iter().for_each(Budget::presume_streams);
        for _ in 0..2 * MAX_CONNECTIONS * MAX_STREAMS {
            let Found::Room(found) = shared.find() else {
                panic!("the endpoint allows any number");
            };
            open.push(found);
        }
        let taken = budgets.iter().map(|budget| budget.places().taken());
        assert!(taken.eq([2 * MAX_STREAMS + 1; MAX_CONNECTIONS]), "evenly");
        drop(open);
        assert!(budgets.iter().all(|budget| budget.places().taken() == 0));
    }

    #[tokio::test]
    async fn a_request_that_meets_the_end_of_its_connection_is_not_waited_for() {
        for turn in 0..MEETINGS {
            let shared = Shared::default();
            let (stream, _peer) = tokio::io::duplex(4096);
            let (made, connection) = made(stream).await;
            let sender = made.sender.clone();
            shared.connections.lock().push(made);
            let (tell, ending) = end(connection, turn);
            tell.store(true, Ordering::Release);
            // More is done away with before its channel is.
            (0..turn % 500).for_each(|_| std::hint::spin_loop());
            let sent = shared.send(sender, Request::new(Body::empty())).await;
            let mut failure = sent.unwrap_err();
            assert!(failure.take_message().is_some(), "it was not sent");
            ending.join().unwrap();
        }
    }

    /// What a client of HTTP/2 writes on a connection on which a call is under way for two minutes.
    #[tokio::test(start_paused = true)]
    async fn a_service_is_not_asked_whether_it_is_there() {
        const PING: u8 = 6;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        let open = OpenConnection::count(&Metrics::new().backend("users"));
        let stream = Transport::Bare(Ours::default().remember(stream, open));
        let mut made = handshake(stream, None, &Arc::default()).await.unwrap();
        let call = made.sender.send_request(Request::new(Body::empty()));
        let call = tokio::spawn(call);
        // Preface, then frames: those of the connection, and the call's.
        let mut read = [0; 24];
        service.read_exact(&mut read).await.unwrap();
        let mut kinds = Vec::new();
        while !kinds.contains(&1) {
            kinds.push(frame(&mut service).await.unwrap());
        }
        for _ in 0..12 {
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        drop(made);
        call.abort();
        while let Some(kind) = frame(&mut service).await {
            kinds.push(kind);
        }
        assert!(!kinds.contains(&PING), "{kinds:?}");
    }

    /// The next frame's kind; `None` at the end.
    async fn frame(stream: &mut TcpStream) -> Option<u8> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some(head[3])
    }
}
