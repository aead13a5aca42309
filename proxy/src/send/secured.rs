//! The connections to an endpoint where another sidecar answers: mTLS, unless one of both has no certificate
//! and bare ones are allowed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::address::Peer;
use super::http2::Shared;
use super::ours::Outgoing;
use crate::batching::alarm::now;
use crate::error::{Error, ErrorKind};
use crate::mtls::{Connected, Inside, Mesh, MtlsError};

/// How an HTTP/2 connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Bare,
    Secured,
}

/// What is kept of secured connections to an endpoint.
#[derive(Debug)]
pub(super) struct Secured {
    mesh: Mesh,
    /// Who is to answer; `None`: nobody of the mesh.
    peer: Option<Peer>,
    /// Those that calls share. Never one that is bare.
    pub(super) connections: Shared,
    /// Until when the peer is taken to have no certificate.
    lacking: Mutex<Option<Instant>>,
}

impl Secured {
    pub(super) fn new(mesh: &Mesh, peer: Option<Peer>) -> Self {
        Self {
            mesh: mesh.clone(),
            peer,
            connections: Shared::default(),
            lacking: Mutex::default(),
        }
    }

    /// Whether new connections are to be secured.
    pub(super) fn is_used(&self) -> bool {
        match &self.peer {
            None => false,
            Some(peer) if peer.is_strict => true,
            Some(_) => self.mesh.is_known() && !self.is_lacking(),
        }
    }

    /// Secures a connection that was just made.
    pub(super) async fn connect(
        &self,
        stream: Outgoing,
        inside: Inside,
    ) -> Result<Connected<Outgoing>, Error> {
        let failed = |error: MtlsError| Error::caused(ErrorKind::Connect, error);
        let peer = self
            .peer
            .as_ref()
            .ok_or_else(|| failed(MtlsError::NoCertificate))?;
        let secured = self.mesh.connect(stream, &peer.workload, inside).await;
        secured.map_err(|error| {
            if error.is_want_of_certificate() && !peer.is_strict {
                // Before anybody hears of it: calls that waited for the same connection ask only whether it is so.
                self.lacks(peer, &error);
            }
            failed(error)
        })
    }

    /// Whether a connection that failed so may be bare instead, as others will be for a while.
    pub(super) fn gives_way(&self, error: &Error) -> bool {
        let is_strict = self.peer.as_ref().is_none_or(|peer| peer.is_strict);
        error.kind() == ErrorKind::Connect && !is_strict && self.is_lacking()
    }

    fn is_lacking(&self) -> bool {
        self.lacking.lock().is_some_and(|until| until >= now())
    }

    fn lacks(&self, peer: &Peer, error: &MtlsError) {
        let before = self.lacking.lock().replace(now() + LACKING);
        if before.is_none() {
            let workload = &peer.workload;
            tracing::warn!(%workload, %error, "connections to a sidecar are not secured");
        }
    }
}

/// How long a peer without a certificate is not asked again.
const LACKING: Duration = Duration::from_secs(5);
