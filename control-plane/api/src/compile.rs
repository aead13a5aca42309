//! Documents to what the sidecar runs. Every rule that a schema cannot express is checked here,
//! and every breach is told with the place of its field.

mod authorization;
mod batching;
mod codec;
mod detour;
mod endpoint;
mod matching;
mod mtls;
mod route;
mod runtime;
mod targets;
mod traffic;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jitney_core::access::Access;
use jitney_core::policy::Policy;
use jitney_core::route::{Route, RouteId};

use crate::node::Path;
use crate::{
    BatchPolicy, Diagnostic, Document, Documents, HeaderRules, Mode, Mtls, Protocol, Resource, RouteMatch,
    RuntimeSpec, Severity,
};

pub(crate) use detour::named;
pub use detour::named_backends;
pub use endpoint::{Endpoint, Located, NotAnEndpoint};
pub(crate) use matching::lone_match;
pub use mtls::strict_mtls;

/// Everything that `run --config` needs.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Caps on every policy, and what is logged.
    pub runtime: RuntimeSpec,
    /// Who may call; `None`: everybody.
    pub access: Option<Access>,
    /// Where calls come in, in the order of the files.
    pub listeners: Vec<CompiledListener>,
    /// Where they go, likewise.
    pub backends: Vec<CompiledBackend>,
    /// What has no effect although it was written.
    pub warnings: Vec<Diagnostic>,
}

/// Where calls come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledListener {
    /// Its name.
    pub name: Arc<str>,
    /// The address to listen on; port 0 is any.
    pub address: SocketAddr,
    /// Name of a backend of the same set.
    pub backend: Arc<str>,
    /// Where its calls go in place of the backend's endpoints.
    pub local: Option<Endpoint>,
    /// The workload whose sidecars listen here.
    pub workload: Arc<str>,
    /// What callers have to prove, where it is said.
    pub mtls: Option<Mtls>,
    /// What becomes of the heads of its requests.
    pub headers: HeaderRules,
}

/// Where calls go.
#[derive(Clone, Debug)]
pub struct CompiledBackend {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses, at least one.
    pub endpoints: Vec<Located>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// The longest that a connection may take to come about.
    pub connect_timeout: Duration,
    /// Its effective policy.
    pub policy: Arc<Policy>,
    /// Whether connections to it are secured.
    pub mtls: Mtls,
}

/// The effective policy of a lone upstream.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    /// Caps on the policy, and what is logged.
    pub runtime: RuntimeSpec,
    /// Who may call; `None`: everybody.
    pub access: Option<Access>,
    /// The policy.
    pub policy: Arc<Policy>,
    /// What has no effect although it was written.
    pub warnings: Vec<Diagnostic>,
}

/// What becomes of several policies that are for one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    /// Their routes follow each other, in the order of the files: so a sidecar reads them.
    Together,
    /// One of them has the backend: so a control plane pushes them.
    Apart,
}

/// Compiles listeners, backends and their policies, as a sidecar reads them.
///
/// # Errors
/// All faults of the files, in their order.
pub fn compile(documents: &Documents) -> Result<Compiled, Vec<Diagnostic>> {
    compile_joined(documents, Joined::Together)
}

fn compile_joined(documents: &Documents, joined: Joined) -> Result<Compiled, Vec<Diagnostic>> {
    let faults = Faults::of(documents);
    let policies = policies(documents, &faults);
    let mut compiled = targets::resolve(documents, &policies, joined, &faults);
    (compiled.runtime, compiled.access) = runtime::first(documents, &faults);
    for backend in &mut compiled.backends {
        backend.policy = compiled.runtime.cap(&backend.policy).into();
    }
    compiled.warnings = faults.warnings_or_errors()?;
    Ok(compiled)
}

/// Compiles the policies for a lone upstream: all of them are for it, whatever their targets.
///
/// # Errors
/// All faults of the files, in their order.
pub fn compile_for_upstream(documents: &Documents) -> Result<CompiledPolicy, Vec<Diagnostic>> {
    lone_policy(documents, Joined::Together)
}

fn lone_policy(documents: &Documents, joined: Joined) -> Result<CompiledPolicy, Vec<Diagnostic>> {
    let faults = Faults::of(documents);
    let policies = policies(documents, &faults);
    let policy = effective(&policies.iter().collect::<Vec<_>>(), joined, &faults);
    let (runtime, access) = runtime::first(documents, &faults);
    Ok(CompiledPolicy {
        policy: Arc::new(runtime.cap(&policy)),
        runtime,
        access,
        warnings: faults.warnings_or_errors()?,
    })
}

/// Every fault and warning of the files: with listeners and backends when there are some, else of
/// the policies on their own.
pub fn check(documents: &Documents) -> Vec<Diagnostic> {
    check_joined(documents, Joined::Together)
}

/// The same of documents that a control plane pushes. Which of several policies has a backend is not told
/// here, but with the [`Conflict`](crate::push::Conflict)s.
pub fn check_pushed(documents: &Documents) -> Vec<Diagnostic> {
    check_joined(documents, Joined::Apart)
}

fn check_joined(documents: &Documents, joined: Joined) -> Vec<Diagnostic> {
    let whole = documents
        .documents
        .iter()
        .any(|document| matches!(document.resource, Resource::Backend(_) | Resource::Listener(_)));
    let outcome = if whole {
        compile_joined(documents, joined).map(|compiled| compiled.warnings)
    } else {
        lone_policy(documents, joined).map(|compiled| compiled.warnings)
    };
    let mut found = outcome.unwrap_or_else(|faults| faults);
    if !whole {
        found.extend(named_backends(documents));
        in_order(&mut found);
    }
    found
}

/// In the order of the files, each once.
fn in_order(found: &mut Vec<Diagnostic>) {
    found.sort_by(|one, other| {
        (&one.file, one.line, one.column).cmp(&(&other.file, other.line, other.column))
    });
    found.dedup();
}

/// A document's mode as the core knows it.
pub(crate) const fn core_mode(mode: Mode) -> jitney_core::policy::Mode {
    match mode {
        Mode::Active => jitney_core::policy::Mode::Active,
        Mode::Shadow => jitney_core::policy::Mode::Shadow,
        Mode::Disabled => jitney_core::policy::Mode::Disabled,
    }
}

/// A policy document with its routes, which still lack the place that a backend gives them.
struct PolicyUnit<'a> {
    document: &'a Document,
    policy: &'a BatchPolicy,
    routes: Vec<Route>,
    traffic: Option<jitney_core::policy::Traffic>,
    generation: u64,
}

fn policies<'a>(documents: &'a Documents, faults: &Faults) -> Vec<PolicyUnit<'a>> {
    targets::check_names(documents, faults);
    let policies = documents
        .documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::BatchPolicy(policy) => Some((document, policy)),
            Resource::Backend(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        });
    let policies = policies.collect::<Vec<_>>();
    let same_name = |name: &str| {
        policies
            .iter()
            .filter(|(_, other)| other.metadata.name == name)
            .count()
            > 1
    };
    let unit = |&(document, policy): &(&'a Document, &'a BatchPolicy)| {
        let check = Check { document, faults };
        let name = match &policy.metadata.namespace {
            Some(namespace) if same_name(&policy.metadata.name) => {
                format!("{namespace}.{}", policy.metadata.name)
            }
            _ => policy.metadata.name.clone(),
        };
        let generation = generation(&name, policy);
        let routes = route::routes(&check, policy, &name, generation);
        let path = Path::default().keys("spec.traffic");
        let traffic = policy
            .spec
            .traffic
            .as_ref()
            .map(|traffic| traffic::traffic(&check, &path, traffic));
        if policy.spec.traffic.is_some() {
            targets::check_traffic(&check, &policy.spec.target_refs);
        }
        if !(1..=100).contains(&policy.spec.rollout.percent) {
            let found = policy.spec.rollout.percent;
            let path = Path::default().keys("spec.rollout.percent");
            check.fault(&path, format!("found {found}, expected 1 to 100"));
        }
        PolicyUnit {
            document,
            policy,
            routes,
            traffic,
            generation,
        }
    };
    policies.iter().map(unit).collect()
}

/// The policy of one backend: routes of all documents in their order, and the traffic settings of
/// the first document that has some. None of them, if only one of the documents has the backend.
fn effective(policies: &[&PolicyUnit<'_>], joined: Joined, faults: &Faults) -> Policy {
    if joined == Joined::Apart {
        for policy in policies {
            effective(&[policy], Joined::Together, faults);
        }
        return Policy::default();
    }
    let mut matches = Vec::<(&RouteMatch, Option<&str>, &str)>::new();
    let mut traffic: Option<(&PolicyUnit<'_>, _)> = None;
    for unit in policies {
        let check = Check {
            document: unit.document,
            faults,
        };
        for (index, rule) in unit.policy.spec.routes.iter().enumerate() {
            let first = matches.iter().find(|(known, ..)| *known == &rule.matches);
            if let Some((_, name, policy)) = first {
                let first = name.map_or_else(
                    || format!("a route of {policy}"),
                    |name| format!("{policy}/{name}"),
                );
                let path = Path::default().keys("spec.routes").index(index).key("match");
                check.warning(
                    &path,
                    format!("never reached: {first} has the same match and comes first"),
                );
            }
            matches.push((&rule.matches, rule.name.as_deref(), &unit.policy.metadata.name));
        }
        match (&unit.traffic, &traffic) {
            (Some(settings), None) => traffic = Some((unit, settings.clone())),
            (Some(_), Some((first, _))) => {
                let first = &first.policy.metadata.name;
                let message = format!("without effect: the traffic settings of {first} come first");
                check.warning(&Path::default().keys("spec.traffic"), message);
            }
            (None, _) => {}
        }
    }
    let traffic = traffic.map(|(_, settings)| settings).unwrap_or_default();
    let routes = (0..)
        .zip(policies.iter().flat_map(|unit| &unit.routes))
        .map(|(id, route)| {
            Arc::new(Route {
                id: RouteId(id),
                timeouts: traffic.timeouts,
                ..route.clone()
            })
        });
    let routes = routes.collect::<Vec<_>>();
    let generations = policies.iter().flat_map(|unit| unit.generation.to_le_bytes());
    Policy::new(fnv(&generations.collect::<Vec<_>>()), traffic, routes)
}

/// A content hash of what a policy says: the same in every process, for `/config` to compare.
fn generation(name: &str, policy: &BatchPolicy) -> u64 {
    let spec = serde_json::to_vec(&policy.spec).unwrap_or_default();
    fnv(&[name.as_bytes(), b"\0", &spec].concat())
}

/// FNV-1a: stable across versions and platforms, which the hashes of libraries do not promise.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Faults as they are found.
struct Faults {
    found: RefCell<Vec<Diagnostic>>,
    /// False when documents are missing, so that a name that is not known proves nothing.
    complete: bool,
}

impl Faults {
    fn of(documents: &Documents) -> Self {
        let mut found = documents.faults.clone();
        found.extend(documents.empty.iter().map(|file| Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::of_file(file, "holds no document, so that nothing is gathered by it")
        }));
        Self {
            found: RefCell::new(found),
            complete: documents.faults.is_empty(),
        }
    }

    fn push(&self, diagnostic: Diagnostic) {
        let mut found = self.found.borrow_mut();
        // What a map or list lacks because a part of it could not be read has been told there.
        let is_inside = |field: &str| {
            let rest = field.strip_prefix(&diagnostic.field);
            rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        let is_echo = found
            .iter()
            .any(|told| told.file == diagnostic.file && is_inside(&told.field));
        if self.complete || !is_echo {
            found.push(diagnostic);
        }
    }

    /// What was found, in the order of the files; as an error when there is one among it.
    fn warnings_or_errors(&self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let mut found = self.found.take();
        // The effective policies of several backends tell the same of a document they share.
        in_order(&mut found);
        if found.iter().any(Diagnostic::is_error) {
            Err(found)
        } else {
            Ok(found)
        }
    }
}

/// Where the faults of one document go.
#[derive(Clone, Copy)]
struct Check<'a> {
    document: &'a Document,
    faults: &'a Faults,
}

impl Check<'_> {
    fn fault(&self, path: &Path, message: impl Into<String>) {
        self.faults.push(self.document.fault(path, message));
    }

    fn warning(&self, path: &Path, message: impl Into<String>) {
        self.faults.push(self.document.warning(path, message));
    }

    /// The value, or `None` and a fault that says what was expected instead.
    fn ok<T, E: std::fmt::Display>(&self, path: &Path, found: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.fault(path, format!("found {found:?}: {error}")))
            .ok()
    }
}

#[cfg(test)]
mod tests;
