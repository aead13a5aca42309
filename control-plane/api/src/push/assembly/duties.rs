//! What a sidecar does beside running policies: where it listens, and its caps.

use std::net::SocketAddr;

use bytes::Bytes;
use jitney_core::access::Access;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Fault, Taken, unreadable};
use crate::push::reversible::Reversible;
use crate::push::{DEFAULT_NAMESPACE, config};
use crate::{
    CompiledPolicy, Diagnostic, Documents, Endpoint, HeaderRules, Listener, Mtls, RuntimeSpec,
    compile_for_upstream,
};

/// The Runtime resources that a sidecar was sent: one, unless it serves several workloads.
#[derive(Debug, Default)]
pub(super) struct Duties(Reversible<String, Duty>);

/// What one of them says.
#[derive(Clone, Debug)]
struct Duty {
    spec: RuntimeSpec,
    access: Option<Access>,
    listeners: Vec<Listening>,
}

impl PartialEq for Duty {
    fn eq(&self, other: &Self) -> bool {
        // Who may call is of the spec.
        self.spec == other.spec && self.listeners == other.listeners
    }
}

/// Where a sidecar is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The resource that says so.
    pub runtime: String,
    /// Its place among that resource's listeners.
    pub index: usize,
    /// The listener's name.
    pub name: String,
    /// The address; port 0 is any.
    pub address: SocketAddr,
    /// Full name of the backend that its calls go to.
    pub backend: String,
    /// Where they go in place of the backend's endpoints.
    pub local: Option<Endpoint>,
    /// What callers have to prove, where the listener says it.
    pub mtls: Option<Mtls>,
    /// What becomes of the heads of its requests.
    pub headers: HeaderRules,
}

impl Listening {
    /// Where the resource says it, as in `listeners[0]`.
    pub fn field(&self) -> String {
        field(self.index)
    }
}

impl Duties {
    pub(super) fn mark(&mut self) {
        self.0.mark();
    }

    pub(super) fn go_back(&mut self) {
        self.0.go_back();
    }

    /// Whether something else may be said than at the mark.
    pub(super) fn is_changed(&self) -> bool {
        self.0.changed().next().is_some()
    }

    pub(super) fn set(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        let message = config::Runtime::decode(content).map_err(|error| unreadable(&error))?;
        let compiled = compiled(name, &message.spec)?;
        let listeners = message.listeners.iter().enumerate();
        let listeners = listeners
            .map(|(index, listener)| listening(name, index, listener))
            .collect::<Result<_, Fault>>()?;
        let duty = Duty {
            spec: compiled.runtime,
            access: compiled.access,
            listeners,
        };
        Ok(Taken::of(self.0.set(name.to_owned(), duty)))
    }

    pub(super) fn remove(&mut self, name: &str) -> Taken {
        Taken::of(self.0.remove(name))
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listening> {
        self.0.values().flat_map(|duty| &duty.listeners)
    }

    pub(super) fn spec(&self) -> RuntimeSpec {
        let first = self.0.values().next();
        first.map(|duty| duty.spec.clone()).unwrap_or_default()
    }

    /// Who may call; `None`: everybody.
    pub(super) fn access(&self) -> Option<&Access> {
        self.0.values().next()?.access.as_ref()
    }
}

/// A Runtime's spec as somebody would have written it, checked.
fn compiled(name: &str, spec: &[u8]) -> Result<CompiledPolicy, Fault> {
    if spec.is_empty() {
        return Ok(CompiledPolicy::default());
    }
    let spec: Value = serde_json::from_slice(spec).map_err(|error| unreadable(&error))?;
    let short = name.split_once('/').map_or(name, |(_, short)| short);
    let document = json!({"kind": "Runtime", "metadata": {"name": short}, "spec": spec});
    compile_for_upstream(&Documents::of_json([(name.into(), document)])).map_err(|faults| {
        let first = faults.into_iter().find(Diagnostic::is_error);
        first.map_or_else(|| unreadable(&"no reason was given"), Fault::from)
    })
}

fn listening(runtime: &str, index: usize, listener: &[u8]) -> Result<Listening, Fault> {
    let fault = |below: &str, reason: String| Fault {
        field: field(index) + below,
        reason,
        missing: None,
        is_beyond: false,
    };
    let listener: Listener =
        serde_json::from_slice(listener).map_err(|error| fault("", error.to_string()))?;
    let address = &listener.spec.address;
    let bad_address = |_| fault(".spec.address", format!("found {address:?}, expected ip:port"));
    let local = listener.spec.local.as_deref().map(str::parse).transpose();
    let backend = listener.spec.backend.as_deref().unwrap_or_default();
    let namespace = listener
        .metadata
        .namespace
        .as_deref()
        .unwrap_or(DEFAULT_NAMESPACE);
    Ok(Listening {
        runtime: runtime.to_owned(),
        index,
        address: address.parse().map_err(bad_address)?,
        backend: format!("{namespace}/{backend}"),
        local: local.map_err(|error: crate::NotAnEndpoint| fault(".spec.local", error.to_string()))?,
        name: listener.metadata.name,
        mtls: listener.spec.mtls,
        headers: listener.spec.headers,
    })
}

fn field(index: usize) -> String {
    format!("listeners[{index}]")
}
