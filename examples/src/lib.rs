//! Runnable examples of Jitney.
