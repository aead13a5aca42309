//! How a sidecar without a certificate shows whose it is.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::Workload;
use tonic::async_trait;

use super::authority::KeyHash;
use super::tokens::{TokenFault, Tokens};
use super::used::{Used, UsedError};

/// Tells whose token one is.
#[async_trait]
pub trait Attest: Send + Sync + fmt::Debug {
    /// The workload that a token shows, for the owner of a key that calls itself `node`.
    ///
    /// # Errors
    /// Why it shows none.
    ///
    /// # Cancellation
    /// The token may be taken for that key all the same; the same question has the same answer then.
    async fn workload(&self, token: &str, key: &KeyHash, node: &str) -> Result<Workload, AttestError>;

    /// What somebody can do whose token was refused, `workload`'s if that is known.
    fn way_out(&self, workload: Option<&Workload>) -> String;
}

/// Why a token shows nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It is none of ours, or used up: the same token will never do.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
        /// Whose it is, if it is one of ours.
        workload: Option<Workload>,
    },
    /// It is good, and not under the name that was given with it.
    #[error("{reason}; {way_out}")]
    Misnamed {
        /// Why not.
        reason: String,
        /// What can be done about it.
        way_out: String,
        /// Whose it is.
        workload: Workload,
    },
    /// It cannot be told now.
    #[error("{0}")]
    Unavailable(String),
}

/// Tokens that the control plane made itself: for files, where nobody else makes any.
#[derive(Debug)]
pub struct Bootstrap {
    tokens: Arc<Tokens>,
    used: Arc<Used>,
}

impl Bootstrap {
    /// Takes each token for one key.
    pub const fn new(tokens: Arc<Tokens>, used: Arc<Used>) -> Self {
        Self { tokens, used }
    }
}

#[async_trait]
impl Attest for Bootstrap {
    /// By any name: its token is good for one key, whatever that one is called.
    async fn workload(&self, token: &str, key: &KeyHash, _: &str) -> Result<Workload, AttestError> {
        let now = SystemTime::now();
        let claims = self.tokens.read(token, now)?;
        let (used, noted, key) = (Arc::clone(&self.used), claims.clone(), *key);
        let noted = tokio::task::spawn_blocking(move || used.note(&noted, &key, now)).await;
        let noted = noted.map_err(|_| AttestError::Unavailable("token: cannot be noted as used".into()))?;
        noted.map_err(|error| AttestError::of(error, &claims.workload))?;
        Ok(claims.workload)
    }

    fn way_out(&self, workload: Option<&Workload>) -> String {
        let whose = workload.map_or_else(|| "NAMESPACE/ACCOUNT".to_owned(), ToString::to_string);
        format!("write a new one to its --token-file (jitney-control-plane token {whose})")
    }
}

impl From<TokenFault> for AttestError {
    fn from(fault: TokenFault) -> Self {
        let reason = fault.to_string();
        let workload = match fault {
            TokenFault::Expired(workload) => Some(workload),
            TokenFault::Malformed | TokenFault::Signature | TokenFault::TrustDomain => None,
        };
        Self::Refused { reason, workload }
    }
}

impl AttestError {
    fn of(error: UsedError, workload: &Workload) -> Self {
        match error {
            UsedError::Replayed => Self::Refused {
                reason: error.to_string(),
                workload: Some(workload.clone()),
            },
            UsedError::Busy => Self::Unavailable(error.to_string()),
            UsedError::Unnoted(cause) => {
                tracing::error!(%cause, "a token cannot be noted as used");
                Self::Unavailable("token: cannot be noted as used".into())
            }
        }
    }
}
