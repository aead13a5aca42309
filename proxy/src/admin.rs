//! The admin endpoint.

pub mod inspect;
