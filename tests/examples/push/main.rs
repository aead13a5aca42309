//! How long a change takes from the file to the sidecars that run it, over mTLS:
//! `cargo run --release --example push [SIDECARS…]`, by default 100 and 1,000.
//!
//! The control plane is a process of its own. The sidecars are the real client code of the sidecar, many in
//! one process, each with a key, a certificate and a connection of its own, and with a data path that only
//! compiles what it is to run. The time is from the write of the file to the moment at which a sidecar has
//! applied the change, right before its acknowledgement leaves; the pauses in which the control plane waits
//! for the file to be quiet are in it.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;

use jitney_tests::fleet::{Common, Fleet, Member, Seen};
use tokio::time::Instant;

mod plane;

use plane::Plane;

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Policy,
    Endpoint,
}

/// Times of one kind of change, over several of them.
struct Times(Vec<Duration>);

impl Times {
    fn percentile(&self, share: usize) -> u128 {
        let at = (self.0.len() - 1) * share / 100;
        self.0[at].as_millis()
    }
}

/// Whether a sidecar runs what is there after so many changes of each kind.
fn runs(seen: &Seen<'_>, changes: [usize; 2]) -> bool {
    let inbound = seen.pushed.inbound(seen.workload).policy;
    let size = inbound.routes().first().map(|route| route.limits.max_size);
    let newest = format!("10.0.1.{}", changes[1] + 1);
    let reached = seen.pushed.outbound("shop/orders");
    let mut endpoints = reached.iter().flat_map(|(to, _)| &to.endpoints);
    size == Some(changes[0] + 1) && endpoints.any(|reached| *reached.endpoint.host == newest)
}

fn start(count: usize, plane: &Plane) -> anyhow::Result<Fleet> {
    let common = Common {
        control_plane: format!("https://{}", plane.address),
        roots: plane.folder.path().join("state/roots.pem"),
        any_backend: false,
    };
    let member = |number: usize| {
        let (node, token) = (format!("users-{number}"), plane.token(number)?);
        Ok(Member { node, token })
    };
    let members = (0..count).map(member).collect::<anyhow::Result<Vec<_>>>()?;
    Fleet::start(&common, &members, |seen| runs(seen, [0, 0]))
}

fn measure(plane: &Plane, fleet: &Fleet, count: usize, change: Change) -> anyhow::Result<Times> {
    let mut took = Vec::new();
    for _ in 0..CHANGES {
        let goal = plane.next(change);
        fleet.expect(move |seen| runs(seen, goal));
        took.extend(fleet.met(count, plane.change(goal)?)?);
    }
    took.sort_unstable();
    Ok(Times(took))
}

fn run(count: usize) -> anyhow::Result<()> {
    let plane = Plane::start(count)?;
    let (empty, began) = (plane.usage()?.resident, Instant::now());
    let fleet = start(count, &plane)?;
    let connected = fleet.met(count, began)?.pop().unwrap_or_default();
    let held = plane.usage()?.resident;
    let idle = plane.idle_cpu(IDLE)?;
    let policy = measure(&plane, &fleet, count, Change::Policy)?;
    let endpoint = measure(&plane, &fleet, count, Change::Endpoint)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| {count} | {} | {} | {} | {} | {} | {} | {} | {} | {idle:.1} |",
        connected.as_millis(),
        policy.percentile(50),
        policy.percentile(99),
        policy.percentile(100),
        endpoint.percentile(50),
        endpoint.percentile(99),
        plane.usage()?.resident >> 20,
        (held - empty) / count as u64 / 1024,
    )?;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == plane::ROLE) {
        return plane::serve(arguments);
    }
    let counts = arguments.map(|count| {
        count
            .parse()
            .with_context(|| format!("{count:?} is no number of sidecars"))
    });
    allow_many_files()?;
    let mut counts = counts.collect::<anyhow::Result<Vec<usize>>>()?;
    if counts.is_empty() {
        counts = vec![100, 1000];
    }
    let columns = [
        "sidecars",
        "all connected, ms",
        "policy p50 ms",
        "p99",
        "worst",
        "endpoint p50 ms",
        "p99",
        "control plane, MiB",
        "KiB a sidecar",
        "idle, % of a core",
    ];
    let header = format!(
        "| {} |\n|{}\n",
        columns.join(" | "),
        "---:|".repeat(columns.len())
    );
    std::io::stdout().write_all(header.as_bytes())?;
    counts.into_iter().try_for_each(run)
}

/// Each connection is a file.
fn allow_many_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Changes of each kind.
const CHANGES: usize = 10;
/// As both programs have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the idle control plane is looked at.
const IDLE: Duration = Duration::from_secs(5);
