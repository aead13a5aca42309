//! What the examples share: processes of their own for each role, a small HTTP service on a real
//! database, an N+1 workload that is run direct and through Jitney, and the table that compares.

// An example from its start to its figures.
pub mod comparison;
pub mod scene;
pub mod workload;

// Its parts.
pub mod client;
pub mod figures;

// The processes behind it.
pub mod process;
pub mod service;
pub mod shop;

// Services of a shop that more than one example has.
pub mod front;
pub mod table;

pub use client::{Call, Reply};
pub use scene::{Scene, play, play_with};
pub use workload::Workload;
