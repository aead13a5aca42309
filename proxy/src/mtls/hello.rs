//! The first message of TLS, read and left where it is: what its sender wants, before anybody answers.

use std::io;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Inside;

/// What a sender of TLS wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// This sidecar.
    Mesh,
    /// The service behind it, by this name (SNI, RFC 6066 section 3).
    Service(Option<Box<str>>),
}

/// Reads into `read` until the hello is complete, or is none.
///
/// # Errors
/// The stream's own.
///
/// # Cancellation
/// Safe: bytes that were read are in `read`.
pub(crate) async fn hello<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<Hello> {
    let (mut acceptor, mut fed) = (Acceptor::default(), 0);
    loop {
        let mut unread = &read[fed..];
        while !unread.is_empty() {
            // It takes at most so much at once, and nothing after the hello.
            if acceptor.read_tls(&mut unread).is_err() {
                return Ok(Hello::Service(None));
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(Hello::of(&accepted.client_hello())),
                Err(_) => return Ok(Hello::Service(None)),
            }
        }
        fed = read.len();
        if fed > LONGEST || stream.read_buf(read).await? == 0 {
            return Ok(Hello::Service(None));
        }
    }
}

impl Hello {
    fn of(hello: &rustls::server::ClientHello<'_>) -> Self {
        let mut names = hello.alpn().into_iter().flatten();
        if names.any(|name| Inside::of(name).is_some()) {
            return Self::Mesh;
        }
        Self::Service(hello.server_name().map(Into::into))
    }
}

/// Those with many keys of new kinds are below 4 KiB.
const LONGEST: usize = 16 << 10;
