//! Who may call, asked for every call before it may join a batch, and once for a connection of bytes.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::Method;
use jitney_core::access::{Access, Asked};

use crate::connection::ConnInfo;
use crate::metrics::{Metrics, Unauthorized};

/// The rules in force, which change while connections are open. Clones are the same.
#[derive(Clone, Debug)]
pub struct Guard {
    access: Arc<ArcSwapOption<Access>>,
    metrics: Metrics,
}

impl Guard {
    /// One that lets everybody in.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            access: Arc::default(),
            metrics: metrics.clone(),
        }
    }

    /// Has calls that come from now on go by these rules; `None`: all are let in.
    pub(crate) fn install(&self, access: Option<Access>) {
        self.access.store(access.map(Arc::new));
    }

    /// Whether a call is let in; without `call`, bytes that are not HTTP.
    pub(crate) fn admits(&self, connection: &ConnInfo, call: Option<(&Method, &str)>) -> bool {
        let access = self.access.load();
        let Some(access) = &*access else { return true };
        let caller = connection.identity.as_ref().map(|identity| &*identity.id);
        let asked = Asked {
            caller,
            port: connection.local.port(),
            call,
        };
        if access.allows(&asked).is_some() {
            return true;
        }
        let mode = match access.is_enforced {
            true => Unauthorized::Enforced,
            false => Unauthorized::DryRun,
        };
        self.metrics.process().unauthorized.inc(mode);
        let (peer, port) = (connection.peer, asked.port);
        let (method, path) = call.unzip();
        tracing::debug!(%peer, caller, port, ?method, path, enforced = access.is_enforced, "no rule allows it");
        !access.is_enforced
    }
}
