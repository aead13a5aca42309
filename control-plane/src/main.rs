//! The control plane's program: parses the command line and does what it says.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use jitney_control_plane::config::{Cli, Command, TrustCommand};
use jitney_control_plane::inject::manifests;
use jitney_control_plane::{inquire, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run::run(&args).map_err(|error| error.to_string()),
        Command::Token(args) => inquire::print_token(&args).map_err(|error| error.to_string()),
        Command::Check(args) => inquire::check_files(&args).map_err(|error| error.to_string()),
        Command::Inject(args) => manifests::inject(&args).map_err(|error| error.to_string()),
        Command::Trust(args) => {
            let TrustCommand::Roots(mesh) = args.what;
            inquire::print_roots(&mesh).map_err(|error| error.to_string())
        }
        Command::Crds => inquire::print_definitions().map_err(|error| error.to_string()),
    };
    ended.unwrap_or_else(|error| {
        // Nobody is left to be told that this cannot be written.
        drop(writeln!(io::stderr(), "{error}"));
        ExitCode::FAILURE
    })
}
