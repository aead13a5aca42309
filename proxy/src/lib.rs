//! The Jitney sidecar.

// The program around the data path.
pub mod config;
pub mod families;
pub mod inquire;
pub mod redirect;
pub mod run;

pub mod admin;
pub mod control;
pub mod drain;
pub mod error;
pub mod listeners;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod policy_status;

// The way of a call: taken in, told what it speaks,
pub mod accept;
pub mod detect;
pub mod directory;
mod inspect;
mod opaque;
mod original;
// served call by call,
pub mod connection;
pub mod guard;
mod passage;
pub mod serve;
// in a batch with others,
mod batching;
mod mirror;
mod reply;
mod retreat;
pub mod upstream;
// and passed on.
pub mod body;
pub mod forward;
pub mod headers;
mod keepalive;
pub mod mtls;
pub mod send;
mod transport;
mod waking;
mod wire;
