//! Floods a sidecar in seven ways and prints what each does to a polite caller beside it, and to its
//! memory: `cargo run --release --example floods [NAME-PART]`.

use std::io::Write as _;
use std::time::Duration;

use jitney_tests::flood::{Flood, Polite, memory};
use jitney_tests::{Reply, TestProxy, TestUpstream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How long the polite caller is watched before, and at least while, somebody floods.
const WATCHED: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let wanted = std::env::args().nth(1).unwrap_or_default().to_lowercase();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = std::io::stdout();
    writeln!(out, "flood          p99 before   p99 during   ratio   memory KiB")?;
    for flood in Flood::ALL {
        let name = format!("{flood:?}");
        if name.to_lowercase().contains(&wanted) {
            let (before, during, grown) = runtime.block_on(measure(flood))?;
            let ratio = during.as_secs_f64() / before.as_secs_f64();
            let (before, during) = (before.as_micros(), during.as_micros());
            writeln!(
                out,
                "{name:<14} {before:>7} µs   {during:>7} µs   {ratio:>5.1}   {:>10}",
                grown >> 10
            )?;
        }
    }
    Ok(())
}

/// The polite caller's p99 before and during a flood, and by how much the sidecar grew.
async fn measure(flood: Flood) -> anyhow::Result<(Duration, Duration, usize)> {
    let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")).await;
    let proxy = TestProxy::with().upstream(upstream.address).start().await;
    let polite = Polite::start(proxy.address);
    tokio::time::sleep(WATCHED).await;
    let before = p99(&polite.stop().await);
    let memory_before = memory(proxy.pid());
    let polite = Polite::start(proxy.address);
    // Again and again, as one may be over at once.
    let end = tokio::time::Instant::now() + WATCHED;
    let mut open = Vec::new();
    while tokio::time::Instant::now() < end {
        open = flood.run(proxy.address).await?;
    }
    let during = p99(&polite.stop().await);
    let grown = memory(proxy.pid()).saturating_sub(memory_before);
    drop(open);
    Ok((before, during, grown))
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() - 1) * 99 / 100]
}
