//! The integration suites, one module each.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

// What the house promises about itself.
mod charts;
mod readme;
mod tidy;

// What the other suites stand on.
mod harness;
mod shared;

// HTTP itself, between raw sockets.
mod draining;
mod expecting;
mod faults;
mod http1;
mod http1_rfc;
mod http2;
mod silence;
mod slow_readers;
mod wire;

// What fuzzers found about codecs.
mod corpus;

// The dispatcher against model upstreams.
mod simulation;

// The program around the data path, as a process.
mod admin;
mod authorization;
mod cli;
mod conformance;
mod hand_over;
mod heads;
mod interception;
mod issuer;
mod lapsing;
mod mesh;
mod mtls;
mod plane;
mod policy_files;
mod pushed;
mod redirect;
mod restarting;
mod rollout;
mod routed;
mod strictness;
mod succession;
mod trust;

// The real sidecar between real sockets.
mod classes;
mod concurrency;
mod e2e;
mod ejection;
mod endings;
mod exactness;
mod examples;
mod failures;
mod grpc;
mod injection;
mod isolating;
mod leaving;
mod mirror;
mod repeating;
mod split;
mod storm;
mod switching;
mod traffic;
mod withheld;
mod zones;
