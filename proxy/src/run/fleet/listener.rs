//! The listeners of a fleet: those that are bound, and those that wait for their addresses.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::super::hand_over::Name;
use super::super::plan::PlannedListener;
use super::super::to::Going;
use crate::drain::Drain;
use crate::listeners::{ListenerView, Pending};

/// One that is bound.
#[derive(Debug)]
pub(super) struct RunningListener {
    pub(super) planned: PlannedListener,
    pub(super) going: Going,
    /// Held, so that another acceptor can take over without closing it.
    pub(super) socket: Arc<TcpListener>,
    pub(super) drain: Drain,
}

/// One that waits for its address.
#[derive(Debug)]
pub(super) struct PendingListener {
    pub(super) planned: PlannedListener,
    pub(super) pending: Pending,
}

/// The listeners of a plan, opened as far as can be.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) listeners: Vec<RunningListener>,
    pub(super) pending: Vec<PendingListener>,
}

impl RunningListener {
    pub(super) fn view(&self) -> ListenerView {
        let PlannedListener {
            name, address, to, ..
        } = &self.planned;
        ListenerView {
            name: Arc::clone(name),
            address: self.socket.local_addr().unwrap_or(*address),
            backend: to.shown(),
            pending: None,
        }
    }
}

impl PendingListener {
    pub(super) fn view(&self) -> ListenerView {
        ListenerView {
            name: Arc::clone(&self.planned.name),
            address: self.planned.address,
            backend: self.planned.to.shown(),
            pending: Some(self.pending.clone()),
        }
    }

    /// Once: it is tried again many times.
    pub(super) fn tell_unless_told(&self, told: &[Self]) {
        let PlannedListener { name, address, .. } = &self.planned;
        let reason = &self.pending.reason;
        let is_told = |one: &Self| {
            (&one.planned.name, &one.planned.address, &one.pending.reason) == (name, address, reason)
        };
        if !told.iter().any(is_told) {
            tracing::warn!(listener = &**name, reason, "a listener waits for its address");
        }
    }
}

impl PlannedListener {
    /// As it is called between processes.
    pub(super) fn hand_over_name(&self) -> Name {
        Name {
            listener: Some((*self.name).to_owned()),
            address: self.address,
        }
    }
}

pub(super) fn cannot_listen(planned: &PlannedListener, error: &io::Error) -> String {
    format!("cannot listen on {}: {error}", planned.address)
}

/// The listener at its former address, which takes its calls until it can move. What stands in nobody's way
/// may stay: another listener is to have that port, if one does, and so is this one on another interface.
pub(super) fn stand_in<'r>(
    pending: &PlannedListener,
    planned: &[PlannedListener],
    running: &'r [RunningListener],
) -> Option<&'r RunningListener> {
    let old = running.iter().find(|old| old.planned.name == pending.name)?;
    let port = old.planned.address.port();
    let is_free = planned.iter().all(|one| one.address.port() != port);
    is_free.then_some(old)
}

/// Whether a listener can go on with another one's socket. Port 0 is another port for each name.
pub(super) fn is_same_place(one: &PlannedListener, other: &PlannedListener) -> bool {
    one.address == other.address && (one.address.port() != 0 || one.name == other.name)
}
