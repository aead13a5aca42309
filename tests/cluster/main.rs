//! Tests on a real Kubernetes. `tests/cluster/run` starts it and runs them inside.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

/// As both programs have it: a thousand sidecars are in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod gateway;
mod helm;
mod kubectl;
mod programs;
mod shop;

// Without a cluster.
mod images;

// With an API server.
mod admission;
mod api;
mod charts;

// With an API server that nobody else changes.
mod plane;

// With nodes and pods that run nothing.
mod scale;

// With a node.
mod node;

// With a node that nobody else changes.
mod lifecycle;
mod mesh;
