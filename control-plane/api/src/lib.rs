//! The resources of Jitney: one schema for files, manifests and the push, and their conversion
//! to what the sidecar runs.
//!
//! [`Sources::load`] reads files, [`Documents::read`] parses them, [`compile`] and
//! [`compile_for_upstream`] turn them into core policies. Each step reports all faults at once,
//! as [`Diagnostic`]s with file, line, column and field.

mod diagnostic;
mod identity;
mod ports;
mod units;

mod sources;
mod watch;

mod node;

mod authorization;
mod backend;
mod batch_policy;
mod document;
mod listener;
mod mtls;
mod runtime;

mod compile;

mod gateway;
mod schema;

pub mod push;

#[cfg(feature = "program")]
pub mod program;

pub use authorization::{AccessRule, Authorization, AuthorizationMode};
pub use backend::{Backend, BackendEndpoint, BackendSpec, Protocol};
pub use batch_policy::*;
pub use compile::{
    Compiled, CompiledBackend, CompiledListener, CompiledPolicy, Endpoint, Located, NotAnEndpoint, check,
    check_pushed, compile, compile_for_upstream, named_backends, strict_mtls,
};
pub use diagnostic::{Diagnostic, Severity};
pub use document::{Document, Documents, Metadata, Resource};
pub use gateway::{MeshMatch, MeshRoute, MeshRule, Parent, PathPrecision, Precision, RouteKind};
pub use identity::{BadWorkload, NotAWorkload, SpiffeId, Workload, is_segment, is_trust_domain};
pub use listener::{Forwarded, HeaderRules, Listener, ListenerSpec, NotAPseudonym, Pseudonym, RequestId};
pub use mtls::{InboundMtls, Mtls, PortMtls};
pub use ports::{BadPorts, Ports};
pub use runtime::{Runtime, RuntimeSpec, RuntimeStatus};
pub use schema::{custom_resource_definitions, json_schemas, to_yaml};
pub use sources::{MAX_FILE_BYTES, Source, Sources};
pub use units::{BadLevel, ByteSize, Duration, LogLevel};
pub use watch::{Reading, Watch};
