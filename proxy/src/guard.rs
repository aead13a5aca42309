//! Who may call, asked for every call before it may join a batch, and once for a connection of bytes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Method;
use jitney_api::{InboundMtls, Mtls};
use jitney_core::access::{Access, Asked};

use crate::connection::ConnInfo;
use crate::metrics::{Metrics, Unauthorized};

/// The rules in force, which change while connections are open. Clones are the same.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: Arc<ArcSwap<Rules>>,
    metrics: Metrics,
    /// Connections may be older than what is asked of them now.
    asks_again: bool,
}

/// Who may call; nobody else is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// `None`: everybody.
    pub(crate) access: Option<Access>,
    /// What callers have to have proven.
    pub(crate) mtls: InboundMtls,
}

impl Guard {
    /// One that lets everybody in.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            rules: Arc::default(),
            metrics: metrics.clone(),
            asks_again: false,
        }
    }

    /// The same for a listener that goes on with its connections when other proofs are asked for: every call
    /// is asked for them, where others are asked when they connect, and closed when that changes.
    pub(crate) fn asking_again(&self) -> Self {
        Self {
            asks_again: true,
            ..self.clone()
        }
    }

    /// Has calls that come from now on go by these rules.
    pub(crate) fn install(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Whether a call is let in; without `call`, bytes that are not HTTP.
    pub(crate) fn admits(&self, connection: &ConnInfo, call: Option<(&Method, &str)>) -> bool {
        let rules = self.rules.load();
        let caller = connection.identity.as_ref().map(|identity| &*identity.id);
        let port = connection.local.port();
        if self.asks_again && caller.is_none() && rules.mtls.on(port) == Mtls::Strict {
            self.metrics.process().unauthorized.inc(Unauthorized::Enforced);
            return false;
        }
        let Some(access) = &rules.access else { return true };
        let asked = Asked { caller, port, call };
        if access.allows(&asked).is_some() {
            return true;
        }
        let mode = match access.is_enforced {
            true => Unauthorized::Enforced,
            false => Unauthorized::DryRun,
        };
        self.metrics.process().unauthorized.inc(mode);
        let peer = connection.peer;
        let (method, path) = call.unzip();
        tracing::debug!(%peer, caller, port, ?method, path, enforced = access.is_enforced, "no rule allows it");
        !access.is_enforced
    }
}
