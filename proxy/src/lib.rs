//! The Jitney sidecar.

pub mod error;
pub mod metrics;
