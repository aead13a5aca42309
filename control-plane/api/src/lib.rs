//! The resources of Jitney: policy documents and their conversion to what the sidecar runs.
