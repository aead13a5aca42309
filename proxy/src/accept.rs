//! The listening side: takes connections, at most so many, tells what each speaks, and has it served.

mod either;
mod seats;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jitney_api::Mtls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use either::either;
pub(crate) use seats::Seat;
use seats::Seats;

use crate::connection::{self, ConnInfo, Identity, Limits, Serve};
use crate::detect::{self, Protocol};
use crate::drain::Drain;
use crate::guard::{self, Guard, Leave};
use crate::keepalive::{self, Attended};
use crate::metrics::{self, Label as _, Metrics, OpenDownstream, Refusal};
use crate::mtls::hello::{Hello, hello};
use crate::mtls::{self, Inside, Mesh};
use crate::opaque::{self, First};
use crate::send::Outgoing;
use crate::transport::Transport;
use crate::upstream::Upstream;
use crate::wire::Wire;

/// A listener and what becomes of its connections.
#[derive(Clone, Debug)]
pub struct Acceptor<D> {
    /// Tells where each goes.
    pub direct: D,
    /// Who this sidecar is to those of its callers that are sidecars.
    pub mesh: Mesh,
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
    /// What its bytes are for when they are not HTTP.
    pub opaque: Arc<Upstream>,
    /// What its bytes are is not looked at.
    pub is_opaque: bool,
    /// What is known of it.
    pub info: ConnInfo,
    /// What its caller has to prove; `None` for a caller beside this sidecar, who has no other.
    pub mtls: Option<Mtls>,
}

/// Has every connection go to one place.
#[derive(Clone, Debug)]
pub struct Always<S> {
    /// Serves the calls.
    pub service: S,
    /// What bytes are for that are not HTTP.
    pub opaque: Arc<Upstream>,
    /// What callers have to prove; `None` for callers beside this sidecar.
    pub mtls: Option<Mtls>,
    /// Whether calls are let in; `None`: all are.
    pub guard: Option<Guard>,
}

/// How long the first bytes of a connection may take before the server is let speak first.
const DETECTION: Duration = Duration::from_secs(1);
/// How long a sidecar may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a caller's sidecar may take to pass on what the caller had said already.
const HEARD: Duration = Duration::from_millis(50);
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
    listening(socket.into())
}

/// A socket that listens, made ready. Must be called within a tokio runtime.
///
/// # Errors
/// The system's own.
pub(crate) fn listening(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    keepalive::ask(&socket)?;
    TcpListener::from_std(socket)
}

impl<S: Serve> Direct for Always<S> {
    type Service = S;

    fn direct(&self, _: &TcpStream, info: ConnInfo) -> Option<Directed<S>> {
        Some(Directed {
            service: self.service.clone(),
            is_opaque: self.opaque.backend.is_opaque,
            opaque: Arc::clone(&self.opaque),
            info: ConnInfo {
                guard: self.guard.clone(),
                ..info
            },
            mtls: self.mtls,
        })
    }
}

impl Acceptor<()> {
    /// The same, with connections that go somewhere.
    pub fn directing<D: Direct>(self, direct: D) -> Acceptor<D> {
        let Self {
            direct: (),
            mesh,
            limits,
            max_connections,
            metrics,
            drain,
        } = self;
        Acceptor {
            direct,
            mesh,
            limits,
            max_connections,
            metrics,
            drain,
        }
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
            () = seats.retire(self.limits.max_age) => {}
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
    async fn converse(self, stream: TcpStream, peer: SocketAddr, seat: Arc<Seat>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let info = ConnInfo {
            peer,
            local: stream.local_addr()?,
            identity: None,
            guard: None,
        };
        let Some(directed) = self.direct.direct(&stream, info) else {
            return Ok(());
        };
        let open = OpenDownstream::count(&self.metrics);
        let told = Box::pin(self.tell(Attended::new(stream), directed)).await?;
        let Some((spoken, directed)) = told else {
            return Ok(());
        };
        let Directed {
            service,
            opaque,
            info,
            ..
        } = directed;
        let (stream, limits) = (spoken.stream, &self.limits);
        let counted = || open.speaks(spoken.counted);
        let overstays = guard::overstays(info.clone(), Arc::clone(&seat), limits.bare_timeout);
        match spoken.then {
            Then::Http1(ahead) => {
                counted();
                let serving = connection::serve_http1(stream, ahead, info, service, seat, limits);
                either(Box::pin(serving), overstays).await;
            }
            Then::Http2(ahead) => {
                counted();
                let serving = connection::serve_http2(stream, ahead, info, service, seat, limits);
                either(Box::pin(serving), overstays).await;
            }
            Then::Bytes(ahead, server) => {
                let Some(leave) = Leave::of_bytes(info.clone()) else {
                    self.refuse(Refusal::Denied, &info, &"no rule allows its bytes");
                    return Ok(());
                };
                counted();
                let backend = opaque.for_bytes();
                let is_own = |info: &ConnInfo| self.direct.is_own(info);
                Box::pin(opaque::serve(stream, &ahead, server, &backend, leave, is_own)).await?;
            }
        }
        Ok(())
    }

    /// Tells what a connection speaks, and whose it is; `None` when it is to be closed.
    async fn tell(&self, mut stream: Attended, directed: Directed<D::Service>) -> io::Result<Told<D>> {
        let mut read = BytesMut::new();
        if directed.is_opaque && matches!(directed.mtls, None | Some(Mtls::Disabled)) {
            // Whoever made it, if that was this sidecar, may not know yet.
            tokio::task::yield_now().await;
            if self.direct.is_own(&directed.info) {
                return Ok(None);
            }
            let spoken = Spoken::by(Protocol::Opaque, Transport::Bare(stream), Bytes::new());
            return Ok(Some((spoken, directed)));
        }
        let told = tokio::time::timeout(DETECTION, detect::detect(&mut stream, &mut read)).await;
        if self.direct.is_own(&directed.info) {
            return Ok(None);
        }
        let protocol = match told {
            Ok(Ok(None)) => return Ok(None),
            Ok(told) => Some(told?.unwrap_or(Protocol::Http1)),
            Err(_) if !read.is_empty() => Some(detect::settle(&read)),
            Err(_) => None,
        };
        if protocol == Some(Protocol::Tls) && directed.mtls.is_some() {
            let telling = hello(&mut stream, &mut read);
            let told = tokio::time::timeout(HANDSHAKE, telling).await;
            match told.map_err(|_| io::ErrorKind::TimedOut)?? {
                Hello::Mesh if directed.mtls == Some(Mtls::Disabled) => {
                    tracing::debug!(peer = %directed.info.peer, destination = %directed.info.local, "a caller's sidecar is told to come bare");
                    mtls::decline(&mut stream).await?;
                    return Ok(None);
                }
                Hello::Mesh => return Box::pin(self.secure(stream, read.freeze(), directed)).await,
                Hello::Service(name) => {
                    tracing::trace!(peer = %directed.info.peer, name, "TLS of the service")
                }
            }
        }
        if directed.mtls == Some(Mtls::Strict) {
            self.refuse(
                Refusal::NotSecured,
                &directed.info,
                &"its caller shows no certificate",
            );
            return Ok(None);
        }
        let spoken = match protocol {
            _ if directed.is_opaque => Spoken::by(Protocol::Opaque, Transport::Bare(stream), read.freeze()),
            Some(protocol) => Spoken::by(protocol, Transport::Bare(stream), read.freeze()),
            None => {
                let Some(spoken) = self.listen(Transport::Bare(stream), read, &directed).await else {
                    return Ok(None);
                };
                spoken
            }
        };
        Ok(Some((spoken, directed)))
    }

    /// Has the caller's sidecar prove who it is.
    async fn secure(
        &self,
        stream: Attended,
        hello: Bytes,
        directed: Directed<D::Service>,
    ) -> io::Result<Told<D>> {
        let accepting = self.mesh.accept(Wire::resuming(hello, stream));
        let accepted = match tokio::time::timeout(HANDSHAKE, accepting).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.refuse(Refusal::Untrusted, &directed.info, &error);
                return Ok(None);
            }
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let info = ConnInfo {
            identity: Some(Identity::new(&accepted.peer, accepted.standing)),
            ..directed.info
        };
        let directed = Directed { info, ..directed };
        let spoken = match accepted.inside {
            Inside::Http1 => Spoken::by(Protocol::Http1, accepted.stream, Bytes::new()),
            Inside::Http2 => Spoken::by(Protocol::Http2, accepted.stream, Bytes::new()),
            Inside::Bytes if directed.is_opaque => {
                Spoken::by(Protocol::Opaque, accepted.stream, Bytes::new())
            }
            // Whatever its sidecar says: what is HTTP to the service is to be HTTP here, where it is looked at.
            Inside::Bytes => match self.look_inside(accepted.stream, &directed).await? {
                Some(spoken) => spoken,
                None => return Ok(None),
            },
        };
        Ok(Some((spoken, directed)))
    }

    /// Tells what is spoken within TLS. A caller that has spoken to its sidecar is heard at once.
    async fn look_inside(
        &self,
        mut stream: Transport<Attended>,
        directed: &Directed<D::Service>,
    ) -> io::Result<Option<Spoken>> {
        let mut read = BytesMut::new();
        match tokio::time::timeout(HEARD, detect::detect(&mut stream, &mut read)).await {
            Ok(told) => Ok(told?.map(|protocol| Spoken::by(protocol, stream, read.freeze()))),
            Err(_) => Ok(self.listen(stream, read, directed).await),
        }
    }

    /// Whose turn it is to speak when the caller was silent at first; `None` when nobody does.
    async fn listen(
        &self,
        mut stream: Transport<Attended>,
        mut read: BytesMut,
        directed: &Directed<D::Service>,
    ) -> Option<Spoken> {
        // Nobody is let hear a server who may not speak to it.
        let guard = directed.info.guard.as_ref();
        let may_hear = guard.is_none_or(|guard| guard.would_admit_bytes(&directed.info));
        let server = may_hear.then(|| directed.opaque.for_bytes());
        let first = opaque::who_speaks_first(&mut stream, &mut read, server.as_deref());
        let first = tokio::time::timeout(self.limits.idle_timeout, first);
        let first = tokio::select! {
            first = first => first.ok()?,
            // Nothing was said, so nothing is lost.
            () = self.drain.draining() => return None,
        };
        match first {
            First::Nobody => None,
            First::Caller(protocol) => Some(Spoken::by(protocol, stream, read.freeze())),
            First::Server(server) => Some(Spoken {
                stream,
                counted: metrics::Protocol::Opaque,
                then: Then::Bytes(read.freeze(), Some(server)),
            }),
        }
    }

    fn refuse(&self, why: Refusal, info: &ConnInfo, reason: &dyn Display) {
        self.metrics.process().refused_connections.inc(why);
        let told = match why {
            Refusal::NotSecured => Some("refused: the caller shows no certificate"),
            Refusal::Untrusted => {
                Some("refused: the caller does not prove who it is, or this sidecar cannot")
            }
            // Told where it was asked for.
            Refusal::NotRedirected | Refusal::Forbidden | Refusal::Denied | Refusal::Own => None,
        };
        if let (Some(told), Some(guard)) = (told, &info.guard) {
            guard.tell(info, None, told);
        }
        tracing::debug!(peer = %info.peer, destination = %info.local, why = why.text(), %reason, "a connection was refused");
    }
}

/// What is to be done with a connection; `None`: to close it.
type Told<D> = Option<(Spoken, Directed<<D as Direct>::Service>)>;

/// A connection of which is known what it speaks.
struct Spoken {
    stream: Transport<Attended>,
    counted: metrics::Protocol,
    then: Then,
}

/// How it is served. What was read of it already comes first.
enum Then {
    Http1(Bytes),
    Http2(Bytes),
    /// Its bytes go to an endpoint: to this one, if it has spoken first.
    Bytes(Bytes, Option<Box<Wire<Transport<Outgoing>>>>),
}

impl Spoken {
    fn by(protocol: Protocol, stream: Transport<Attended>, ahead: Bytes) -> Self {
        let (counted, then) = match protocol {
            Protocol::Http1 => (metrics::Protocol::Http1, Then::Http1(ahead)),
            Protocol::Http2 => (metrics::Protocol::Http2, Then::Http2(ahead)),
            Protocol::Tls => (metrics::Protocol::Tls, Then::Bytes(ahead, None)),
            Protocol::Opaque => (metrics::Protocol::Opaque, Then::Bytes(ahead, None)),
        };
        Self {
            stream,
            counted,
            then,
        }
    }
}

/// Errors of `accept` that say nothing about the next one.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
