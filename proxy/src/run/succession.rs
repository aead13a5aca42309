//! How a process takes the place of the one before it, once it can serve what that one serves, and makes place
//! for the next.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fleet::{Fleet, Lack};
use super::hand_over::{self, Estate, Inherited};
use super::{RunError, admin_name};
use crate::config::RunArgs;
use crate::control::SharedPapers;
use crate::drain::Drain;

/// Where this process stands among those that take each other's place.
pub(super) struct Succession {
    /// Begins when another process serves the listeners.
    pub(super) handed: Drain,
    /// Why it cannot take the place of the one before it, which serves on.
    pub(super) stranded: oneshot::Receiver<Lack>,
}

/// Takes the place of the process before this one, and makes place for the next.
pub(super) struct Heir {
    pub(super) fleet: Arc<Fleet>,
    /// `None` without a control plane.
    pub(super) papers: Option<SharedPapers>,
    pub(super) inherited: Arc<Inherited>,
}

impl Heir {
    /// Begins, if that is wanted; what is returned says what became of it.
    pub(super) fn relieve(
        self,
        args: &RunArgs,
        endpoint: Option<&TcpListener>,
    ) -> Result<Succession, RunError> {
        let handed = Drain::new();
        let (strand, stranded) = oneshot::channel();
        if let Some(path) = args.hand_over.clone() {
            let admin = endpoint.map(TcpListener::try_clone).transpose();
            let admin = admin.map_err(|error| RunError::System("hand over", error))?;
            let admin = args.admin.zip(admin.map(Arc::new));
            tokio::spawn(self.take_place(path, admin, handed.clone(), strand));
        }
        Ok(Succession { handed, stranded })
    }

    /// Relieves the process that gave its sockets, and offers them to the next.
    async fn take_place(
        self,
        path: PathBuf,
        admin: Option<(SocketAddr, Arc<TcpListener>)>,
        handed: Drain,
        strand: oneshot::Sender<Lack>,
    ) {
        if self.inherited.is_some() {
            if let Err(lack) = self.until_fit().await {
                let _sent = strand.send(lack);
                return;
            }
            self.inherited.waive();
            self.fleet.placed().signal();
        }
        let Self {
            fleet,
            papers,
            inherited,
        } = self;
        let all = move || {
            let mut sockets = fleet.sockets()?;
            if let Some((address, socket)) = &admin {
                sockets.push(hand_over::copy(admin_name(*address), socket)?);
            }
            let papers = papers.as_ref().and_then(|papers| papers.lock().clone());
            Ok(Estate { papers, sockets })
        };
        if let Err(error) = inherited.served() {
            tracing::warn!(%error, "the process before this one has ended by itself");
        }
        if let Err(error) = hand_over::offer(&path, all, handed) {
            tracing::error!(%error, path = %path.display(), "no other process can take over from this one");
        }
    }

    /// Returns when calls can be served as the process before this one does.
    ///
    /// # Errors
    /// What they would fail for want of, when that does not come.
    async fn until_fit(&self) -> Result<(), Lack> {
        let end = Instant::now() + hand_over::PATIENCE;
        let mut told = None;
        loop {
            let lack = self.fleet.lacks();
            if lack.is_none() && self.inherited.is_taken() {
                return Ok(());
            }
            if Instant::now() >= end {
                return lack.map_or(Ok(()), Err);
            }
            if let Some(lack) = lack
                && told.replace(lack) != Some(lack)
            {
                tracing::info!("{lack} yet: the process before this one serves until then");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Between two looks at whether everything can be served that was taken over.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
