//! The push: delta ADS with Jitney's own resources, and the state of both its ends.
//!
//! [`ads`] and [`config`] are the messages. [`Feed`] is the control plane's end of one stream,
//! [`Subscriber`] the sidecar's. Both are state only: what comes in is an argument, what is to be
//! sent is a result, and nothing in here knows a socket or a clock.
//!
//! The rules that they keep, each of which the model test checks:
//! - An acknowledgement means that a resource is applied, not merely that it could be read.
//! - A version is a hash of the content, so whoever holds it already gets nothing.
//! - One response of a type is under way at a time. What changes meanwhile waits as a name in a set,
//!   never as a copy in a queue, and goes out in its latest form.
//! - Who asks for everything, or for a collection, is answered even if there is nothing, and so knows when
//!   it has all.
//! - What others refer to is sent first and removed last (make before break).
//! - A response is rejected by its `error_detail` alone; a nonce that is not the latest one's says
//!   nothing.

/// Messages of the xDS transport protocol, and Jitney's resources: as the compiler of the protocol
/// writes them.
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::too_many_lines,
    clippy::str_to_string,
    unused_qualifications,
    unreachable_pub,
    reason = "generated"
)]
mod generated {
    pub mod ads {
        tonic::include_proto!("envoy.service.discovery.v3");
    }
    pub mod config {
        tonic::include_proto!("jitney.config.v1");
    }
}

pub use generated::{ads, config};

mod assembly;
mod catalog;
mod feed;
mod kind;
mod names;
mod place;
mod precedence;
mod readers;
mod resources;
mod reversible;
mod sidecars;
mod strays;
mod subscriber;
mod version;

pub use assembly::{Assembly, Claim, Destination, InboundPort, Listening, OwnLimits, Reached, Taken};
pub use catalog::{Catalog, ServiceEndpoint, ServicePort, Unresolved, Unserved, backend_name};
pub use feed::{Answer, Feed, FeedError, Held, MAX_NAMES, Nack, Sent, View};
pub use kind::Kind;
pub use place::{Place, RuleRef};
pub use precedence::Conflict;
pub use readers::Readers;
pub use resources::{DEFAULT_NAMESPACE, Pushed, Resources, resources, resources_of};
pub use reversible::Reversible;
pub use strays::{Stray, known_workloads, meant, strays};
pub use subscriber::{Change, Delta, Subscriber};
pub use version::{NotAVersion, Version};

#[cfg(test)]
mod tests;
