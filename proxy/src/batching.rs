//! The batching path of a call: queued by key, sent with its companions, answered with its share.
//!
//! `submission` is a call and what its codec makes of it, `submit` reads and queues it, `divide` cuts one that is too large, `dispatcher` forms batches, `flight` sends one and isolates
//! what fails, `attempt` is one round trip, `slot` is where the caller waits. What is decided, the
//! core decides; here are the sockets, the clock and the tasks.

mod divide;
pub(crate) mod submission;
pub(crate) mod submit;

pub(crate) mod dispatcher;
pub(crate) mod shadow;

pub(crate) mod attempt;
pub(crate) mod flight;

pub(crate) mod alarm;
pub(crate) mod pending;
pub(crate) mod slot;
