//! The decisions of the Jitney sidecar, sans-IO: `now` is always an argument, and nothing here
//! owns a clock, a socket, a task or a lock.

mod bypass;

pub mod policy;
pub mod route;

pub mod key;

pub mod access;
pub mod batch;

pub mod codec;

pub mod fanout;
pub mod grpc;

pub mod isolate;

pub mod budget;
pub mod quarantine;

pub mod bias;
pub mod breaker;
pub mod concurrency;
pub mod decline;
pub mod pressure;
pub mod rate;
pub mod retry;
mod sliding;

#[cfg(test)]
mod tests;

pub use bypass::Bypass;
