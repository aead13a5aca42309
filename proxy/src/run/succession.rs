//! How a process takes the place of the one before it, once it can serve what that one serves, and makes place
//! for the next.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::following::Following;
use super::hand_over::{self, Estate, Giver, Inherited};
use super::{RunError, admin_name};
use crate::config::RunArgs;
use crate::drain::Drain;

/// Where this process stands among those that take each other's place.
pub(super) struct Succession {
    /// Begins when another process serves the listeners.
    pub(super) handed: Drain,
    /// Why it cannot take the place of the one before it, which serves on.
    pub(super) stranded: oneshot::Receiver<String>,
}

/// Takes the place of the process before this one, and makes place for the next.
pub(super) struct Heir {
    pub(super) fleet: Arc<Fleet>,
    pub(super) inherited: Arc<Inherited>,
    /// `None` without a control plane.
    pub(super) following: Option<Following>,
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
        strand: oneshot::Sender<String>,
    ) {
        let late = Instant::now() + hand_over::PATIENCE;
        if self.inherited.is_some()
            && let Err(reason) = self.until_due(late).await
        {
            let _sent = strand.send(reason);
            return;
        }
        let this = Arc::new(self);
        this.fleet.placed().signal();
        let heir = Arc::clone(&this);
        // Before the other one lets go: whoever wanted its place, too, is to find this one in it.
        if let Err(error) = hand_over::offer(&path, move || heir.estate(admin.as_ref()), handed) {
            tracing::error!(%error, path = %path.display(), "no other process can take over from this one");
        }
        if this.inherited.is_some() {
            if let Err(error) = this.inherited.served() {
                tracing::debug!(%error, "nobody was relieved");
            }
            while !this.is_fit(late) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            this.inherited.waive();
        }
    }

    /// Returns when calls can be served as the process before this one does, or when that is no more.
    ///
    /// # Errors
    /// Why the other one is to serve on.
    async fn until_due(&self, late: Instant) -> Result<(), String> {
        let mut told = None;
        while !self.is_fit(late) {
            match self.inherited.giver() {
                Giver::Waits => {}
                Giver::ServesOn => return Err("this process was not ready in time".to_owned()),
                Giver::Ended => {
                    self.stand_alone();
                    return Ok(());
                }
            }
            if let Some(lack) = self.fleet.lacks() {
                if Instant::now() >= late {
                    return Err(lack.to_string());
                }
                if told.replace(lack) != Some(lack) {
                    tracing::info!("{lack} yet: the process before this one serves until then");
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Whether everything is served that is to be. What was inherited and not taken may still be named by the
    /// control plane, if the plan is only what was kept on disk; until it is late.
    fn is_fit(&self, late: Instant) -> bool {
        let following = self.following.as_ref();
        let is_final = || following.is_none_or(|following| !following.standing.lock().from_snapshot);
        self.fleet.lacks().is_none() && (self.inherited.is_taken() || is_final() || Instant::now() >= late)
    }

    /// There is nobody any more who knows better, so this process begins as one that has nobody before it.
    fn stand_alone(&self) {
        tracing::warn!("the process before this one has ended: this one goes on with what it was given");
        if let Some(following) = &self.following
            && let Err(error) = self.fleet.begin(&following.meanwhile)
        {
            tracing::error!(
                error,
                "not everything is served until the control plane says what to serve"
            );
        }
    }

    /// What the next process is given.
    fn estate(&self, admin: Option<&(SocketAddr, Arc<TcpListener>)>) -> io::Result<Estate> {
        let mut sockets = self.fleet.sockets()?;
        sockets.extend(self.inherited.left()?);
        if let Some((address, socket)) = admin {
            sockets.push(hand_over::copy(admin_name(*address), socket)?);
        }
        let following = self.following.as_ref();
        let papers = following.and_then(|following| following.papers.lock().clone());
        Ok(Estate { papers, sockets })
    }
}

/// Between two looks at whether everything can be served that was taken over.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
