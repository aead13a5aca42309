//! The clock of the tests.

use std::time::Instant;

/// An arbitrary origin: times are this plus what a test says.
pub(crate) fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the origin of a virtual clock")]
    Instant::now()
}
