//! The control plane's program: parses the command line and does what it says.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use jitney_control_plane::config::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().command.carry_out().unwrap_or_else(|error| {
        // Nobody is left to be told that this cannot be written.
        drop(writeln!(io::stderr(), "{error}"));
        ExitCode::FAILURE
    })
}
