//! The control plane as a process, spoken to over real TLS connections: certificates, streams, pages and
//! the command line, by a sidecar's end that can be whatever it should not be.

// Both ends of the connection.
pub(crate) mod client;
mod process;

mod identities;
mod pages;
mod places;
mod program;
mod rollouts;
mod rotation;
mod streams;
