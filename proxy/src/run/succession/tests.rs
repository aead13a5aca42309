//! What becomes of what a process is given, on a clock that is not waited for.

use std::path::Path;

use clap::Parser as _;
use jitney_api::Sources;
use tokio::runtime::Handle;

use super::super::hand_over::Name;
use super::super::plan::Plan;
use super::super::to::Bounds;
use super::*;
use crate::admin::inspect::Views;
use crate::config::{Cli, Command};
use crate::metrics::Metrics;
use crate::send::InCommon;

/// The first listener of the command line, and one that it does not have.
const NAMES: [&str; 2] = ["listen-0", "listen-1"];

fn args(path: &Path) -> RunArgs {
    let line = "jitney-proxy run --listen 127.0.0.1:0 --upstream 127.0.0.1:9 --hand-over";
    let line = line.split(' ').map(Into::into).chain([path.into()]);
    match Cli::try_parse_from::<_, std::ffi::OsString>(line)
        .unwrap()
        .command
    {
        Command::Run(args) => *args,
        Command::Check(_) | Command::Explain(_) | Command::Redirect(_) => unreachable!("it says run"),
    }
}

/// One that gives more than is asked for.
fn giver(path: &Path) -> Drain {
    let sockets = || {
        let sockets = NAMES.map(|name| {
            let name = Name {
                listener: Some(name.to_owned()),
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
            };
            Ok((name, TcpListener::bind("127.0.0.1:0")?.into()))
        });
        let sockets = sockets.into_iter().collect::<io::Result<_>>()?;
        let papers = None;
        Ok(Estate { papers, sockets })
    };
    let handed = Drain::new();
    hand_over::offer(path, sockets, handed.clone()).unwrap();
    handed
}

fn heir(path: &Path) -> Heir {
    let inherited = Arc::new(Inherited::ask(path).unwrap());
    let bounds = Bounds {
        max_connections: std::num::NonZeroUsize::MIN,
        max_age: None,
        bare_timeout: Duration::ZERO,
    };
    let (metrics, views, in_common) = (Metrics::new(), Views::default(), InCommon::default());
    let fleet = Fleet::new(metrics, views, Handle::current(), bounds, in_common, &inherited);
    Heir {
        fleet: Arc::new(fleet),
        inherited,
        following: None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_plan_does_not_name_is_waived_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand-over");
    let handed = giver(&path);
    let heir = heir(&path);
    let plan = Plan::of(&args(&path), &Sources::default()).unwrap();
    heir.fleet.apply(&plan).unwrap();
    let (began, inherited) = (Instant::now(), Arc::clone(&heir.inherited));
    let (strand, _stranded) = oneshot::channel();
    heir.take_place(path, None, Drain::new(), strand).await;
    // Before anything is waited for: the clock goes ahead while nothing but a thread is at work.
    assert_eq!(Instant::now(), began);
    handed.draining().await;
    assert!(inherited.left().unwrap().is_empty());
}
