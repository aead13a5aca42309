//! Durations and sizes as Kubernetes writes them: `2ms`, `1h30m`, `500`, `1Mi`; and log levels.

mod byte_size;
mod duration;
mod log_level;

pub use byte_size::ByteSize;
pub use duration::Duration;
pub use log_level::{BadLevel, LogLevel};

#[cfg(test)]
mod tests;
