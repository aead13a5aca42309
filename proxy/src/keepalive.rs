//! Whether a peer that is silent is there still. Whoever asks its peer so itself, as databases' clients do, asks
//! the sidecar only, which always answers.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Has the system ask a silent peer of this connection, or of those that a listening socket will accept, whether
/// it is there: after 10 s, as linkerd does, and then every 10 s. After three questions without an answer, so
/// after 40 s, the connection is broken.
///
/// # Errors
/// The system's own.
pub(crate) fn ask(socket: &impl AsFd) -> io::Result<()> {
    let asking = TcpKeepalive::new()
        .with_time(EVERY)
        .with_interval(EVERY)
        .with_retries(QUESTIONS);
    SockRef::from(socket).set_tcp_keepalive(&asking)
}

const EVERY: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 3;
