//! What is pushed, as what runs.
//!
//! To count the instructions of one change, build the tests of this package with `--release` and run
//! `HELD=2000 valgrind --tool=callgrind --toggle-collect='*pushed::tests::measured*' BINARY run::pushed`;
//! the sum divided by [`CHANGES`] is one change.

use clap::Parser as _;
use jitney_api::push::{Change, Delta, Kind, resources};
use jitney_api::{Documents, Sources};
use tokio::runtime::Handle;

use super::super::fleet::Fleet;
use super::super::hand_over::Inherited;
use super::super::to::Bounds;
use super::*;
use crate::admin::inspect::Views;
use crate::config::{Cli, Command};
use crate::metrics::Metrics;
use crate::send::InCommon;

fn args() -> RunArgs {
    let line = "jitney-proxy run --control-plane https://127.0.0.1:9 --outbound 127.0.0.1:0";
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Command::Run(args) => *args,
        Command::Check(_) | Command::Explain(_) | Command::Redirect(_) => unreachable!("it says run"),
    }
}

/// A backend with five endpoints and a policy for its callers.
fn backend(number: usize, size: usize, more: &str) -> String {
    let host = |host| format!("'10.{}.{}.{host}:80'", number / 250, number % 250);
    let hosts: Vec<String> = (0..5).map(host).collect();
    format!(
        "---\nkind: Backend\nmetadata: {{name: b{number}, namespace: shop}}\nspec: {{endpoints: [{}{more}]}}\n\
         ---\nkind: BatchPolicy\nmetadata: {{name: p{number}, namespace: shop}}\nspec:\n  \
         targetRefs: [{{kind: Backend, name: b{number}}}]\n  placement: Outbound\n  \
         routes: [{{name: rpc, codec: {{jsonRpc: {{}}}}, batch: {{maxSize: {size}}}}}]\n",
        hosts.join(", ")
    )
}

/// Pushes what documents say, but for what is known.
fn push(assembly: &mut Assembly, text: &str) {
    let documents = Documents::read(&Sources::inline("mesh.yaml", text));
    jitney_api::compile(&documents).expect("a good file");
    let pushed = resources(&documents).pushed;
    for kind in Kind::ALL {
        let of_kind = pushed.iter().filter(|one| one.kind == kind);
        let changes = of_kind.map(|one| Change::Set {
            name: one.name.to_string(),
            version: one.held.version.to_string(),
            content: one.held.content.clone(),
        });
        let mut delta = Delta::remembered(kind, changes.collect());
        assembly.take(&mut delta);
        assert_eq!(delta.rejected, []);
    }
}

/// What runs, without a listener.
struct Running {
    args: RunArgs,
    fleet: Arc<Fleet>,
    views: Views,
    workload: Workload,
}

impl Running {
    fn new() -> Self {
        let bounds = Bounds {
            max_connections: std::num::NonZeroUsize::MIN,
            max_age: None,
            bare_timeout: std::time::Duration::ZERO,
        };
        let views = Views::default();
        let inherited = Arc::new(Inherited::default());
        let (metrics, in_common) = (Metrics::new(), InCommon::default());
        let fleet = Fleet::new(
            metrics,
            views.clone(),
            Handle::current(),
            bounds,
            in_common,
            &inherited,
        );
        Self {
            args: args(),
            fleet: Arc::new(fleet),
            views,
            workload: "shop/users".parse().unwrap(),
        }
    }

    /// The endpoints of a backend, and the most items of a batch to it.
    fn shown(&self, name: &str) -> (usize, usize) {
        let views = self.views.list();
        let view = views.iter().find(|view| view.name() == name).unwrap();
        let size = view.policy().routes()[0].limits.max_size;
        (view.endpoints().len(), size)
    }
}

#[inline(never)]
fn measured(running: &Running, assembly: &Assembly) {
    let plan = plan(&running.args, assembly, &running.workload);
    running.fleet.apply(&plan).unwrap();
}

#[tokio::test]
async fn a_change_comes_into_force_whatever_else_is() {
    let held: usize = std::env::var("HELD").map_or(20, |held| held.parse().expect("HELD: a number"));
    let mut assembly = Assembly::default();
    for number in 0..held {
        push(&mut assembly, &backend(number, 2, ""));
    }
    let running = Running::new();
    running
        .fleet
        .apply(&plan(&running.args, &assembly, &running.workload))
        .unwrap();
    for change in 0..CHANGES {
        // By turns one endpoint more, and one size.
        let (size, more) = match change % 2 {
            0 => (2 + change, ", '10.9.9.9:80'"),
            _ => (2 + change, ""),
        };
        push(&mut assembly, &backend(0, size, more));
        if more.is_empty() {
            assembly.remove(Kind::Endpoint, "shop/b0/10.9.9.9:80");
        }
        measured(&running, &assembly);
        assert_eq!(
            running.shown("shop/b0"),
            (5 + usize::from(!more.is_empty()), size)
        );
        assert_eq!(running.shown("shop/b1"), (5, 2));
    }
    assert_eq!(running.views.list().len(), held);
}

/// So many changes are measured.
const CHANGES: usize = 10;
