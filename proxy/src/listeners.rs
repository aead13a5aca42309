//! Where this sidecar listens, and where it is to and cannot yet: told by whoever opens the sockets, shown by
//! the admin endpoint, and said to the control plane.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// Every listener as it is now. Told anew when an address has become free.
pub type Listeners = watch::Receiver<Arc<[ListenerView]>>;

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerView {
    /// Its name.
    pub name: Arc<str>,
    /// The address that it is bound to or, while it is pending, is to be.
    pub address: SocketAddr,
    /// Where its calls go.
    pub backend: Arc<str>,
    /// Why it takes no calls at its address; `None` when it does.
    pub pending: Option<Pending>,
}

/// A listener whose address cannot be bound, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What says that it is to listen there.
    pub place: Place,
    /// What the system says.
    pub reason: String,
}

/// What a control plane pushed that says where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the Runtime resource.
    pub runtime: String,
    /// The field in it.
    pub field: String,
}
