//! The integration suites, one module each.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

// What the house promises about itself.
mod tidy;

// What the other suites stand on.
mod harness;

// HTTP itself, between raw sockets.
mod faults;
mod http1;
mod http2;
mod wire;

// What fuzzers found about codecs.
mod corpus;

// The dispatcher against model upstreams.
mod simulation;
// The program around the data path, as a process.
mod admin;
mod cli;
mod policy_files;
