//! The same workload direct and through Jitney, side by side, and whether anybody could tell.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::figures::{milliseconds, quantile, thousands};
use crate::process::Sidecar;
use crate::workload::{Options, Run, Workload, lone_call, run};

/// Two runs of one workload.
#[derive(Debug)]
pub struct Comparison {
    direct: Side,
    shared: Side,
    calls: usize,
    equal: usize,
    first_difference: Option<String>,
}

#[derive(Debug)]
struct Side {
    run: Run,
    upstream_calls: u64,
    lone: Duration,
}

/// Runs `workload` against the service itself and then through the sidecar. `count` tells how many
/// of the N calls, single or merged, the service has been sent so far.
///
/// # Errors
/// When a call breaks, or the service does not tell its count.
pub async fn compare<W: Workload>(
    workload: W,
    options: Options,
    service: SocketAddr,
    sidecar: &Sidecar,
    count: impl AsyncFn() -> anyhow::Result<u64>,
) -> anyhow::Result<Comparison> {
    let workload = Arc::new(workload);
    let side = async |name: &'static str, address: SocketAddr| {
        let bar = ProgressBar::new((options.pages * W::WIDTH) as u64).with_message(name);
        bar.set_style(ProgressStyle::with_template(
            "{msg:16} {wide_bar} {human_pos}/{human_len} calls, {per_sec}",
        )?);
        let lone = lone_call(&*workload, address).await?;
        let before = count().await?;
        let run = run(&workload, options, address, &bar).await?;
        bar.finish_and_clear();
        anyhow::Ok(Side {
            run,
            upstream_calls: count().await? - before,
            lone,
        })
    };
    let direct = side("direct", service).await?;
    let shared = side("through Jitney", sidecar.address).await?;
    Ok(Comparison::of(direct, shared))
}

impl Comparison {
    fn of(direct: Side, shared: Side) -> Self {
        let (mut calls, mut equal, mut first_difference) = (0, 0, None);
        for (page, (expected, found)) in direct.run.replies.iter().zip(&shared.run.replies).enumerate() {
            calls += expected.len();
            for (place, wanted) in expected.iter().enumerate() {
                match found.get(place) {
                    Some(reply) if reply == wanted => equal += 1,
                    other => {
                        first_difference.get_or_insert_with(|| {
                            format!(
                                "page {page}, call {place}: {other:?} where a direct call gave {wanted:?}"
                            )
                        });
                    }
                }
            }
        }
        Self {
            direct,
            shared,
            calls,
            equal,
            first_difference,
        }
    }

    /// True when every reply through Jitney was the direct one: status, content type and bytes.
    pub const fn verified(&self) -> bool {
        self.equal == self.calls && self.calls > 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            "",
            "calls",
            "upstream calls",
            "mean batch",
            "calls/s",
            "p50",
            "p99",
            "a lone call",
        ];
        let row = |f: &mut fmt::Formatter<'_>, cells: [String; 8]| {
            write!(f, "{:<16}", cells[0])?;
            cells[1..]
                .iter()
                .zip(&columns[1..])
                .try_for_each(|(cell, name)| write!(f, "  {cell:>width$}", width = name.len().max(9)))?;
            writeln!(f)
        };
        row(f, columns.map(str::to_owned))?;
        for (name, side) in [("direct", &self.direct), ("through Jitney", &self.shared)] {
            #[expect(clippy::cast_precision_loss, reason = "counts for people to read")]
            let (calls, upstream) = (self.calls as f64, side.upstream_calls.max(1) as f64);
            row(
                f,
                [
                    name.to_owned(),
                    thousands(self.calls as u64),
                    thousands(side.upstream_calls),
                    format!("{:.1}", calls / upstream),
                    format!("{:.0}", calls / side.run.elapsed.as_secs_f64()),
                    milliseconds(quantile(&side.run.latencies, 50)),
                    milliseconds(quantile(&side.run.latencies, 99)),
                    milliseconds(side.lone),
                ],
            )?;
        }
        let (equal, calls) = (thousands(self.equal as u64), thousands(self.calls as u64));
        write!(
            f,
            "\nverified: {equal} of {calls} replies are equal to the direct ones, byte for byte"
        )?;
        self.first_difference
            .iter()
            .try_for_each(|text| write!(f, "\nDIFFERENT {text}"))
    }
}
