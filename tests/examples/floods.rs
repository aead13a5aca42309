//! Floods a sidecar in eight ways and prints what each does to a polite caller beside it, and to its
//! memory: `cargo run --release --example floods [NAME-PART [ADDRESS PID]]`.
//!
//! The sidecar has a core and a thread of its own, as what is asked is whom it serves first, and not whom
//! the kernel runs first. The polite caller and the upstream share another core with who floods, but go
//! before him. With an address and a process, what listens there is flooded instead, such as a server
//! to compare with; it is given a core, too.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use jitney_tests::flood::{Flood, Polite, memory};
use jitney_tests::{Reply, TestProxy, TestUpstream};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, gettid};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the polite caller is watched before, and at least while, somebody floods.
const WATCHED: Duration = Duration::from_secs(2);

/// What is flooded has the first core, all others the second.
const ITS_CORE: usize = 0;
const OTHER_CORE: usize = 1;

/// Whom the kernel runs first of those on one core.
const FIRST: i32 = -20;
const LAST: i32 = 19;

/// What is flooded.
struct Target {
    address: SocketAddr,
    pid: u32,
    _sidecar: Option<TestProxy>,
}

/// Percentiles of the polite caller's times.
struct Times {
    p50: Duration,
    p99: Duration,
}

fn main() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wanted = args.first().map(|part| part.to_lowercase()).unwrap_or_default();
    let (polite, rude) = (runtime(FIRST)?, runtime(LAST)?);
    let upstream = polite.block_on(TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")));
    let mut out = std::io::stdout();
    writeln!(
        out,
        "flood           p50 / p99 before     p50 / p99 during   ratio   memory KiB"
    )?;
    for flood in Flood::ALL {
        let name = format!("{flood:?}");
        if name.to_lowercase().contains(&wanted) {
            let target = match args.get(1..3) {
                Some([address, pid]) => Target {
                    address: address.parse().context("an address")?,
                    pid: pid.parse().context("a process")?,
                    _sidecar: None,
                },
                _ => polite.block_on(sidecar(upstream.address)),
            };
            give_core(&target)?;
            let (before, during, grown) = measure(flood, &target, &polite, &rude)?;
            let ratio = during.p99.as_secs_f64() / before.p99.as_secs_f64();
            writeln!(
                out,
                "{name:<14} {before} {during}   {ratio:>5.1}   {:>10}",
                grown >> 10
            )?;
        }
    }
    Ok(())
}

/// A thread on the other core.
fn runtime(nice: i32) -> std::io::Result<Runtime> {
    let place = move || {
        let thread = gettid();
        let mut cores = CpuSet::new();
        let placed = cores
            .set(OTHER_CORE)
            .and_then(|()| sched_setaffinity(thread, &cores));
        // Without the right to it the figures are worse than they should be.
        let preferred = Command::new("renice")
            .args(["-n", &nice.to_string(), "-p", &thread.to_string()])
            .output();
        if placed.is_err() || !preferred.is_ok_and(|output| output.status.success()) {
            drop(writeln!(
                std::io::stderr(),
                "threads compete: they cannot be placed"
            ));
        }
    };
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(place)
        .build()
}

fn is_preferred(thread: Pid, nice: i32) -> bool {
    let renice = Command::new("renice")
        .args(["-n", &nice.to_string(), "-p", &thread.to_string()])
        .output();
    renice.is_ok_and(|output| output.status.success())
}

async fn sidecar(upstream: SocketAddr) -> Target {
    let sidecar = TestProxy::with().upstream(upstream).arg("--threads").arg("1");
    let sidecar = sidecar.start().await;
    Target {
        address: sidecar.address,
        pid: sidecar.pid(),
        _sidecar: Some(sidecar),
    }
}

fn give_core(target: &Target) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(ITS_CORE)?;
    for thread in std::fs::read_dir(format!("/proc/{}/task", target.pid))? {
        let thread = thread?.file_name();
        let thread = Pid::from_raw(thread.to_str().context("a number")?.parse()?);
        sched_setaffinity(thread, &cores)?;
        is_preferred(thread, FIRST);
    }
    Ok(())
}

/// The polite caller's times before and during a flood, and by how much memory grew.
fn measure(
    flood: Flood,
    target: &Target,
    polite: &Runtime,
    rude: &Runtime,
) -> anyhow::Result<(Times, Times, usize)> {
    let (address, pid) = (target.address, target.pid);
    let quiet = rude.spawn(async {
        tokio::time::sleep(WATCHED).await;
        Ok(())
    });
    let (before, _) = polite.block_on(polite.spawn(watched(address, quiet)))??;
    let memory_before = memory(pid);
    // To open them is as many calls as there are connections; what is asked is what they cost open.
    let mut open = if flood.stays_open() {
        rude.block_on(rude.spawn(flood.run(address)))??
    } else {
        Vec::new()
    };
    let flooded = rude.spawn(async move {
        // Again and again, as one may be over at once.
        let end = Instant::now() + WATCHED;
        while Instant::now() < end {
            if flood.stays_open() {
                flood.keep_up(&mut open).await;
            } else {
                flood.run(address).await?;
            }
        }
        Ok(open)
    });
    let (during, open) = polite.block_on(polite.spawn(watched(address, flooded)))??;
    let grown = memory(pid).saturating_sub(memory_before);
    drop(open);
    Ok((before, during, grown))
}

/// What calls take until something else is done, and what that comes to.
async fn watched<T>(
    address: SocketAddr,
    until: JoinHandle<std::io::Result<T>>,
) -> anyhow::Result<(Times, T)> {
    let caller = Polite::start(address);
    let done = until.await??;
    Ok((Times::of(&caller.stop().await), done))
}

impl Times {
    fn of(sorted: &[Duration]) -> Self {
        let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.p50.as_micros(), self.p99.as_micros());
        write!(f, "{p50:>6} / {p99:>6} µs  ")
    }
}
