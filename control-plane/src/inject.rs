//! Sidecars for pods: which pod gets one, and what is changed for it. Decides and computes only: who asks,
//! the API server, a command or a policy of the cluster, is what the modules below know.

use serde_json::{Map, Value};

mod settings;

// Who asks.
pub mod manifests;
pub mod policy;
pub mod review;
pub mod webhook;

// From the pod as it is, through what its annotations wish, to what changes.
mod patch;
mod probes;
mod resources;
mod sidecar;
mod warnings;
mod wishes;

pub use settings::{ResourceArgs, SettingsArgs};
pub use wishes::{Mode, Wishes};

use patch::Patch;

/// A pod that is about to be made, or the template of such.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'p> {
    /// What to call it where something is wrong with it.
    pub called: &'p str,
    /// Its `metadata`; a template may be without.
    pub metadata: &'p Value,
    /// Its `spec`.
    pub spec: &'p Value,
    /// Where it is to be.
    pub namespace: &'p str,
}

/// Whether somebody but the pod has asked for its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its namespace, by a label, or whoever runs the command: a pod may say that it is to have none.
    ForAll,
    /// Nobody: a pod has to say so itself.
    ByThePod,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject(Injection),
    /// It stays as it is.
    Leave(Left),
}

/// What is changed for a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The operations of a JSON Patch (RFC 6902), in order.
    pub patch: Vec<Value>,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Why a pod gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// There is one.
    #[error("it has a sidecar")]
    Already,
    /// It says so.
    #[error("it says {INJECT}: disabled")]
    Disabled,
    /// Nobody has asked.
    #[error("neither it nor its namespace says {INJECT}: enabled")]
    NotAsked,
    /// A redirect of its connections would be one of all the node's.
    #[error("it is in the node's network")]
    HostNetwork,
    /// There is no sidecar for it.
    #[error("it is not for Linux")]
    OtherSystem,
    /// What a sidecar needs could not start without one.
    #[error("its namespace is the control plane's or the cluster's own")]
    Namespace,
}

/// Why a pod that is to have a sidecar cannot be given one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An annotation, or the label, says what nobody understands.
    #[error("{pod}: {name}: found {value:?}, expected {expected}")]
    Wish {
        /// Whose it is.
        pod: String,
        /// The annotation.
        name: String,
        /// What it says.
        value: String,
        /// What it may say.
        expected: String,
    },
    /// It has something of its own by a name of the sidecar's.
    #[error("{pod}: {field}: {name:?} is a name of the sidecar's: give it another")]
    Name {
        /// Whose it is.
        pod: String,
        /// Where the name is.
        field: &'static str,
        /// The name.
        name: &'static str,
    },
    /// Whoever runs as the sidecar's user is not redirected.
    #[error(
        "{pod}: {field}: {USER} is the sidecar's user, whose connections go past the sidecar: take another"
    )]
    User {
        /// Whose it is.
        pod: String,
        /// Where the user is.
        field: String,
    },
    /// It is no pod.
    #[error("{pod}: {field}: expected {expected}")]
    NoPod {
        /// What is known of it.
        pod: String,
        /// Where it is none.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
}

/// Tells what becomes of a pod.
///
/// # Errors
/// When it is to have a sidecar and cannot be given one as it is; nothing of it is to be made then.
pub fn inject(pod: Pod<'_>, asked: Asked, settings: &SettingsArgs) -> Result<Decision, Refused> {
    pod.check()?;
    if let Some(left) = settled(pod, settings) {
        return Ok(Decision::Leave(left));
    }
    match (wishes::consent(pod)?, asked) {
        (Some(false), _) => return Ok(Decision::Leave(Left::Disabled)),
        (None, Asked::ByThePod) => return Ok(Decision::Leave(Left::NotAsked)),
        (Some(true), _) | (None, Asked::ForAll) => {}
    }
    let wishes = Wishes::read(pod)?;
    resources::check(pod, &wishes, &settings.resources)?;
    check_names(pod)?;
    if wishes.mode == Mode::Redirect {
        check_users(pod)?;
    }
    let mut patch = Patch::default();
    // First, while containers are where they were.
    let probes = probes::rewritten(pod, &wishes, &mut patch);
    patch.entry("/metadata", pod.metadata, "labels", INJECTED, Value::from("true"));
    patch.first(
        "/spec",
        pod.spec,
        "initContainers",
        sidecar::containers(&wishes, &probes, settings),
    );
    patch.last("/spec", pod.spec, "volumes", sidecar::volumes());
    Ok(Decision::Inject(Injection {
        patch: patch.into_operations(),
        warnings: warnings::of(pod, &wishes, settings),
    }))
}

impl<'p> Pod<'p> {
    /// All that runs in it, with where it is written.
    fn containers(&self) -> impl Iterator<Item = (&'static str, &'p Value)> + use<'p> {
        let spec = self.spec;
        let of = |field| list(spec, field).iter().map(move |one| (field, one));
        of("initContainers").chain(of("containers"))
    }

    fn check(&self) -> Result<(), Refused> {
        let none = |field, expected| {
            let pod = self.called.to_owned();
            Err(Refused::NoPod { pod, field, expected })
        };
        if !self.spec.is_object() {
            return none("spec", "a map");
        }
        if !(self.metadata.is_object() || self.metadata.is_null()) {
            return none("metadata", "a map");
        }
        let is_list = |of: &Value| {
            of.as_array()
                .is_some_and(|items| items.iter().all(Value::is_object))
        };
        for field in ["initContainers", "containers", "volumes"] {
            let of = &self.spec[field];
            if !(of.is_null() || is_list(of)) {
                return none(field, "a list of maps");
            }
        }
        let is_map = |of: &Value| {
            of.as_object()
                .is_some_and(|entries| entries.values().all(Value::is_string))
        };
        for field in ["labels", "annotations"] {
            let of = &self.metadata[field];
            if !(of.is_null() || is_map(of)) {
                return none(field, "a map of texts");
            }
        }
        Ok(())
    }
}

/// Why a pod gets none, whatever is asked for.
fn settled(pod: Pod<'_>, settings: &SettingsArgs) -> Option<Left> {
    if pod.containers().any(|(_, one)| one["name"] == PROXY) {
        return Some(Left::Already);
    }
    if pod.namespace == settings.control_plane_namespace || pod.namespace == CLUSTER_NAMESPACE {
        return Some(Left::Namespace);
    }
    if pod.spec["hostNetwork"] == true {
        return Some(Left::HostNetwork);
    }
    let system = pod.spec["os"]["name"].as_str().unwrap_or("linux");
    (system != "linux").then_some(Left::OtherSystem)
}

fn check_names(pod: Pod<'_>) -> Result<(), Refused> {
    let taken = |field, name| {
        let pod = pod.called.to_owned();
        Err(Refused::Name { pod, field, name })
    };
    if let Some((field, _)) = pod.containers().find(|(_, one)| one["name"] == REDIRECT) {
        return taken(field, REDIRECT);
    }
    for name in [IDENTITY, STATE] {
        if list(pod.spec, "volumes").iter().any(|one| one["name"] == name) {
            return taken("volumes", name);
        }
    }
    Ok(())
}

fn check_users(pod: Pod<'_>) -> Result<(), Refused> {
    let is_ours = |of: &Value| of["securityContext"]["runAsUser"] == USER;
    let refused = |field: String| {
        Err(Refused::User {
            pod: pod.called.to_owned(),
            field: format!("{field}securityContext.runAsUser"),
        })
    };
    if is_ours(pod.spec) {
        return refused(String::new());
    }
    match pod.containers().find(|(_, one)| is_ours(one)) {
        Some((field, one)) => refused(format!("{field}[{}].", one["name"].as_str().unwrap_or("?"))),
        None => Ok(()),
    }
}

/// Whether a port is one of those that every sidecar has.
fn is_own(port: u16) -> bool {
    [ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT].contains(&port.into())
}

fn list<'v>(of: &'v Value, field: &str) -> &'v [Value] {
    of[field].as_array().map_or(&[], Vec::as_slice)
}

fn entries<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = (&'v str, &'v str)> {
    let entries = of.get(field).and_then(Value::as_object);
    let entries = entries.into_iter().flat_map(Map::iter);
    entries.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

/// What all of a sidecar's annotations and labels begin with.
pub(crate) const GROUP: &str = "jitney.dev/";
/// Label of a namespace, label or annotation of a pod: `enabled` or `disabled`.
pub const INJECT: &str = "jitney.dev/inject";
/// Label of a pod that has been given a sidecar.
pub const INJECTED: &str = "jitney.dev/injected";
/// The sidecar's container.
pub(crate) const PROXY: &str = "jitney-proxy";
/// The container that has the kernel hand connections to it.
pub(crate) const REDIRECT: &str = "jitney-redirect";
/// The volume with what shows whose sidecar it is.
pub(crate) const IDENTITY: &str = "jitney-identity";
/// The volume with what it keeps.
pub(crate) const STATE: &str = "jitney-state";
/// Where the cluster's own parts are.
pub(crate) const CLUSTER_NAMESPACE: &str = "kube-system";
/// Whom the sidecar runs as; nobody else may, for the kernel knows its connections by it.
pub(crate) const USER: u64 = 2102;
/// Where the sidecar's admin endpoint is, and where the kernel hands it connections.
pub(crate) const ADMIN_PORT: u64 = 15020;
pub(crate) const INBOUND_PORT: u64 = 15006;
pub(crate) const OUTBOUND_PORT: u64 = 15001;

#[cfg(test)]
mod tests;
