//! The Jitney sidecar.

pub mod admin;
pub mod drain;
pub mod error;
pub mod log;
pub mod metrics;
pub mod policy_watch;
