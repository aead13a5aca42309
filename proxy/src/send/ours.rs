//! The connections that this sidecar has made: counted, with their bytes, and known by their two ends: one that the
//! kernel hands back to it is not a caller's, and serving it would never end.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dashmap::DashSet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::keepalive::Attended;
use crate::metrics::OpenConnection;

/// The connections to endpoints that are open. Cheap to clone. Bounded by the files a process may open.
#[derive(Clone, Debug, Default)]
pub struct Ours(Arc<DashSet<Ends>>);

/// A connection to an endpoint, remembered as long as it is open.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: Attended,
    open: OpenConnection,
    remembered: Option<(Ours, Ends)>,
}

/// This side's address and the other's.
type Ends = (SocketAddr, SocketAddr);

impl Ours {
    /// Remembers a connection that was just made; before its first byte, which whoever asks has seen.
    pub(super) fn remember(&self, stream: TcpStream, open: OpenConnection) -> Outgoing {
        let ends = (stream.local_addr().ok()).zip(stream.peer_addr().ok());
        let remembered = ends.map(|(local, peer)| {
            let ends = canonical(local, peer);
            self.0.insert(ends);
            (self.clone(), ends)
        });
        Outgoing {
            stream: Attended::new(stream),
            open,
            remembered,
        }
    }

    /// Whether a connection from `peer` that was meant for `destination` is one of these.
    pub(crate) fn include(&self, peer: SocketAddr, destination: SocketAddr) -> bool {
        self.0.contains(&canonical(peer, destination))
    }
}

/// IPv4 in the form of IPv6 is IPv4.
fn canonical(local: SocketAddr, peer: SocketAddr) -> Ends {
    let [local, peer] = [local, peer].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    (local, peer)
}

impl Outgoing {
    #[inline]
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = polled {
            self.open.sent(length);
        }
        polled
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some((ours, ends)) = self.remembered.take() {
            ours.0.remove(&ends);
        }
    }
}

impl AsFd for Outgoing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Deref for Outgoing {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Outgoing {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.open.received(buf.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Outgoing {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_connection_is_ours_as_long_as_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = listener.local_addr().unwrap();
        let ours = Ours::default();
        let open = OpenConnection::count(&Metrics::new().backend("users"));
        let made = ours.remember(TcpStream::connect(destination).await.unwrap(), open);
        let (_accepted, peer) = listener.accept().await.unwrap();
        assert!(ours.include(peer, destination));
        let SocketAddr::V4(v4) = peer else {
            unreachable!("bound to IPv4")
        };
        let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
        assert!(ours.include(mapped, destination), "IPv4 as IPv6 has it");
        let elsewhere = SocketAddr::new(destination.ip(), 1);
        assert!(!ours.include(peer, elsewhere), "a port may be used to two places");
        drop(made);
        assert!(!ours.include(peer, destination));
    }
}
