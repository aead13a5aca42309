//! A cluster as the source: its Services, the addresses behind them, the pods with a sidecar, and the
//! documents that people apply.
//!
//! Each kind is watched into an [`Index`], which keeps no more of an object than is needed and knows which
//! namespaces have changed. What these push is worked out again and goes out a moment later, so that many
//! changes at once are one. Nothing is pushed before every kind was listed once: what seems to be missing
//! would be taken away from sidecars that have it.
//!
//! An object that is faulty is told of and left out; the last version of it that was good stays in force as
//! long as this process runs.

mod attest;
mod authority;
mod custom;
mod debounce;
mod index;
mod lease;
mod look;
mod missed;
mod objects;
mod owner;
mod peers;
mod roots;
mod routes;
mod served;
mod source;
mod status;
mod table;
mod verdict;
mod watch;

pub use attest::TokenReviews;
pub use authority::{Keys, KeysError};
pub use custom::Custom;
pub use index::{Index, Kinds};
pub use look::{Looked, look};
pub use missed::Missed;
pub use owner::Owner;
pub use roots::RootsWriter;
pub use source::{Source, SourceError, connect};
pub use status::StatusWriter;
