//! HTTP/2 written by hand, frame by frame: for what no client library would send.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::caller;

/// A connection that has said its preface.
#[derive(Debug)]
pub struct Frames(TcpStream);

/// The types of frames that are written here (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the RFC")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// The last frame of its stream.
pub const END_STREAM: u8 = 1;
/// The last frame of its field section.
pub const END_HEADERS: u8 = 4;

/// The fields that every request begins with.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "service.test"),
    (":path", "/"),
];

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frames {
    /// Connects, and sends the preface with empty settings.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut stream = caller::connect(address).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
        Ok(Self(stream))
    }

    /// The server's end of a connection: reads the preface, and sends empty settings.
    ///
    /// # Errors
    /// When the client leaves before it said its preface.
    pub async fn accept(mut stream: TcpStream) -> io::Result<Self> {
        stream.read_exact(&mut [0; 24]).await?;
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
        Ok(Self(stream))
    }

    /// Sends bytes that are frames, or should be.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The next frame; `None` when the other side has closed.
    pub async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// The first frame on this stream that says how it goes on; `None` when the connection ended before.
    pub async fn answer(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if frame.kind == kind::GOAWAY {
                return None;
            }
            if frame.stream == stream && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM) {
                return Some(frame);
            }
        }
    }

    /// Both halves: whoever floods must read on, or is stopped by his own silence.
    pub fn split(self) -> (tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf) {
        self.0.into_split()
    }
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as literals that no table takes in (RFC 7541 section 6.2.2), as they are, valid or not.
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name.as_bytes());
        text(&mut block, value.as_bytes());
    }
    block
}

/// A field as a literal that the dynamic table takes in (RFC 7541 section 6.2.1): it is 62 from then on.
pub fn indexed_literal(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    text(&mut block, name.as_bytes());
    text(&mut block, value.as_bytes());
    block
}

/// The field that the dynamic table took in last, in one byte.
pub const NEWEST: u8 = 0x80 | 62;

/// A string without Huffman coding (RFC 7541 section 5.2).
fn text(block: &mut Vec<u8>, text: &[u8]) {
    let mut left = text.len();
    if left < 127 {
        block.extend(u8::try_from(left));
    } else {
        block.push(127);
        left -= 127;
        while left >= 128 {
            block.extend(u8::try_from(left % 128 + 128));
            left /= 128;
        }
        block.extend(u8::try_from(left));
    }
    block.extend_from_slice(text);
}
