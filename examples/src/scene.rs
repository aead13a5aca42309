//! How an example runs: one program, three roles. Without a role it starts the service and the
//! sidecar as processes of their own, drives the workload both ways, and prints the comparison.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::client::get;
use crate::comparison::compare;
use crate::figures::say;
use crate::process::{Process, be_sidecar, end_with_parent, sidecar};
use crate::shop;
use crate::workload::{Options, Workload};

/// What makes one example different from the next.
#[derive(Clone, Copy, Debug)]
pub struct Scene<W> {
    /// What happens, in a line.
    pub title: &'static str,
    /// The policy's path below `examples/`.
    pub policy: &'static str,
    /// What the pages ask for.
    pub workload: W,
    /// Things to try with `--serve`: paths on the sidecar.
    pub try_out: &'static [&'static str],
}

/// Runs a workload direct and through Jitney, and compares every reply
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Keep the service and the sidecar running afterwards, to try things out
    #[arg(long)]
    serve: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the program becomes when it starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Service { database: PathBuf },
    #[command(hide = true)]
    Sidecar {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Plays a scene whose service is a role of this program, on the shop's database. The service
/// tells at `/stats` how many `lookups` it was sent.
///
/// # Errors
/// When a process does not start, or a call breaks.
pub fn play<W: Workload>(
    scene: Scene<W>,
    service: impl AsyncFn(PathBuf) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Sidecar { arguments }) => be_sidecar(arguments),
        Some(Role::Service { database }) => {
            end_with_parent();
            Runtime::new()?.block_on(service(database))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let folder = tempfile::tempdir()?;
            let database = folder.path().join("shop.db");
            shop::create(&database)?;
            let process = Process::role("service", [&database])?;
            Runtime::new()?.block_on(scene.drive(arguments.options, arguments.serve, &process, lookups))
        }
    }
}

/// Plays a scene whose service is a program of its own.
///
/// # Errors
/// When a process does not start, or a call breaks.
pub fn play_with<W: Workload>(
    scene: Scene<W>,
    start: impl FnOnce() -> anyhow::Result<Process>,
    count: impl AsyncFn(SocketAddr) -> anyhow::Result<u64>,
) -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Role::Sidecar { arguments }) = arguments.role {
        return be_sidecar(arguments);
    }
    let process = start()?;
    Runtime::new()?.block_on(scene.drive(arguments.options, arguments.serve, &process, count))
}

impl<W: Workload> Scene<W> {
    async fn drive(
        self,
        options: Options,
        serve: bool,
        process: &Process,
        count: impl AsyncFn(SocketAddr) -> anyhow::Result<u64>,
    ) -> anyhow::Result<ExitCode> {
        let (service, _) = process.listening()?;
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.policy);
        let sidecar = sidecar(service, &policy)?;
        say(&format!("{}\n", self.title));
        say(&format!(
            "service  http://{service}\nsidecar  http://{}\nadmin    http://{}\n",
            sidecar.address, sidecar.admin
        ));
        let comparison = compare(self.workload, options, service, &sidecar, async || {
            count(service).await
        })
        .await?;
        say(&comparison.to_string());
        if serve {
            say("\nStill running; Ctrl-C ends it. Try:");
            self.try_out
                .iter()
                .for_each(|path| say(&format!("  curl http://{}{path}", sidecar.address)));
            say(&format!("  curl http://{}/batches", sidecar.admin));
            tokio::signal::ctrl_c().await?;
        }
        Ok(if comparison.verified() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

#[derive(Deserialize)]
struct Stats {
    lookups: u64,
}

/// What a service of ours tells of itself.
async fn lookups(service: SocketAddr) -> anyhow::Result<u64> {
    Ok(serde_json::from_slice::<Stats>(&get(service, "/stats").await?.body)?.lookups)
}
