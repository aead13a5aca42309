//! The control plane: `source → store → push → status`.

// The program around it.
pub mod config;
pub mod inquire;
pub mod run;

pub mod admin;
pub mod lifecycle;
pub mod log;
pub mod metrics;

// Where resources come from, how far they may go, and where they are kept,
pub mod files;
pub mod kubernetes;
pub mod rollout;
pub mod source;
pub mod store;

// who may have what,
pub mod identity;
pub mod issuer;

// what sidecars can ask for,
pub mod certificates;
pub mod push;
pub mod reports;

// on which port,
pub mod serve;

// and what became of it.
pub mod faults;
pub mod replicas;
pub mod status;

// And beside all of that: sidecars for pods.
pub mod inject;

// And what is tried when all of it runs.
pub mod trial;
