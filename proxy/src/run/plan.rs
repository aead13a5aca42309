//! What shall run: the flags and the documents, put together and checked. Nothing is opened here.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use jitney_api::{
    CompiledBackend, Diagnostic, Documents, Endpoint, InboundMtls, Located, Mtls, Ports, Protocol, Resource,
    RuntimeSpec, Sources, compile, compile_for_upstream, named_backends, strict_mtls,
};
use jitney_core::access::Access;
use jitney_core::policy::Policy;
use serde_json::{Value, json};

use crate::config::RunArgs;
use crate::directory::Direction;
use crate::headers::Received;
use crate::listeners::Place;
use crate::metrics::Metrics;
use crate::send::{Address, BackendSettings, CONNECT_TIMEOUT, InCommon, Reach, Speaks, Target};

/// Listeners and backends, each with its policy.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) listeners: Vec<PlannedListener>,
    /// The policy for connections that the kernel handed over on their way in.
    pub(super) inbound: Arc<Policy>,
    /// What is in the place of that for those of them that are meant for these ports.
    pub(super) inbound_ports: Vec<PlannedPort>,
    /// Those of them that are meant for an endpoint of a backend have the backend's policy.
    pub(super) is_by_backend: bool,
    /// What callers have to prove of whose connections that is not said elsewhere.
    pub(super) mtls: InboundMtls,
    /// Who may call; `None`: everybody.
    pub(super) access: Option<Access>,
    /// Ports of what the kernel hands over on which nobody looks at what is spoken.
    pub(super) opaque_ports: Ports,
    /// What the kernel may hand over and is not passed on to.
    pub(super) forbidden: Vec<SocketAddr>,
    /// Invariant: one for each backend that a listener names. With them, those that policies name.
    pub(super) backends: Vec<PlannedBackend>,
    pub(super) sources: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// What is to be logged, where a Runtime says so.
    pub(super) log_level: Option<String>,
    /// The documents as they were understood, defaults filled in; `None`: as they were noted last.
    pub(super) effective: Option<Value>,
}

/// Where calls come in.
#[derive(Clone, Debug)]
pub(super) struct PlannedListener {
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) to: To,
    /// What callers have to prove; `None` for those beside this sidecar.
    pub(super) mtls: Option<Mtls>,
    /// Its calls are for the workload beside this sidecar, which says who may call.
    pub(super) is_inbound: bool,
    /// What becomes of the heads of its requests.
    pub(super) received: Arc<Received>,
    /// What was pushed that says so: then it may wait for its address. `None`: a flag or a file says it, and
    /// an address that is taken is a mistake.
    pub(super) place: Option<Place>,
}

/// Where the connections of a listener go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// To a backend, by its name.
    Backend(Arc<str>),
    /// Where they were meant to go before the kernel handed them over.
    Redirected(Direction),
}

/// A port of the service beside this sidecar.
#[derive(Clone, Debug)]
pub(super) struct PlannedPort {
    pub(super) number: u16,
    /// Nobody looks at what is spoken there.
    pub(super) is_opaque: bool,
    pub(super) policy: Arc<Policy>,
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) struct PlannedBackend {
    pub(super) reach: Reach,
    pub(super) endpoints: Vec<Target>,
    /// What callers connect to in place of an endpoint.
    pub(super) addresses: Vec<SocketAddr>,
    /// Nothing is said of who names one of its endpoints.
    pub(super) is_service: bool,
    pub(super) policy: Arc<Policy>,
}

impl Plan {
    /// What the flags and the files say together.
    ///
    /// # Errors
    /// All faults of the files.
    pub(super) fn of(args: &RunArgs, sources: &Sources) -> Result<Self, Vec<String>> {
        let documents = Documents::read(sources);
        let plan = if args.config.is_empty() {
            Self::of_flags(args, &documents)
        } else {
            Self::of_documents(&documents)
        };
        let plan = plan.and_then(|plan| match strict_mtls(&documents) {
            faults if faults.is_empty() => Ok(plan),
            faults => Err(faults),
        });
        let mut plan = plan.map_err(|faults| errors(&faults))?;
        plan.listeners.extend(redirected(args));
        if args.control_plane.is_empty() {
            plan.is_in_no_mesh();
        }
        plan.forbidden = forbidden(args);
        plan.opaque_ports = args.opaque_ports.clone();
        if plan.listeners.is_empty() && args.control_plane.is_empty() {
            let place = args
                .config
                .first()
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            return Err(vec![format!(
                "{place}:1:1: found no Listener, expected at least one"
            )]);
        }
        if let Some(admin) = args.admin {
            plan.refuse_endpoint(admin)?;
        }
        plan.sources = sources
            .files
            .iter()
            .map(|source| source.file.to_string())
            .collect();
        Ok(plan)
    }

    /// Whether calls fail as long as there is no certificate: one has to be shown to callers, or to those who are
    /// called.
    pub(super) fn needs_certificate(&self) -> bool {
        let endpoints = self.backends.iter().flat_map(|planned| &planned.endpoints);
        let mut peers = endpoints.filter_map(|one| one.peer.as_ref());
        self.is_strict() || peers.any(|peer| peer.is_strict)
    }

    /// Whether callers have to be secured, on some port at least.
    pub(super) fn is_strict(&self) -> bool {
        let is_asked = |one: &PlannedListener| match &one.to {
            To::Redirected(Direction::Inbound) => self.mtls.is_strict_somewhere(),
            To::Backend(_) | To::Redirected(Direction::Outbound) => one.mtls == Some(Mtls::Strict),
        };
        self.listeners.iter().any(is_asked)
    }

    /// Whoever may call the sidecar must not reach what only this machine may.
    pub(super) fn refuse_endpoint(&self, admin: SocketAddr) -> Result<(), Vec<String>> {
        let reaches = |planned: &&PlannedBackend| {
            planned
                .endpoints
                .iter()
                .any(|one| one.address == Address::Socket(admin))
        };
        match self.backends.iter().find(reaches) {
            Some(planned) => {
                let name = &planned.reach.name;
                Err(vec![format!(
                    "backend {name}: {admin} is this sidecar's own admin endpoint"
                )])
            }
            None => Ok(()),
        }
    }

    /// Certificates come from a control plane: without one nothing can be secured, and nobody waits to hear whether a
    /// caller would like it to be.
    fn is_in_no_mesh(&mut self) {
        self.mtls = InboundMtls {
            mode: Mtls::Disabled,
            ports: Vec::new(),
        };
        for listener in &mut self.listeners {
            listener.mtls = listener.mtls.and(Some(Mtls::Disabled));
        }
    }

    fn of_flags(args: &RunArgs, documents: &Documents) -> Result<Self, Vec<Diagnostic>> {
        let compiled = compile_for_upstream(documents)?;
        let unknown = named_backends(documents);
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let asked = compiled.runtime.mtls.clone().unwrap_or_default();
        let (listeners, backends) = by_flags(args, Arc::clone(&compiled.policy), &asked);
        let policies = backends.iter().map(|one| (&*one.reach.name, &*one.policy));
        Ok(Self {
            listeners,
            effective: Some(effective(documents, &compiled.runtime, policies)),
            inbound: compiled.policy,
            inbound_ports: Vec::new(),
            is_by_backend: true,
            mtls: asked,
            access: compiled.access,
            forbidden: Vec::new(),
            opaque_ports: Ports::default(),
            backends,
            sources: Vec::new(),
            warnings: texts(&compiled.warnings),
            log_level: compiled.runtime.log_level,
        })
    }

    fn of_documents(documents: &Documents) -> Result<Self, Vec<Diagnostic>> {
        let compiled = compile(documents)?;
        let locals = compiled.listeners.iter().filter_map(|listener| {
            let local = listener.local.clone()?;
            let backend = compiled
                .backends
                .iter()
                .find(|one| one.name == listener.backend)?;
            Some(CompiledBackend {
                name: local_name(&listener.backend, &local),
                endpoints: vec![local.into()],
                ..backend.clone()
            })
        });
        let mut backends: Vec<CompiledBackend> = compiled.backends.iter().cloned().chain(locals).collect();
        let mut names = HashSet::new();
        backends.retain(|backend| names.insert(Arc::clone(&backend.name)));
        let listeners = compiled.listeners.into_iter().map(|listener| PlannedListener {
            name: listener.name,
            address: listener.address,
            to: To::Backend(match listener.local {
                Some(local) => local_name(&listener.backend, &local),
                None => listener.backend,
            }),
            mtls: Some(listener.mtls.unwrap_or_default()),
            is_inbound: true,
            received: Arc::new(listener.headers.into()),
            place: None,
        });
        let policies = backends.iter().map(|backend| (&*backend.name, &*backend.policy));
        let effective = Some(effective(documents, &compiled.runtime, policies));
        Ok(Self {
            listeners: listeners.collect(),
            inbound: Arc::default(),
            inbound_ports: Vec::new(),
            is_by_backend: true,
            mtls: compiled.runtime.mtls.clone().unwrap_or_default(),
            access: compiled.access,
            forbidden: Vec::new(),
            opaque_ports: Ports::default(),
            backends: backends.into_iter().map(PlannedBackend::from).collect(),
            sources: Vec::new(),
            warnings: texts(&compiled.warnings),
            log_level: compiled.runtime.log_level,
            effective,
        })
    }
}

/// The listeners and the backend that the flags describe; none when they describe none.
pub(super) fn by_flags(
    args: &RunArgs,
    policy: Arc<Policy>,
    asked: &InboundMtls,
) -> (Vec<PlannedListener>, Vec<PlannedBackend>) {
    let name: Arc<str> = UPSTREAM.into();
    let listeners = by_flag(
        "listen",
        To::Backend(Arc::clone(&name)),
        |port| Some(asked.on(port)),
        &args.listen,
        args,
    );
    let listeners: Vec<_> = listeners.collect();
    let backend = PlannedBackend {
        reach: Reach {
            name: Arc::clone(&name),
            speaks: args.upstream_protocol.into(),
            connect_timeout: CONNECT_TIMEOUT,
        },
        endpoints: args.upstream.iter().cloned().map(Target::from).collect(),
        addresses: Vec::new(),
        is_service: false,
        policy,
    };
    let backends = if listeners.is_empty() {
        vec![]
    } else {
        vec![backend]
    };
    (listeners, backends)
}

impl PlannedListener {
    /// Whether nothing changes for those who call it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let Self {
            name,
            address,
            to,
            mtls,
            is_inbound,
            received,
            place: _,
        } = self;
        (name, address, to, mtls, is_inbound, received)
            == (
                &other.name,
                &other.address,
                &other.to,
                &other.mtls,
                &other.is_inbound,
                &other.received,
            )
    }
}

/// The listeners for what the kernel hands over, which flags describe alone.
pub(super) fn redirected(args: &RunArgs) -> impl Iterator<Item = PlannedListener> {
    // By the port that each was meant for.
    let asked = |_| Some(Mtls::default());
    let inbound = by_flag(
        "inbound",
        To::Redirected(Direction::Inbound),
        asked,
        &args.inbound,
        args,
    );
    let outbound = by_flag(
        "outbound",
        To::Redirected(Direction::Outbound),
        |_| None,
        &args.outbound,
        args,
    );
    inbound.chain(outbound)
}

/// A listener for each address of a flag.
fn by_flag(
    flag: &str,
    to: To,
    mtls: impl Fn(u16) -> Option<Mtls>,
    addresses: &[SocketAddr],
    args: &RunArgs,
) -> impl Iterator<Item = PlannedListener> {
    let received = Arc::new(Received::from(args.headers.rules()));
    let addresses = addresses.iter().enumerate();
    addresses.map(move |(n, address)| PlannedListener {
        name: format!("{flag}-{n}").into(),
        address: *address,
        to: to.clone(),
        mtls: mtls(address.port()),
        is_inbound: to != To::Redirected(Direction::Outbound),
        received: Arc::clone(&received),
        place: None,
    })
}

/// What only this machine may reach, and what would never end.
pub(super) fn forbidden(args: &RunArgs) -> Vec<SocketAddr> {
    let own = args.inbound.iter().chain(&args.outbound);
    own.chain(&args.admin).copied().collect()
}

impl To {
    /// As it is shown: the backend's name, or the direction.
    pub(super) fn shown(&self) -> Arc<str> {
        match self {
            Self::Backend(name) => Arc::clone(name),
            Self::Redirected(Direction::Inbound) => "redirected inbound".into(),
            Self::Redirected(Direction::Outbound) => "redirected outbound".into(),
        }
    }
}

impl From<CompiledBackend> for PlannedBackend {
    fn from(backend: CompiledBackend) -> Self {
        let speaks = speaks(backend.protocol);
        let reach = Reach {
            name: backend.name,
            speaks,
            connect_timeout: backend.connect_timeout,
        };
        Self {
            reach,
            endpoints: backend.endpoints.into_iter().map(target).collect(),
            addresses: Vec::new(),
            is_service: false,
            policy: backend.policy,
        }
    }
}

impl PlannedBackend {
    pub(super) fn settings(&self, metrics: &Metrics, in_common: &InCommon) -> BackendSettings {
        self.reach.settings(self.endpoints.clone(), metrics, in_common)
    }
}

pub(super) const fn speaks(protocol: Protocol) -> Speaks {
    match protocol {
        Protocol::Auto => Speaks::Auto,
        Protocol::HTTP1 => Speaks::Http1,
        Protocol::HTTP2 => Speaks::Http2,
        Protocol::TCP => Speaks::Bytes,
    }
}

/// A backend behind this very sidecar, which is reached at an address of its own.
pub(super) fn local_name(backend: &str, local: &Endpoint) -> Arc<str> {
    format!("{backend}/{local}").into()
}

fn target(located: Located) -> Target {
    Target {
        zone: located.zone,
        ..address(&located.endpoint).into()
    }
}

pub(super) fn address(endpoint: &Endpoint) -> Address {
    match endpoint.host.parse() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, endpoint.port)),
        Err(_) => Address::Name(format!("{}:{}", endpoint.host, endpoint.port).into()),
    }
}

pub(super) fn effective<'p>(
    documents: &Documents,
    runtime: &RuntimeSpec,
    policies: impl IntoIterator<Item = (&'p str, &'p Policy)>,
) -> Value {
    let documents = documents.documents.iter().map(|document| {
        let resource = match &document.resource {
            Resource::BatchPolicy(policy) => serde_json::to_value(policy),
            Resource::Backend(backend) => serde_json::to_value(backend),
            Resource::Listener(listener) => serde_json::to_value(listener),
            Resource::Runtime(runtime) => serde_json::to_value(runtime),
        };
        // What was read from a document can be written as one.
        json!({"file": &*document.file, "resource": resource.unwrap_or_default()})
    });
    let backends = policies.into_iter().map(|(name, policy)| {
        let routes: Vec<&str> = policy.routes().iter().map(|route| &*route.name).collect();
        json!({"name": name, "version": format!("{:016x}", policy.generation), "routes": routes})
    });
    json!({
        "documents": documents.collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "runtime": runtime,
    })
}

/// What keeps the files from being used; what is merely odd in them is told once they are good.
fn errors(diagnostics: &[Diagnostic]) -> Vec<String> {
    let errors = diagnostics.iter().filter(|fault| fault.is_error());
    errors.map(ToString::to_string).collect()
}

fn texts(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}

/// The name of the one backend that flags describe.
const UPSTREAM: &str = "upstream";
