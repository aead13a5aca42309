//! For how long that holds which the other end of a connection has proven: as long as its certificate is good and
//! a root that is in force has signed it. Clocks are looked at here, so that no call has to.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Mesh;

/// What was proven on one connection. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Standing(Arc<Proof>);

#[derive(Debug)]
struct Proof {
    mesh: Mesh,
    /// What the other end showed, its own certificate first.
    chain: Box<[CertificateDer<'static>]>,
    by: By,
    /// When the first of them expires.
    not_after: SystemTime,
    /// Since when it is looked at.
    since: SystemTime,
    /// Of what this side showed.
    shown: u64,
    /// From before it was proven.
    roots_changed: watch::Receiver<()>,
    is_over: AtomicBool,
}

/// Who has proven who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Who made the connection.
    Caller,
    /// Who took it.
    Callee,
}

/// Taken before a connection is secured, so that no change of the roots goes unnoticed.
pub(super) struct Before {
    pub(super) shown: u64,
    pub(super) roots_changed: watch::Receiver<()>,
}

impl Standing {
    /// Of a connection whose TLS has verified what the other end showed.
    pub(super) fn of(mesh: &Mesh, before: Before, state: &CommonState, by: By) -> Self {
        let shown = state.peer_certificates().unwrap_or_default();
        let chain: Box<[_]> = shown.iter().map(|shown| shown.clone().into_owned()).collect();
        // One that cannot be read was not verified, either.
        let not_after = chain.iter().map(|shown| not_after(shown).unwrap_or(UNIX_EPOCH));
        Self(Arc::new(Proof {
            mesh: mesh.clone(),
            not_after: not_after.min().unwrap_or(UNIX_EPOCH),
            chain,
            by,
            since: SystemTime::now(),
            shown: before.shown,
            roots_changed: before.roots_changed,
            is_over: AtomicBool::new(false),
        }))
    }

    /// Whether nothing is proven any more. True from when somebody has seen it, who waits for [`Self::ended`].
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// Whether this side has another certificate, or other roots, since the connection was secured.
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.mesh.shown() != self.0.shown
    }

    /// Returns when the end is so near that the other end is to be told: a tenth of what was left of the
    /// certificate's life before, at most half a minute.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn nears_its_end(&self) {
        let left = self.0.not_after.duration_since(self.0.since).unwrap_or_default();
        self.until(self.0.not_after - (left / 10).min(NOTICE)).await;
    }

    /// Returns when nothing is proven any more.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn ended(&self) {
        self.until(self.0.not_after).await;
        self.0.is_over.store(true, Ordering::Relaxed);
    }

    async fn until(&self, end: SystemTime) {
        let proof = &*self.0;
        let mut changed = proof.roots_changed.clone();
        while !self.is_over() {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                // Clocks are set, and sleeps do not notice.
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                // Its other end is in the mesh, which is held here.
                Ok(()) = changed.changed() => {
                    if self.is_disowned() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns when no root that is in force has signed what was proven. That a certificate expires is no reason:
    /// it was good when the connection was made, and its owner has another one by then.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(crate) async fn disowned(&self) {
        let mut changed = self.0.roots_changed.clone();
        while changed.changed().await.is_ok() {
            if self.is_disowned() {
                self.0.is_over.store(true, Ordering::Relaxed);
                return;
            }
        }
        // Its other end is in the mesh, which is held here.
        pending().await
    }

    fn is_disowned(&self) -> bool {
        let proof = &*self.0;
        !proof.mesh.vouches_for(&proof.chain, proof.by, proof.since)
    }
}

fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The longest notice of an end that is known beforehand.
const NOTICE: Duration = Duration::from_secs(30);

/// The longest sleep between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
