//! Bytes that are not HTTP, passed between a caller and the backend, each direction ended on its own.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::time::timeout;

use crate::batching::alarm::now;
use crate::connection::ConnInfo;
use crate::detect::{self, Protocol};
use crate::guard::Leave;
use crate::keepalive::Attended;
use crate::log::{Access, CUT_OFF, Connection};
use crate::send::{Backend, Outgoing};
use crate::transport::Transport;
use crate::wire::Wire;

/// Who spoke first on a connection whose caller was silent at first.
#[derive(Debug)]
pub(crate) enum First {
    /// The caller, and what it speaks.
    Caller(Protocol),
    /// The server, which is waiting to be heard.
    Server(Box<Wire<Transport<Outgoing>>>),
    /// The caller left.
    Nobody,
}

/// Lets a server speak that expects to be first, and goes on listening to the caller. As long as the server
/// was silent, a caller of HTTP is served as such, and that connection to the server is dropped unused; as it is after
/// [`GREETING`], while the caller may still speak. Of such connections there are at most as many at once as there may
/// be requests; more wait to be made. Without a backend, or with one that speaks HTTP, only the caller may speak.
pub(crate) async fn who_speaks_first(
    caller: &mut Transport<Attended>,
    read: &mut BytesMut,
    backend: Option<&Backend>,
) -> First {
    let server = async {
        let backend = backend.filter(|backend| backend.may_speak_first())?;
        let _hearing = backend.gate.hear().await;
        timeout(GREETING, greeting(backend)).await.ok().flatten()
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
                Some(stream) if read.is_empty() => return First::Server(Box::new(stream)),
                // It ended or refused without a word: only the caller can say what this is.
                Some(_) | None => is_open = false,
            },
        }
    }
}

/// What a server says first.
async fn greeting(backend: &Backend) -> Option<Wire<Transport<Outgoing>>> {
    let mut stream = backend.connect().await.ok()?;
    let mut first = [0; FIRST_READ];
    let length = stream.read(&mut first).await.ok().filter(|length| *length > 0)?;
    Some(Wire::resuming(Bytes::copy_from_slice(&first[..length]), stream))
}

/// Passes bytes between a caller and a server: the one that spoke first, or else one of the backend.
/// `read` is what the caller already sent; `is_own` tells whether it is this sidecar.
///
/// # Errors
/// There is no server; it is counted as an error of the backend, and the caller's connection ends. Or one side has
/// failed, or leave was revoked: then both are reset.
pub(crate) async fn serve(
    caller: Transport<Attended>,
    read: &[u8],
    server: Option<Box<Wire<Transport<Outgoing>>>>,
    backend: &Backend,
    leave: Leave,
    is_own: impl Fn(&ConnInfo) -> bool,
) -> io::Result<()> {
    let mut line = Access::is_on().then(|| Line {
        info: leave.connection().clone(),
        backend: Arc::clone(&backend.name),
        began: now(),
        reason: Some(CUT_OFF),
    });
    let server = match server {
        Some(server) => Ok(*server),
        None => backend.connect().await.map(Wire::new),
    };
    let (ended, reason) = match server {
        // Asked before, too, when who made this one may not have known it yet.
        Ok(_) if is_own(leave.connection()) => (Ok(()), Some("own")),
        Ok(server) => match join(caller, read, server, leave).await {
            Ok(()) => (Ok(()), None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (Err(error), Some("denied")),
            Err(error) => (Err(error), Some("reset")),
        },
        Err(error) => {
            backend.failed(error.kind());
            let reason = error.kind().as_str();
            (Err(io::Error::other(error)), Some(reason))
        }
    };
    if let Some(line) = &mut line {
        line.reason = reason;
    }
    ended
}

/// What is logged of a connection once it has ended; when it is dropped, which the end of a drain does, too.
struct Line {
    info: ConnInfo,
    backend: Arc<str>,
    began: Instant,
    reason: Option<&'static str>,
}

impl Drop for Line {
    fn drop(&mut self) {
        Connection {
            protocol: "opaque",
            info: &self.info,
            backend: &self.backend,
            duration: now().saturating_duration_since(self.began),
            reason: self.reason,
        }
        .log();
    }
}

/// Passes bytes both ways until both sides have ended, or one has failed, or leave is revoked: then both are reset.
async fn join(
    mut caller: Transport<Attended>,
    read: &[u8],
    mut server: Wire<Transport<Outgoing>>,
    leave: Leave,
) -> io::Result<()> {
    let copied = tokio::select! {
        copied = copy(&mut caller, read, &mut server) => copied,
        () = leave.revoked() => Err(io::ErrorKind::PermissionDenied.into()),
    };
    if copied.is_err() {
        caller.end_badly();
        server.inner().end_badly();
    }
    copied
}

async fn copy(
    caller: &mut Transport<Attended>,
    read: &[u8],
    server: &mut Wire<Transport<Outgoing>>,
) -> io::Result<()> {
    server.write_all(read).await?;
    server.flush().await?;
    copy_bidirectional(caller, server).await.map(|_| ())
}

/// How long a server may take that speaks first. Whoever pools connections and has not spoken on them yet keeps
/// theirs: they go on to a server when they do.
const GREETING: Duration = Duration::from_secs(10);

/// What is read at once of a server that speaks first: greetings are short.
const FIRST_READ: usize = 512;
