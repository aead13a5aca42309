//! The Jitney sidecar.

pub mod error;
