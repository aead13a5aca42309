//! The decisions of the Jitney sidecar, sans-IO: `now` is always an argument, and nothing here
//! owns a clock, a socket, a task or a lock.

pub mod batch;
mod bypass;
pub mod codec;

pub use bypass::Bypass;
