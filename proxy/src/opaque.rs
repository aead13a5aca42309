//! Bytes that are not HTTP, passed between a caller and the backend, each direction ended on its own.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use crate::detect::{self, Protocol};
use crate::send::{Backend, Outgoing};
use crate::transport::Transport;
use crate::wire::Wire;

/// Who spoke first on a connection whose caller was silent at first.
#[derive(Debug)]
pub(crate) enum First {
    /// The caller, and what it speaks.
    Caller(Protocol),
    /// The server, which is waiting to be heard.
    Server(Wire<Transport<Outgoing>>),
    /// The caller left.
    Nobody,
}

/// Lets a server speak that expects to be first, and goes on listening to the caller. As long as the server
/// was silent, a caller of HTTP is served as such, and that connection to the server is dropped unused. Without a
/// backend only the caller may speak.
pub(crate) async fn who_speaks_first(
    caller: &mut Transport<TcpStream>,
    read: &mut BytesMut,
    backend: Option<&Backend>,
) -> First {
    let server = async {
        let mut stream = backend?.connect().await.ok()?;
        let mut first = [0; FIRST_READ];
        let length = stream.read(&mut first).await.ok().filter(|length| *length > 0)?;
        Some(Wire::resuming(Bytes::copy_from_slice(&first[..length]), stream))
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
pub(crate) async fn pass(caller: Transport<TcpStream>, read: &[u8], backend: &Backend) -> io::Result<()> {
    let server = backend.connect().await.map_err(io::Error::other)?;
    join(caller, read, Wire::new(server)).await
}

/// Passes bytes both ways until both sides have ended, or one has failed: then the other is reset, too; `read` is what the caller already sent.
pub(crate) async fn join(
    mut caller: Transport<TcpStream>,
    read: &[u8],
    mut server: Wire<Transport<Outgoing>>,
) -> io::Result<()> {
    server.write_all(read).await?;
    server.flush().await?;
    let copied = copy_bidirectional(&mut caller, &mut server).await;
    if copied.is_err() {
        caller.end_badly();
        server.inner().end_badly();
    }
    copied.map(|_| ())
}

/// What is read at once of a server that speaks first: greetings are short.
const FIRST_READ: usize = 512;
