//! How one process takes the place of another: it is given the listening sockets themselves, so that their
//! queues lose nothing, and the other drains once they are served.
//!
//! Over a Unix socket of whole messages: that they are asked for; what the control plane knows the process as, one with a name and a
//! descriptor for each socket, one that says it was the last; and back, one that says they are served. A taker that
//! ends before that changes nothing; one whose giver ends has the sockets to itself.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, send, sendmsg, socket_with,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::control::Papers;
use crate::drain::Drain;

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    /// The listener's name; `None` is the admin endpoint.
    pub(super) listener: Option<String>,
    /// Where it was to listen; port 0 is any.
    pub(super) address: SocketAddr,
}

/// What one process tells the next.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Who the sidecar is to its control plane and to others.
    Papers(Papers),
    /// Comes with a descriptor.
    Socket(Name),
    /// That was all.
    Last,
}

/// What the process before this one has given.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    sockets: Mutex<Vec<(Name, TcpListener)>>,
    papers: Option<Papers>,
    giver: Option<OwnedFd>,
}

/// What the process before this one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giver {
    /// It serves until it is relieved.
    Waits,
    /// It serves, and is not to be relieved any more.
    ServesOn,
    /// It is no more.
    Ended,
}

/// All that is given.
#[derive(Debug)]
pub(super) struct Estate {
    pub(super) papers: Option<Papers>,
    pub(super) sockets: Vec<(Name, OwnedFd)>,
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
    /// When something else is there, or it does not give them.
    pub(super) fn ask(path: &Path) -> io::Result<Self> {
        check_place(path)?;
        for _ in 1..TRIES {
            match Self::ask_once(path) {
                // It has ended, or another one has its place by now.
                Err(error) if is_broken_off(&error) => {
                    tracing::info!(%error, "the process before this one broke off, and whoever is there now is asked");
                }
                asked => return asked,
            }
        }
        Self::ask_once(path)
    }

    fn ask_once(path: &Path) -> io::Result<Self> {
        let giver = socket()?;
        set_socket_timeout(&giver, Timeout::Recv, Some(TURN))?;
        set_socket_timeout(&giver, Timeout::Send, Some(TURN))?;
        match connect(&giver, &SocketAddrUnix::new(path)?) {
            Ok(()) => {}
            // Nobody was there before, or nobody is any more.
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(Self::default()),
            Err(Errno::AGAIN) => return Err(waited(path)),
            Err(error) => return Err(error.into()),
        }
        check_user(&giver)?;
        send(&giver, ASKING, SendFlags::NOSIGNAL)?;
        let (mut sockets, mut papers) = (Vec::new(), None);
        loop {
            let received = receive(&giver);
            match received.map_err(|error| explained(error, || waited(path)))? {
                (Message::Papers(shown), _) => papers = Some(shown),
                (Message::Socket(name), Some(socket)) => sockets.push((name, socket)),
                (Message::Socket(_), None) => return Err(io::Error::other("a socket is missing")),
                (Message::Last, _) => break,
            }
        }
        tracing::info!(sockets = sockets.len(), "taking over from another process");
        Ok(Self {
            sockets: Mutex::new(sockets),
            papers,
            giver: Some(giver),
        })
    }

    /// Whether there is a process before this one, which serves until it is relieved.
    pub(super) const fn is_some(&self) -> bool {
        self.giver.is_some()
    }

    /// Who that one was.
    pub(super) fn papers(&self) -> Option<Papers> {
        self.papers.clone()
    }

    /// Sees to it that there is a socket for this.
    ///
    /// # Errors
    /// When `bind` has none.
    pub(super) fn reserve(
        &self,
        name: Name,
        bind: impl FnOnce() -> io::Result<TcpListener>,
    ) -> io::Result<()> {
        let mut sockets = self.sockets.lock();
        if !sockets.iter().any(|(known, _)| known.is_same_place(&name)) {
            sockets.push((name, bind()?));
        }
        Ok(())
    }

    /// The socket for this, once.
    pub(super) fn take(&self, name: &Name) -> Option<TcpListener> {
        let mut sockets = self.sockets.lock();
        let at = sockets.iter().position(|(known, _)| known.is_same_place(name))?;
        Some(sockets.swap_remove(at).1)
    }

    /// Whether the sockets of all listeners are taken.
    pub(super) fn is_taken(&self) -> bool {
        self.sockets
            .lock()
            .iter()
            .all(|(name, _)| name.listener.is_none())
    }

    /// What is not taken, for the next process.
    pub(super) fn left(&self) -> io::Result<Vec<(Name, OwnedFd)>> {
        let sockets = self.sockets.lock();
        let copies = sockets.iter().map(|(name, socket)| {
            let copy = socket.as_fd().try_clone_to_owned()?;
            Ok((name.clone(), copy))
        });
        copies.collect()
    }

    /// Lets go of what is not taken.
    pub(super) fn waive(&self) {
        for (name, _) in self.sockets.lock().drain(..) {
            tracing::warn!(listener = name.listener, address = %name.address, "a listener is not taken over");
        }
    }

    /// Whether the process that gave them still waits to be relieved.
    pub(super) fn giver(&self) -> Giver {
        let Some(giver) = &self.giver else {
            return Giver::Ended;
        };
        let mut said = [0; 8];
        match rustix::net::recv(giver, &mut said, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Giver::Waits,
            Ok((length, _)) if said[..length] == *REFUSED => Giver::ServesOn,
            Ok(_) | Err(_) => Giver::Ended,
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

/// Offers what there is at `path`, to whoever asks first and serves it; `handed` begins then. What was offered
/// there by another process is not any more.
///
/// # Errors
/// The system's own: the path cannot be written.
pub(super) fn offer<S>(path: &Path, all: S, handed: Drain) -> io::Result<()>
where
    S: Fn() -> io::Result<Estate> + Send + 'static,
{
    check_place(path)?;
    let offering = socket()?;
    // In one step: whoever asks meanwhile meets one or the other.
    let beside = beside(path);
    drop(std::fs::remove_file(&beside));
    bind(&offering, &SocketAddrUnix::new(&beside)?)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
    listen(&offering, QUEUE)?;
    std::fs::rename(&beside, path)?;
    let thread = std::thread::Builder::new().name("hand-over".into());
    thread.spawn(move || {
        // One after the other: only one of them can have the place.
        loop {
            let taker = match accept_with(&offering, SocketFlags::CLOEXEC) {
                Ok(taker) => taker,
                Err(error) => {
                    tracing::error!(%error, "no other process can take over from this one any more");
                    return;
                }
            };
            match hand(&taker, &all) {
                Ok(()) => return handed.signal(),
                Err(error) => {
                    // Most likely it is gone. If not, it must not take this process for gone.
                    let _told = send(&taker, REFUSED, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                    tracing::warn!(%error, "the sockets were not handed over");
                }
            }
        }
    })?;
    Ok(())
}

/// Checks that nothing would be lost at `path`: a socket that an ended process left is of no use to anybody.
fn check_place(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(about) => about.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let found = match kind {
        kind if kind.is_socket() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_symlink() => "a symbolic link",
        _ => "a file",
    };
    let path = path.display();
    Err(io::Error::other(format!(
        "--hand-over {path}: found {found}, expected a socket or nothing"
    )))
}

/// Whether the other process is no more, or no more who it was.
fn is_broken_off(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn waited(path: &Path) -> io::Error {
    io::Error::other(format!(
        "the one that offers its sockets at {} gave none within {TURN:?}: yet another one may be taking them",
        path.display()
    ))
}

/// An error of a socket that has a time limit.
fn explained(error: io::Error, at_limit: impl FnOnce() -> io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return at_limit();
    }
    error
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

/// Checks that the other process is of the same user: who owns the folder of the path may put a socket of his own
/// there, and would be given keys, or calls.
fn check_user(other: &OwnedFd) -> io::Result<()> {
    let (other, own) = (socket_peercred(other)?.uid, geteuid());
    if other == own {
        return Ok(());
    }
    let (other, own) = (other.as_raw(), own.as_raw());
    Err(io::Error::other(format!(
        "the other process runs as user {other}, and this one as {own}"
    )))
}

/// Gives all there is to one that asks for it, and returns when it is served.
fn hand(taker: &OwnedFd, all: &impl Fn() -> io::Result<Estate>) -> io::Result<()> {
    check_user(taker)?;
    // Others wait behind one that says nothing.
    if hear(taker, ASKED)? != ASKING {
        return Err(io::Error::other("the other process did not ask for them"));
    }
    set_socket_timeout(taker, Timeout::Send, Some(PATIENCE))?;
    let Estate { papers, sockets } = all()?;
    if let Some(papers) = papers {
        tell(taker, &Message::Papers(papers), None)?;
    }
    for (name, socket) in sockets {
        tell(taker, &Message::Socket(name), Some(&socket))?;
    }
    tell(taker, &Message::Last, None)?;
    match &*hear(taker, SERVING)? {
        said if said == SERVED => Ok(()),
        _ => Err(io::Error::other("the other process ended before it served them")),
    }
}

/// What the other process says within this time; nothing when it has ended.
fn hear(taker: &OwnedFd, within: Duration) -> io::Result<Vec<u8>> {
    set_socket_timeout(taker, Timeout::Recv, Some(within))?;
    let mut said = vec![0; 8];
    let heard = rustix::net::recv(taker, &mut said, RecvFlags::empty());
    let silent = || io::Error::other(format!("the other process said nothing within {within:?}"));
    let (length, _) = heard.map_err(|error| explained(error.into(), silent))?;
    said.truncate(length);
    Ok(said)
}

fn tell(taker: &OwnedFd, message: &Message, socket: Option<&OwnedFd>) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let descriptors = socket.map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(slice::from_ref(descriptor)));
    }
    sendmsg(taker, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, and the socket that came with it.
fn receive(giver: &OwnedFd) -> io::Result<(Message, Option<TcpListener>)> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(giver, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        let reason = "the other process broke off";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    if text[..received.bytes] == *REFUSED {
        let reason = "the other process does not hand over: its log says why";
        return Err(io::Error::other(reason));
    }
    let message = serde_json::from_slice(&text[..received.bytes])?;
    let descriptors = control.drain().filter_map(|message| {
        let RecvAncillaryMessage::ScmRights(descriptors) = message else {
            return None;
        };
        Some(descriptors)
    });
    let socket = descriptors.flatten().next().map(TcpListener::from);
    if let Some(socket) = &socket {
        socket.set_nonblocking(true)?;
    }
    Ok((message, socket))
}

/// A way to the descriptors that are to be given, which stay with whoever gives them until he lets go.
pub(super) fn copy(name: Name, socket: &Arc<impl AsFd>) -> io::Result<(Name, OwnedFd)> {
    Ok((name, socket.as_fd().try_clone_to_owned()?))
}

const ASKING: &[u8] = b"asking";
const SERVED: &[u8] = b"served";
const REFUSED: &[u8] = b"refused";
/// The longest message: a certificate and some tens of roots, with four characters a byte.
const LONGEST: usize = 128 << 10;
/// Processes that may wait to be given sockets.
const QUEUE: i32 = 16;
/// How often a process asks anew that was in the queue of one that has handed over, or ended.
const TRIES: usize = 8;
/// How long a process that has connected may take to ask, which it does at once.
const ASKED: Duration = Duration::from_secs(1);
/// How long a process may take to serve what it is given; a control plane may have to tell it how.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is waited for: twice as long as it may wait itself.
const SERVING: Duration = Duration::from_secs(20);
/// How long a process waits for its turn: for longer than one that hangs may hold up the others.
const TURN: Duration = Duration::from_secs(25);
