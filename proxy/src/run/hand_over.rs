//! How one process takes the place of another: it is given the listening sockets themselves, so that their
//! queues lose nothing, and the other drains once they are served.
//!
//! Over a Unix socket of whole messages: one with a name and a descriptor for each socket, one that says it was
//! the last; and back, one that says they are served. Whoever ends before that changes nothing.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, send, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

use crate::drain::Drain;

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    /// The listener's name; `None` is the admin endpoint.
    pub(super) listener: Option<String>,
    /// Where it was to listen; port 0 is any.
    pub(super) address: SocketAddr,
}

/// What the process before this one has given.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    sockets: Mutex<Vec<(Name, TcpListener)>>,
    giver: Option<OwnedFd>,
}

impl Name {
    /// Whether a socket for this can serve that. Port 0 is another port for each name.
    fn is_same_place(&self, other: &Self) -> bool {
        self.address == other.address && (self.address.port() != 0 || self.listener == other.listener)
    }
}

impl Inherited {
    /// Asks the process that offers its sockets at `path`; there is nothing to take when there is none.
    ///
    /// # Errors
    /// When it breaks off.
    pub(super) fn ask(path: &Path) -> io::Result<Self> {
        let giver = socket()?;
        match connect(&giver, &SocketAddrUnix::new(path)?) {
            Ok(()) => {}
            // Nobody was there before, or nobody is any more.
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        }
        set_socket_timeout(&giver, Timeout::Recv, Some(PATIENCE))?;
        let mut sockets = Vec::new();
        while let Some(socket) = receive(&giver)? {
            sockets.push(socket);
        }
        tracing::info!(sockets = sockets.len(), "taking over from another process");
        Ok(Self {
            sockets: Mutex::new(sockets),
            giver: Some(giver),
        })
    }

    /// The socket for this, once.
    pub(super) fn take(&self, name: &Name) -> Option<TcpListener> {
        let mut sockets = self.sockets.lock();
        let at = sockets.iter().position(|(known, _)| known.is_same_place(name))?;
        Some(sockets.swap_remove(at).1)
    }

    /// Returns when all is taken, or so long after that what is left will not be.
    pub(super) async fn taken(&self) {
        let waiting = async {
            while !self.sockets.lock().is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            for (name, _) in self.sockets.lock().drain(..) {
                tracing::warn!(listener = name.listener, address = %name.address, "a listener is not taken over");
            }
        }
    }

    /// Has the process that gave them let go.
    pub(super) fn served(&self) -> io::Result<()> {
        if let Some(giver) = &self.giver {
            send(giver, SERVED, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }
}

/// Offers sockets at `path`, to whoever asks first and serves them; `handed` begins then. What was offered there
/// by another process is not any more.
///
/// # Errors
/// The system's own: the path cannot be written.
pub(super) fn offer<S>(path: &Path, sockets: S, handed: Drain) -> io::Result<()>
where
    S: Fn() -> io::Result<Vec<(Name, OwnedFd)>> + Send + 'static,
{
    let offering = socket()?;
    // In one step: whoever asks meanwhile meets one or the other.
    let beside = beside(path);
    drop(std::fs::remove_file(&beside));
    bind(&offering, &SocketAddrUnix::new(&beside)?)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
    listen(&offering, 1)?;
    std::fs::rename(&beside, path)?;
    let thread = std::thread::Builder::new().name("hand-over".into());
    thread.spawn(move || {
        while let Ok(taker) = accept_with(&offering, SocketFlags::CLOEXEC) {
            match sockets().and_then(|sockets| give(&taker, &sockets)) {
                Ok(()) => return handed.signal(),
                Err(error) => tracing::warn!(%error, "the sockets were not handed over"),
            }
        }
    })?;
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn socket() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(socket)
}

/// Gives the sockets, and returns when they are served.
fn give(taker: &OwnedFd, sockets: &[(Name, OwnedFd)]) -> io::Result<()> {
    // Twice as long as the other may wait for its listeners.
    set_socket_timeout(taker, Timeout::Recv, Some(2 * PATIENCE))?;
    set_socket_timeout(taker, Timeout::Send, Some(PATIENCE))?;
    for (name, socket) in sockets {
        let text = serde_json::to_vec(name)?;
        let descriptors = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(taker, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    }
    send(taker, LAST, SendFlags::NOSIGNAL)?;
    let mut said = [0; 8];
    let (length, _) = rustix::net::recv(taker, &mut said, RecvFlags::empty())?;
    match &said[..length] {
        said if said == SERVED => Ok(()),
        _ => Err(io::Error::other("the other process ended before it served them")),
    }
}

/// The next socket; `None` after the last.
fn receive(giver: &OwnedFd) -> io::Result<Option<(Name, TcpListener)>> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(giver, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let text = &text[..received.bytes];
    if text == LAST {
        return Ok(None);
    }
    let descriptors = control.drain().filter_map(|message| {
        let RecvAncillaryMessage::ScmRights(descriptors) = message else {
            return None;
        };
        Some(descriptors)
    });
    let descriptor: Option<OwnedFd> = descriptors.flatten().next();
    let broken = || io::Error::other("the other process broke off");
    let socket = TcpListener::from(descriptor.ok_or_else(broken)?);
    socket.set_nonblocking(true)?;
    Ok(Some((serde_json::from_slice(text)?, socket)))
}

/// A way to the descriptors that are to be given, which stay with whoever gives them until he lets go.
pub(super) fn copy(name: Name, socket: &Arc<impl AsFd>) -> io::Result<(Name, OwnedFd)> {
    Ok((name, socket.as_fd().try_clone_to_owned()?))
}

const LAST: &[u8] = b"last";
const SERVED: &[u8] = b"served";
/// The longest message: a name of a listener has at most 253 characters.
const LONGEST: usize = 1024;
/// How long a process may take to ask for what it listens on, which a control plane may have to tell it.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
