//! What the sidecar and the control plane do alike as programs: write their log and their papers,
//! and serve an admin endpoint. Only with the feature `program`, so that whoever wants the documents
//! alone does not pay.

mod admin;
mod flowing;
mod lines;
mod local;
mod log;
mod pem;
mod seats;

pub use admin::{serve, serve_for};
pub use lines::{Line, LineQueue};
pub use local::only_local;
pub use log::{Format, filter, log_panics, writer};
pub use pem::pem;
pub use seats::{Seat, Seats, Served};
