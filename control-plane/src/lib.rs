//! The control plane: `source → store → push → status`.

pub mod files;
pub mod identity;
pub mod push;
pub mod status;
pub mod store;
