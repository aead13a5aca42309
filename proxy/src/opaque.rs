//! Bytes that are not HTTP, passed between a caller and the backend, each direction ended on its own.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::detect::{self, Protocol};
use crate::send::{Backend, Outgoing};

/// Who spoke first on a connection whose caller was silent at first.
#[derive(Debug)]
pub(crate) enum First {
    /// The caller, and what it speaks.
    Caller(Protocol),
    /// The server, which is waiting to be heard.
    Server(Outgoing),
    /// The caller left.
    Nobody,
}

/// Lets a server speak that expects to be first, and goes on listening to the caller. As long as the server
/// was silent, a caller of HTTP is served as such, and that connection to the server is dropped unused.
pub(crate) async fn who_speaks_first(
    caller: &mut TcpStream,
    read: &mut BytesMut,
    backend: &Backend,
) -> First {
    let server = async {
        let stream = backend.connect().await.ok()?;
        // Peeking leaves the bytes where they are: they are passed on with the rest.
        matches!(stream.peek(&mut [0]).await, Ok(1..)).then_some(stream)
    };
    tokio::pin!(server);
    let mut is_open = true;
    loop {
        tokio::select! {
            biased;
            told = detect::detect(caller, read) => {
                return match told {
                    Ok(Some(protocol)) => First::Caller(protocol),
                    Ok(None) | Err(_) => First::Nobody,
                };
            }
            spoke = &mut server, if is_open => match spoke {
                Some(stream) if read.is_empty() => return First::Server(stream),
                // It ended or refused without a word: only the caller can say what this is.
                Some(_) | None => is_open = false,
            },
        }
    }
}

/// Passes a connection through to an endpoint.
pub(crate) async fn pass(caller: TcpStream, read: &[u8], backend: &Backend) -> io::Result<()> {
    let server = backend.connect().await.map_err(io::Error::other)?;
    join(caller, read, server).await
}

/// Passes bytes both ways until both sides have ended; `read` is what the caller already sent.
pub(crate) async fn join(mut caller: TcpStream, read: &[u8], mut server: Outgoing) -> io::Result<()> {
    server.write_all(read).await?;
    copy_bidirectional(&mut caller, &mut server).await.map(|_| ())
}
