//! A small mesh on one machine: three services, a sidecar beside each and one control plane, every one
//! of them a process of its own; and a policy that is changed on disk while calls go on.

mod acts;
mod documents;
mod load;
mod processes;
mod verdict;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jitney_examples::figures::say;
use jitney_examples::process::{be_control_plane, be_sidecar, end_with_parent};
use jitney_examples::service::listen;
use jitney_examples::table::Table;
use jitney_examples::{front, table};
use tokio::runtime::Runtime;

use processes::Mesh;

/// Loads pages of a shop through a mesh, changes a policy meanwhile, and compares every page
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: load::Options,
    /// Keep everything running afterwards, to try things out
    #[arg(long)]
    serve: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the program becomes when it starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Shop { orders: SocketAddr, users: SocketAddr },
    #[command(hide = true)]
    Table { table: Table, database: PathBuf },
    #[command(hide = true)]
    Sidecar {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    #[command(hide = true)]
    ControlPlane {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { options, serve, role } = Arguments::parse();
    match role {
        Some(role) => role.play(),
        None => Runtime::new()?.block_on(async {
            let mut mesh = Mesh::start().await?;
            let verdict = acts::play(&mut mesh, options).await?;
            if serve {
                tell_what_to_try(&mesh);
                tokio::signal::ctrl_c().await?;
            }
            Ok(if verdict.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }),
    }
}

impl Role {
    fn play(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Sidecar { arguments } => return be_sidecar(arguments),
            Self::ControlPlane { arguments } => return be_control_plane(arguments),
            Self::Shop { orders, users } => {
                end_with_parent();
                let (orders, users) = (orders.to_string(), users.to_string());
                Runtime::new()?.block_on(async { front::run(listen().await?, orders, users).await })?;
            }
            Self::Table { table, database } => {
                end_with_parent();
                Runtime::new()?.block_on(async { table::run(listen().await?, table, database).await })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell_what_to_try(mesh: &Mesh) {
    let (shop, users, documents) = (&mesh.shop, &mesh.users, mesh.documents.display());
    say(&format!(
        "
Still running; Ctrl-C ends it. Try:
  curl http://{}/pages/7                      a page of the shop, through its sidecar
  curl http://{}/batches                      what the sidecar of users gathered
  curl http://{}/status                       which sidecar runs what
  $EDITOR {documents}/users.yaml
and watch these in a browser while you save:
  http://{}/   the control plane
  http://{}/   the sidecar of users",
        shop.sidecar, users.admin, mesh.plane.admin, mesh.plane.admin, users.admin
    ));
}
