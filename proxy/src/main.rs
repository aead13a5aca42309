//! The sidecar's program: parses the command line and does what it says.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use jitney_proxy::config::{Cli, Command, RedirectCommand};
use jitney_proxy::redirect::{self, ToolError};
use jitney_proxy::{inquire, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run::run(*args).map_err(|error| error.to_string()),
        Command::Check(args) => inquire::check_files(&args).map_err(|error| error.to_string()),
        Command::Explain(args) => inquire::explain_call(&args).map_err(|error| error.to_string()),
        Command::Redirect(what) => redirect_as(&what).map_err(|error| error.to_string()),
    };
    ended.unwrap_or_else(|error| {
        // Nobody is left to be told that this cannot be written.
        drop(writeln!(io::stderr(), "{error}"));
        ExitCode::FAILURE
    })
}

fn redirect_as(what: &RedirectCommand) -> Result<ExitCode, ToolError> {
    match what {
        RedirectCommand::Install {
            redirect,
            print: true,
        } => redirect::print(&redirect.rules(), redirect.tool),
        RedirectCommand::Install { redirect, .. } => redirect::install(&redirect.rules(), redirect.tool),
        RedirectCommand::Remove => redirect::remove(),
        RedirectCommand::Check(redirect) => redirect::check(&redirect.rules(), redirect.tool),
    }
}
