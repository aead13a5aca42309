//! The real program as a process, spoken to over real TLS connections.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

mod client;
mod plane;

mod identities;
mod pages;
mod program;
mod rotation;
mod streams;
