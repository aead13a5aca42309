//! Where the control plane stands between its start and its end: who serves, and who tells others
//! whether it does, look here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// A handle on it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    synced: AtomicBool,
    /// There is to be a webhook, and it has no certificate yet.
    lacks_certificate: AtomicBool,
    draining: watch::Sender<bool>,
    apart: watch::Sender<bool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        let inner = Inner {
            synced: AtomicBool::new(false),
            lacks_certificate: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            apart: watch::Sender::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Lifecycle {
    /// Everything that the source holds has been read once: what is pushed from now on is whole.
    pub fn synced(&self) {
        self.inner.synced.store(true, Ordering::Release);
    }

    /// The webhook has a certificate, or none yet: then whoever replaces another replica by this one had better wait.
    pub fn webhook(&self, has_certificate: bool) {
        self.inner
            .lacks_certificate
            .store(!has_certificate, Ordering::Release);
    }

    /// The control plane goes away.
    pub fn drain(&self) {
        self.inner.draining.send_replace(true);
    }

    /// Becomes true when the control plane goes away.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.inner.draining.subscribe()
    }

    /// Other replicas hear this one no more, or do again.
    pub fn set_apart(&self, is_apart: bool) {
        let change = |apart: &mut bool| std::mem::replace(apart, is_apart) != is_apart;
        if self.inner.apart.send_if_modified(change) {
            tracing::warn!(
                is_apart,
                "whether the other replicas hear nothing of this one has changed"
            );
        }
    }

    /// True while sidecars are better off with other replicas.
    pub fn apart(&self) -> watch::Receiver<bool> {
        self.inner.apart.subscribe()
    }

    /// Whether sidecars should come here.
    ///
    /// # Errors
    /// Why not, in a word.
    pub fn ready(&self) -> Result<(), &'static str> {
        if *self.inner.draining.borrow() {
            return Err("draining");
        }
        if *self.inner.apart.borrow() {
            return Err("the other replicas hear nothing of this one: its state cannot be written");
        }
        if !self.inner.synced.load(Ordering::Acquire) {
            return Err("the source is not read yet");
        }
        if self.inner.lacks_certificate.load(Ordering::Acquire) {
            return Err("the webhook has no certificate: /status says why");
        }
        Ok(())
    }
}
