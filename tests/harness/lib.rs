//! What the suites share: the real sidecar as a process, upstreams with fault switches, callers,
//! and models of the conventions that the codecs speak.

pub mod random;
pub mod wait;

// The three ends of a test: who calls, what is tested, who answers.
pub mod caller;
pub mod control_plane;
pub mod fleet;
pub mod flood;
mod foreign;
pub mod frames;
pub mod issuing;
mod namespace;
mod process;
pub mod programs;
pub mod proxy;
pub mod upstream;
pub mod usage;
mod wiretap;

pub mod model;
pub mod policy;

pub use caller::{Answer, Caller};
pub use control_plane::TestControlPlane;
pub use foreign::{go_program, python_with};
pub use namespace::{Host, Network, in_namespace};
pub use policy::Route;
pub use process::Process;
pub use proxy::TestProxy;
pub use random::Random;
pub use upstream::{Reply, Seen, TestUpstream};
pub use wiretap::Wiretap;

pub mod simulate;
