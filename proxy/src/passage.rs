//! Connections whose calls have switched protocols: until when their bytes are passed on, and who waits for that.

use std::convert::Infallible;
use std::future::pending;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::guard::Leave;

/// Goes with a call that asks to switch protocols, and then with its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    /// `None` where nobody guards it.
    leave: Option<Leave>,
    /// Dropped at the end, which is all that it says.
    _until: mpsc::Sender<Infallible>,
}

/// The passages of a connection.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    /// Of the last one: calls that could switch follow each other.
    ended: Mutex<Option<mpsc::Receiver<Infallible>>>,
}

impl Passages {
    pub(crate) fn begin(&self, leave: Option<Leave>) -> Passage {
        let (until, ended) = mpsc::channel(1);
        *self.ended.lock() = Some(ended);
        Passage { leave, _until: until }
    }

    /// Returns when no bytes are passed on any more. What the connection holds, such as its place among those that
    /// may be open and its part in the drain, is held until then, as it is for a connection that was never HTTP.
    pub(crate) async fn ended(&self) {
        let ended = self.ended.lock().take();
        if let Some(mut ended) = ended {
            ended.recv().await;
        }
    }
}

impl Passage {
    /// Returns when leave is revoked; until then, and until this is dropped, bytes may pass.
    pub(crate) async fn revoked(self) {
        match self.leave {
            Some(leave) => leave.revoked().await,
            None => pending().await,
        }
    }
}
