//! Calls that share an HTTP/2 connection, and one of them whose reader is slow, or gone: it holds up itself, and
//! nobody beside it (RFC 9113 section 5.2).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jitney_proxy::connection::Limits;
use jitney_proxy::send::{BackendSettings, Speaks};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frame, Frames, GET, frame, kind, literals};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::wire::{PATIENCE, Rig, eventually};

/// What a peer may send before it is granted more, unless it was told otherwise (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;
const INITIAL_WINDOW_SIZE: u16 = 4;
const CANCEL: u32 = 8;

/// One side of a connection, which keeps to the flow control of the other.
struct Side {
    frames: Frames,
    connection: i64,
    initial: i64,
    streams: HashMap<u32, i64>,
}

impl Side {
    fn new(frames: Frames) -> Self {
        Self {
            frames,
            connection: INITIAL_WINDOW,
            initial: INITIAL_WINDOW,
            streams: HashMap::new(),
        }
    }

    /// Reads the next frame; `None` when the connection has ended.
    async fn read(&mut self) -> Option<Frame> {
        let found = self.frames.read().await?;
        match found.kind {
            kind::SETTINGS if found.flags == 0 => self.settings(&found.payload).await,
            kind::WINDOW_UPDATE => {
                let more = i64::from(u32::from_be_bytes(found.payload.clone().try_into().unwrap()));
                match found.stream {
                    0 => self.connection += more,
                    stream => *self.streams.entry(stream).or_insert(self.initial) += more,
                }
            }
            PING if found.flags == 0 => {
                let pong = frame(PING, 1, 0, &found.payload);
                self.frames.send(&pong).await.ok()?;
            }
            kind::GOAWAY => panic!(
                "the connection is ended: {}",
                String::from_utf8_lossy(&found.payload)
            ),
            _ => {}
        }
        Some(found)
    }

    async fn settings(&mut self, settings: &[u8]) {
        for setting in settings.chunks(6) {
            let (name, value) = setting.split_at(2);
            if u16::from_be_bytes(name.try_into().unwrap()) == INITIAL_WINDOW_SIZE {
                let initial = i64::from(u32::from_be_bytes(value.try_into().unwrap()));
                self.streams
                    .values_mut()
                    .for_each(|left| *left += initial - self.initial);
                self.initial = initial;
            }
        }
        self.frames.send(&frame(kind::SETTINGS, 1, 0, &[])).await.unwrap();
    }

    /// Sends a piece of a body, if both windows let it.
    async fn data(&mut self, stream: u32, piece: &[u8]) -> bool {
        let (length, initial) = (i64::try_from(piece.len()).unwrap(), self.initial);
        let left = self.streams.entry(stream).or_insert(initial);
        if *left < length || self.connection < length {
            return false;
        }
        *left -= length;
        self.connection -= length;
        self.frames
            .send(&frame(kind::DATA, 0, stream, piece))
            .await
            .unwrap();
        true
    }

    /// Sends pieces until flow control holds it up, and nothing more is granted for a while.
    async fn exhaust(&mut self, stream: u32, piece: &[u8]) {
        loop {
            while self.data(stream, piece).await {}
            let granted = async {
                while let Some(found) = self.read().await {
                    if found.kind == kind::WINDOW_UPDATE && found.stream == stream {
                        return;
                    }
                }
                panic!("the connection has ended");
            };
            if timeout(QUIET, granted).await.is_err() {
                return;
            }
        }
    }

    /// The stream that is opened next.
    async fn opened(&mut self) -> u32 {
        let opened = async {
            loop {
                let found = self.read().await.expect("the connection goes on");
                if found.kind == kind::HEADERS {
                    return found.stream;
                }
            }
        };
        timeout(PATIENCE, opened).await.expect("a call comes")
    }

    /// Waits for this piece of a body on this stream.
    async fn receives(&mut self, stream: u32, piece: &[u8]) {
        let received = async {
            loop {
                let found = self.read().await.expect("the connection goes on");
                assert_ne!(
                    (found.kind, found.stream),
                    (kind::RST_STREAM, stream),
                    "{found:?}"
                );
                if (found.kind, found.stream) == (kind::DATA, stream) && found.payload == piece {
                    return;
                }
            }
        };
        timeout(PATIENCE, received).await.expect("it is not held up");
    }
}

/// Nothing more is granted when nothing was for so long; what it bounds was not meant to come.
const QUIET: Duration = Duration::from_millis(300);
const PING: u8 = 6;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn rig(upstream: SocketAddr) -> Rig {
    let mut settings = BackendSettings::new("test", vec![upstream.into()]);
    settings.speaks = Speaks::Http2;
    Rig::with(&settings, Limits::default())
}

/// A caller's connection with one call, whose body is still to come if it has one.
async fn call(rig: &Rig, flags: u8) -> Side {
    let mut frames = Frames::connect(rig.address).await.unwrap();
    frames.send(&opening(1, flags)).await.unwrap();
    Side::new(frames)
}

fn opening(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS | flags, stream, &literals(&GET))
}

fn head(stream: u32) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_HEADERS,
        stream,
        &literals(&[(":status", "200")]),
    )
}

/// Callers who read no more than their first window; the service sends each as many pieces as it may.
async fn replies(slow_readers: usize, piece: &[u8]) {
    let (listener, address) = listen().await;
    let rig = rig(address);
    let mut polite = call(&rig, END_STREAM).await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut service = Side::new(Frames::accept(stream).await.unwrap());
    let beside = service.opened().await;
    service.frames.send(&head(beside)).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..slow_readers {
        slow.push(call(&rig, END_STREAM).await);
        let stream = service.opened().await;
        service.frames.send(&head(stream)).await.unwrap();
        service.exhaust(stream, piece).await;
    }
    assert!(
        service.data(beside, b"beside").await,
        "the connection's window is spent"
    );
    polite.receives(1, b"beside").await;
    assert_eq!(rig.backend.endpoints_snapshot()[0].http2_connections, 1);
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_small_messages_hold_up_themselves_alone() {
    // More of them and the next call goes over another connection.
    for (slow_readers, size) in [(2, 20), (6, 50), (16, 100)] {
        replies(slow_readers, &vec![b'm'; size]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_long_replies_hold_up_themselves_alone() {
    replies(20, &[b'm'; 16_384]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_slow_to_take_messages_holds_up_their_sender_alone() {
    for (slow_calls, size) in [(2, 20), (6, 50), (16, 100), (16, 16_384)] {
        let (listener, address) = listen().await;
        let rig = rig(address);
        // Both calls come over one connection, as all do that come from another sidecar.
        let mut caller = call(&rig, 0).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut service = Side::new(Frames::accept(stream).await.unwrap());
        let beside = service.opened().await;
        for stream in (3..).step_by(2).take(slow_calls) {
            caller.frames.send(&opening(stream, 0)).await.unwrap();
            service.opened().await;
            // The service grants nothing beyond its first window.
            caller.exhaust(stream, &vec![b'm'; size]).await;
        }
        service.frames.send(&head(beside)).await.unwrap();
        assert!(service.data(beside, b"beside").await);
        caller.receives(1, b"beside").await;
    }
}

/// So many messages of each call that was taken back.
const UNREAD: usize = 50;

/// What a service has seen of its callers.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    calls: AtomicUsize,
    left: AtomicUsize,
}

/// A service that notices late that a caller has left: it answers each call but the first once that is reset.
async fn late(listener: TcpListener, seen: Arc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        let is_first = seen.connections.fetch_add(1, Ordering::SeqCst) == 0;
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut service = Side::new(Frames::accept(stream).await.unwrap());
            while let Some(found) = service.read().await {
                match found.kind {
                    kind::HEADERS if is_first && found.stream == 1 => {
                        service.frames.send(&head(1)).await.unwrap();
                        service.data(1, b"first").await;
                    }
                    kind::HEADERS => _ = seen.calls.fetch_add(1, Ordering::SeqCst),
                    kind::RST_STREAM => {
                        seen.left.fetch_add(1, Ordering::SeqCst);
                        service.frames.send(&head(found.stream)).await.unwrap();
                        for _ in 0..UNREAD {
                            service.data(found.stream, b"late!").await;
                        }
                        if is_first {
                            // Who stayed sees that the connection goes on.
                            service.data(1, b"again").await;
                        }
                    }
                    _ => {}
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_come_and_leave_harm_nobody_who_stays() {
    const CALLERS: usize = 1_000;
    let (listener, address) = listen().await;
    let seen = Arc::<Seen>::default();
    tokio::spawn(late(listener, Arc::clone(&seen)));
    let rig = rig(address);
    let mut polite = call(&rig, END_STREAM).await;
    polite.receives(1, b"first").await;
    let mut leaving = Side::new(Frames::connect(rig.address).await.unwrap());
    for number in 0..CALLERS {
        let stream = u32::try_from(2 * number + 1).unwrap();
        leaving.frames.send(&opening(stream, END_STREAM)).await.unwrap();
        eventually("the call comes", || {
            seen.calls.load(Ordering::SeqCst) == number + 1
        })
        .await;
        let reset = frame(kind::RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
        leaving.frames.send(&reset).await.unwrap();
        eventually("the call is taken back", || {
            seen.left.load(Ordering::SeqCst) == number + 1
        })
        .await;
    }
    polite.receives(1, b"again").await;
    // A quarter of a budget of 32 MiB is spent on 12 MiB that nobody reads.
    assert_eq!(seen.connections.load(Ordering::SeqCst), 2);
}
