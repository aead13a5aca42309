//! The port for sidecars: connections taken in, told apart by their certificates, and served.
//!
//! A connection is one task with a few small buffers: ten thousand of them are the normal case. Until it is
//! known whose it is, it takes up nothing that a sidecar with a certificate needs, and not for long.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jitney_api::program::{Seat, Seats};
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

mod caller;
mod routes;
mod tls;

pub use caller::{Caller, Gate, Nobody};
pub use routes::Routes;
pub use tls::{Tls, TlsError};

use crate::identity::{Peer, Trust};
use crate::metrics::{Counts, Refusal};
use crate::push::{Ending, Places, TermEnd};
use crate::status::Handshakes;

/// What connections are served with.
#[derive(Clone, Debug)]
pub struct Port {
    /// How they are secured.
    pub tls: Arc<Tls>,
    /// Who they may be.
    pub trust: Arc<Trust>,
    /// What they can call.
    pub routes: Routes,
    /// How long one lasts, by a fifth more or less, so that those that began together do not end
    /// together.
    pub age: Duration,
    /// What those of sidecars take one of each.
    pub places: Arc<Places>,
    /// Where those that are turned away are counted.
    pub counts: Counts,
    /// Where it is noted why there is no TLS with somebody.
    pub handshakes: Arc<Handshakes>,
    /// True once the control plane goes away.
    pub draining: watch::Receiver<bool>,
    /// True while sidecars are better off with other replicas.
    pub apart: watch::Receiver<bool>,
}

/// Rooms on the way to a place. Whoever has no name has a place in one of these, and in no other. Where one is
/// full, those of the host with the most give way, so that no host keeps others out.
#[derive(Debug)]
struct Entrance {
    /// For who has come and has not said who it is. Whoever has said nothing at all gives way first.
    arriving: Arc<Seats>,
    /// For who is saying it.
    handshakes: Arc<Seats>,
    /// For who has no certificate.
    strangers: Arc<Seats>,
}

impl Port {
    /// Serves connections until the control plane goes away and the last one has ended, or has had
    /// [`LEAVING`] to end.
    ///
    /// # Cancellation
    /// Ends every connection at once.
    pub async fn serve(self, listener: TcpListener) {
        let port = Arc::new(self);
        let mut connections = JoinSet::new();
        let entrance = Arc::new(Entrance::new());
        let numbers = AtomicU64::new(0);
        let mut draining = port.draining.clone();
        loop {
            tokio::select! {
                () = begun(&mut draining) => break,
                // Keeps what is known of ended connections from growing.
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        // Nobody waits for one here, and so there always is one.
                        let Some(arriving) = entrance.arriving.take(address.ip()) else { continue };
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let (port, entrance) = (Arc::clone(&port), Arc::clone(&entrance));
                        connections.spawn(async move {
                            Box::pin(port.connection(stream, address, number, &entrance, arriving)).await;
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: another try at once would spin.
                        tracing::warn!(%error, "no connection accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        let left = async { while connections.join_next().await.is_some() {} };
        if timeout(LEAVING, left).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections were cut off");
        }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        number: u64,
        entrance: &Entrance,
        arriving: Seat,
    ) {
        if *self.apart.borrow() {
            return;
        }
        let entered = tokio::select! {
            entered = self.enter(stream, address, number, entrance, &arriving) => entered,
            () = arriving.lost() => {
                tracing::debug!(%address, "a caller who was not known yet gave way to another one");
                self.counts.refused(Refusal::Handshake);
                None
            }
        };
        drop(arriving);
        let Some((stream, caller, end)) = entered else {
            return;
        };
        let Some(workload) = caller.workload() else {
            return;
        };
        match self.places.take(workload) {
            Ok(_place) => self.converse(stream, caller, end).await,
            Err(error) => {
                self.counts.refused(error.into());
                tracing::debug!(%workload, %error, "a connection was refused");
            }
        }
    }

    /// Who has come, once it has said who it is; whoever has no name asks for one, and leaves.
    async fn enter(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        number: u64,
        entrance: &Entrance,
        arriving: &Seat,
    ) -> Option<(TlsStream<TcpStream>, Caller, TermEnd)> {
        let stream = self.secured(stream, address, entrance, arriving).await?;
        let _served = arriving.served();
        let (end, term) = TermEnd::new();
        let caller = Caller::new(self.peer(&stream), address, term, number);
        if caller.workload().is_some() {
            return Some((stream, caller, end));
        }
        self.sign(stream, caller, end, address, entrance).await;
        None
    }

    /// TLS with whoever has come; `None` when there is none.
    async fn secured(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        entrance: &Entrance,
        arriving: &Seat,
    ) -> Option<TlsStream<TcpStream>> {
        // Responses are small, and each is waited for.
        drop(stream.set_nodelay(true));
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let accepting = async {
            let hello = timeout(HANDSHAKE, hello).await??;
            let _served = arriving.served();
            let handshake = timeout(WAITING, entrance.handshakes.wait(address.ip())).await?;
            let Some(handshake) = handshake else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            tokio::select! {
                accepted = timeout(HANDSHAKE, hello.into_stream(self.tls.config())) => accepted?,
                () = handshake.lost() => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        match accepting.await {
            Ok(stream) => return Some(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::debug!(%address, "a caller did not finish its handshake");
            }
            Err(error) => {
                self.handshakes.note(address, &error, SystemTime::now());
                tracing::info!(%address, %error, "no TLS with a caller");
            }
        }
        self.counts.refused(Refusal::Handshake);
        None
    }

    /// Lets who has no name ask for one, which takes a moment: more time is not to be had.
    async fn sign(
        &self,
        stream: TlsStream<TcpStream>,
        caller: Caller,
        end: TermEnd,
        address: SocketAddr,
        entrance: &Entrance,
    ) {
        let place = timeout(WAITING, entrance.strangers.wait(address.ip())).await;
        let is_done = match place.ok().flatten() {
            Some(place) => {
                let asked = caller.asked();
                let served = self.converse(stream, caller, end);
                tokio::select! {
                    () = served => true,
                    () = patience(asked) => false,
                    () = place.lost() => false,
                }
            }
            None => false,
        };
        if !is_done {
            self.counts.refused(Refusal::Stranger);
            tracing::debug!("a caller without a certificate had to leave");
        }
    }

    /// Who is at the other end, by the certificate that TLS has verified.
    fn peer(&self, stream: &TlsStream<TcpStream>) -> Result<Peer, Nobody> {
        let certificates = stream.get_ref().1.peer_certificates();
        let chain = certificates.ok_or(Nobody::NoCertificate)?;
        let (trust_domain, roots) = (self.trust.trust_domain(), self.trust.roots());
        Ok(Peer::read(chain, trust_domain, &roots, SystemTime::now())?)
    }

    async fn converse(&self, stream: TlsStream<TcpStream>, caller: Caller, end: TermEnd) {
        let (routes, by) = (self.routes.clone(), caller.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let caller = &by;
            request.extensions_mut().insert(caller.clone());
            let answered = routes.clone().answer(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(FRAME as usize)
            .max_header_list_size(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        let (mut draining, mut apart) = (self.draining.clone(), self.apart.clone());
        let ending = tokio::select! {
            ended = served.as_mut() => return told(ended),
            () = sleep(spread(self.age)) => Ending::Age,
            () = caller.until_nobody(&self.trust) => Ending::Certificate,
            () = begun(&mut draining) => Ending::Drain,
            () = begun(&mut apart) => Ending::Apart,
        };
        end.end(ending);
        served.as_mut().graceful_shutdown();
        if let Ok(ended) = timeout(LEAVING, served).await {
            told(ended);
        }
    }
}

impl Entrance {
    fn new() -> Self {
        Self {
            arriving: Seats::new(ARRIVING_MAX),
            handshakes: Seats::new(HANDSHAKES_MAX),
            strangers: Seats::new(STRANGERS_MAX),
        }
    }
}

/// Returns when somebody without a name has had time enough: to ask, and then to be answered, which takes
/// as long as it takes here.
async fn patience(asked: Arc<Notify>) {
    if timeout(ASKING, asked.notified()).await.is_ok() {
        sleep(ANSWERING).await;
    }
}

/// Returns when the control plane goes away, or is to be left alone.
async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, and that is the same.
    drop(draining.wait_for(|draining| *draining).await);
}

fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// A time that is a fifth longer or shorter.
fn spread(time: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    // Each hasher state starts from random keys of the system.
    let random = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or_default();
    time.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

/// Connections of whom nothing is known yet: after a restart all sidecars come at once.
const ARRIVING_MAX: u16 = 16 * 1024;
/// Handshakes at once, from the first word of TLS on. Who stops there takes a place for five seconds.
const HANDSHAKES_MAX: u16 = 1024;
/// The longest that one may take, and that the first word may.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections without a certificate: where thousands of sidecars are new at once, each has to come in
/// before it loses its patience. Those who only hold a place keep nobody out but each other.
const STRANGERS_MAX: u16 = 4096;
/// How long one waits for a place, and how long it has there to ask for a certificate.
const WAITING: Duration = Duration::from_secs(5);
const ASKING: Duration = Duration::from_secs(5);
/// How long it may wait for the answer: as long as a sidecar does.
const ANSWERING: Duration = Duration::from_secs(10);
/// How long a connection has to end after it was told to.
pub const LEAVING: Duration = Duration::from_secs(5);
/// How often a silent sidecar is asked whether it is there, and how long it has to say so: one that is
/// dead must not be counted as running anything.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Calls at once on a connection: the push, a signing, a few reports.
const STREAMS_MAX: u32 = 16;
/// Bytes that a sidecar may send ahead, and that a connection may thus keep in memory.
const WINDOW: u32 = 64 * 1024;
/// The least that HTTP/2 allows.
const FRAME: u32 = 16 * 1024;
const HEADERS_MAX: u32 = 16 * 1024;
/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
