//! A wire that is listened to: a relay that keeps what crosses it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A relay to one address. Dropping it ends what crosses it.
#[derive(Debug)]
pub struct Wiretap {
    /// Where it takes connections.
    pub address: SocketAddr,
    crossed: Arc<Mutex<Vec<u8>>>,
    relay: AbortHandle,
}

impl Wiretap {
    /// A relay to `to`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let crossed = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&crossed);
        let relay = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else {
                    continue;
                };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_read, far_write, Arc::clone(&kept)));
                tokio::spawn(pass(far_read, near_write, Arc::clone(&kept)));
            }
        });
        Self {
            address,
            crossed,
            relay: relay.abort_handle(),
        }
    }

    /// Whether these bytes have crossed it, in one piece.
    pub fn has(&self, bytes: &[u8]) -> bool {
        let crossed = self.crossed.lock().unwrap_or_else(PoisonError::into_inner);
        crossed.windows(bytes.len()).any(|window| window == bytes)
    }

    /// What has crossed it, both ways.
    pub fn crossed(&self) -> Vec<u8> {
        let crossed = self.crossed.lock();
        crossed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes have crossed it.
    pub fn count(&self) -> usize {
        self.crossed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    kept: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.relay.abort();
    }
}
