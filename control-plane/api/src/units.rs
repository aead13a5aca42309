//! Durations and sizes as Kubernetes writes them: `2ms`, `1h30m`, `500`, `1Mi`.

mod byte_size;
mod duration;

pub use byte_size::ByteSize;
pub use duration::Duration;

#[cfg(test)]
mod tests;
