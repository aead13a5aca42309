//! Who this sidecar is, as one process tells the one that takes its place.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A certificate and its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Papers {
    /// What the sidecar calls itself, to which the certificate was given.
    pub(super) node: String,
    /// PKCS #8.
    pub(super) key: Vec<u8>,
    /// A `SignedCertificate`, with the roots of now.
    pub(super) signed: Vec<u8>,
}

/// Those of now, shared between who renews them and who hands them over; `None` before the first.
pub type SharedPapers = Arc<Mutex<Option<Papers>>>;

impl Papers {
    /// What the sidecar calls itself.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl fmt::Debug for Papers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Papers")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
