//! The listening side: takes connections, at most so many, tells what each speaks, and has it served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::{self, ConnInfo, Limits, Serve};
use crate::detect::{self, Protocol};
use crate::drain::Drain;
use crate::metrics::{self, Metrics, OpenDownstream};
use crate::opaque::{self, First};
use crate::send::{Backend, Outgoing};

/// A listener and what becomes of its connections.
#[derive(Clone, Debug)]
pub struct Acceptor<D> {
    /// Tells where each goes.
    pub direct: D,
    /// Bounds on each connection.
    pub limits: Limits,
    /// The most connections at once; more wait in the listen queue.
    pub max_connections: usize,
    /// Where its connections are counted.
    pub metrics: Metrics,
    /// Told when to stop; waited for until the last connection ended.
    pub drain: Drain,
}

/// Tells where the connections of a listener go. Cheap to clone.
pub trait Direct: Clone + Send + Sync + 'static {
    /// Serves their calls.
    type Service: Serve;

    /// Where a connection goes that has just been accepted; `None`: nowhere, it is closed.
    fn direct(&self, stream: &TcpStream, info: ConnInfo) -> Option<Directed<Self::Service>>;

    /// Whether this sidecar made a connection that it has accepted, which is then closed. Asked when its
    /// caller has spoken or had its time to: this sidecar knows by then what it has made.
    fn is_own(&self, _: &ConnInfo) -> bool {
        false
    }
}

/// Where a connection goes.
#[derive(Debug)]
pub struct Directed<S> {
    /// Serves its calls.
    pub service: S,
    /// Where its bytes go when they are not HTTP.
    pub opaque: Arc<Backend>,
    /// What is known of it.
    pub info: ConnInfo,
}

/// Has every connection go to one place.
#[derive(Clone, Debug)]
pub struct Always<S> {
    /// Serves the calls.
    pub service: S,
    /// Where bytes go that are not HTTP.
    pub opaque: Arc<Backend>,
}

/// A connection's place among those that are open.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    is_closing: AtomicBool,
    calls: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Seats {
    taken: Mutex<HashMap<u64, Taken>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Taken {
    seat: Arc<Seat>,
    /// Calls counted by the last sweep; `None` before the first.
    calls: Option<u64>,
}

/// Leaves the seat when the connection ends, however it ends.
#[derive(Debug)]
struct Sitting {
    seats: Arc<Seats>,
    number: u64,
}

/// How long the first bytes of a connection may take before the server is let speak first.
const DETECTION: Duration = Duration::from_secs(1);
/// Waits after a failed accept (out of file descriptors): doubled up to the second value.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
const LISTEN_QUEUE: i32 = 4096;

/// Opens a listening socket. Must be called within a tokio runtime.
///
/// # Errors
/// The system's own: the address is in use, or not allowed.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_QUEUE)?;
    TcpListener::from_std(socket.into())
}

impl<S: Serve> Direct for Always<S> {
    type Service = S;

    fn direct(&self, _: &TcpStream, info: ConnInfo) -> Option<Directed<S>> {
        Some(Directed {
            service: self.service.clone(),
            opaque: Arc::clone(&self.opaque),
            info,
        })
    }
}

impl<D: Direct> Acceptor<D> {
    /// Takes connections until the drain begins; those that are open then finish their calls.
    /// So do those in the listen queue, unless another acceptor holds the socket, too: they are its then.
    pub async fn run(self, listener: Arc<TcpListener>) {
        let guard = self.drain.guard();
        let seats = Arc::new(Seats::default());
        let room = Arc::new(Semaphore::new(self.max_connections));
        tokio::select! {
            biased;
            () = self.drain.draining() => {}
            () = self.accept(&listener, &seats, &room) => {}
            () = seats.sweep(self.limits.idle_timeout) => {}
        }
        if let Some(listener) = Arc::into_inner(listener) {
            self.accept_rest(listener, &seats, &room);
        }
        seats.close_all();
        drop(guard);
    }

    async fn accept(&self, listener: &TcpListener, seats: &Arc<Seats>, room: &Arc<Semaphore>) {
        let mut back_off = BACK_OFF.0;
        loop {
            let Ok(permit) = Arc::clone(room).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    back_off = BACK_OFF.0;
                    self.seat(stream, peer, seats, permit);
                }
                Err(error) if is_about_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    tracing::warn!(%error, wait_ms = back_off.as_millis(), "cannot accept connections");
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// Takes what waits in the listen queue: closing the socket would reset those connections, and
    /// their callers have sent calls already. The system is asked, not tokio, which knows only of
    /// what came before its last turn.
    fn accept_rest(&self, listener: TcpListener, seats: &Arc<Seats>, room: &Arc<Semaphore>) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream
                        .set_nonblocking(true)
                        .and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        self.seat(stream, peer, seats, permit);
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn seat(&self, stream: TcpStream, peer: SocketAddr, seats: &Arc<Seats>, permit: OwnedSemaphorePermit) {
        let (seat, sitting) = seats.take();
        let (this, guard) = (self.clone(), self.drain.guard());
        tokio::spawn(async move {
            if let Err(error) = this.converse(stream, peer, seat).await {
                tracing::debug!(%peer, %error, "connection ended while it was told what it speaks");
            }
            drop((sitting, guard, permit));
        });
    }

    /// Tells what a connection speaks and has it served.
    async fn converse(self, mut stream: TcpStream, peer: SocketAddr, seat: Arc<Seat>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let info = ConnInfo {
            peer,
            local: stream.local_addr()?,
        };
        let Some(directed) = self.direct.direct(&stream, info) else {
            return Ok(());
        };
        let Directed {
            service,
            opaque: backend,
            info,
        } = directed;
        let open = OpenDownstream::count(&self.metrics);
        let mut read = BytesMut::new();
        let protocol = match self.tell(&mut stream, &mut read, &info, &backend).await? {
            Told::Speaks(protocol) => protocol,
            Told::Listens(upstream) => {
                open.speaks(metrics::Protocol::Opaque);
                return opaque::join(stream, &read, upstream).await;
            }
            Told::Leaves => return Ok(()),
        };
        let prefix = read.freeze();
        open.speaks(match protocol {
            Protocol::Http1 => metrics::Protocol::Http1,
            Protocol::Http2 => metrics::Protocol::Http2,
            Protocol::Opaque => metrics::Protocol::Opaque,
        });
        match protocol {
            Protocol::Http1 => {
                Box::pin(connection::serve_http1(
                    stream,
                    prefix,
                    info,
                    service,
                    seat,
                    &self.limits,
                ))
                .await;
            }
            Protocol::Http2 => {
                Box::pin(connection::serve_http2(
                    stream,
                    prefix,
                    info,
                    service,
                    seat,
                    &self.limits,
                ))
                .await;
            }
            Protocol::Opaque => opaque::pass(stream, &prefix, &backend).await?,
        }
        Ok(())
    }

    /// Tells what a connection speaks; what was read meanwhile is in `read`.
    async fn tell(
        &self,
        stream: &mut TcpStream,
        read: &mut BytesMut,
        info: &ConnInfo,
        backend: &Backend,
    ) -> io::Result<Told> {
        let told = tokio::time::timeout(DETECTION, detect::detect(stream, read)).await;
        if self.direct.is_own(info) {
            return Ok(Told::Leaves);
        }
        match told {
            Ok(Ok(None)) => return Ok(Told::Leaves),
            Ok(told) => return Ok(Told::Speaks(told?.unwrap_or(Protocol::Http1))),
            Err(_) if !read.is_empty() => return Ok(Told::Speaks(detect::settle(read))),
            Err(_) => {}
        }
        let first = opaque::who_speaks_first(stream, read, backend);
        let first = tokio::time::timeout(self.limits.idle_timeout, first);
        let first = tokio::select! {
            first = first => first,
            // Nothing was said, so nothing is lost.
            () = self.drain.draining() => return Ok(Told::Leaves),
        };
        Ok(match first {
            Err(_) | Ok(First::Nobody) => Told::Leaves,
            Ok(First::Caller(protocol)) => Told::Speaks(protocol),
            Ok(First::Server(upstream)) => Told::Listens(upstream),
        })
    }
}

/// What a connection turned out to be.
enum Told {
    /// Its caller has spoken.
    Speaks(Protocol),
    /// Its caller listens to this server, which has spoken first.
    Listens(Outgoing),
    /// Its caller has gone.
    Leaves,
}

/// Errors of `accept` that say nothing about the next one.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl Seat {
    /// True when the connection is to finish its calls and end.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Counts a call, so that the connection does not pass for idle.
    pub(crate) fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Whom to wake when the connection is to end.
    pub(crate) fn wakes(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

impl Seats {
    fn take(self: &Arc<Self>) -> (Arc<Seat>, Sitting) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat::default());
        self.taken.lock().insert(
            number,
            Taken {
                seat: Arc::clone(&seat),
                calls: None,
            },
        );
        (
            seat,
            Sitting {
                seats: Arc::clone(self),
                number,
            },
        )
    }

    fn close_all(&self) {
        for taken in self.taken.lock().values() {
            taken.seat.close();
        }
    }

    /// Closes, again and again, the connections without a call since the last time.
    async fn sweep(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            for taken in self.taken.lock().values_mut() {
                let calls = taken.seat.calls.load(Ordering::Relaxed);
                if taken.calls.replace(calls) == Some(calls) {
                    taken.seat.close();
                }
            }
        }
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        drop(self.seats.taken.lock().remove(&self.number));
    }
}
