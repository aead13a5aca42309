//! The Jitney sidecar.
