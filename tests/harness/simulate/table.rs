//! The table: every row under every policy, and how far the default is from the best of the others.

use super::{Load, Policy, Report, Row, run};

/// The fixed policies, with their column titles.
pub const FIXED: [(&str, Policy); 7] = [
    ("pass-through", Policy::PassThrough),
    ("timer 5 ms, 1 in flight", Policy::TimerOne(5.0)),
    ("timer 2 ms, 1 in flight", Policy::TimerOne(2.0)),
    ("timer 5 ms, any number", Policy::TimerAny(5.0)),
    ("natural, 1 in flight", Policy::Natural(1)),
    ("natural, 4 in flight", Policy::Natural(4)),
    ("BentoML-like", Policy::Bento),
];

/// One policy in one row, averaged over seeds.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The column's title.
    pub title: &'static str,
    /// What came of it.
    pub report: Report,
}

/// A row's results.
#[derive(Clone, Debug)]
pub struct Line {
    /// The row's name.
    pub name: &'static str,
    /// Closed loop: judged by answers a second.
    pub closed: bool,
    /// The fixed policies.
    pub fixed: Vec<Cell>,
    /// The default.
    pub adaptive: Report,
}

impl Line {
    /// The default's mean over the best fixed policy's; for a closed loop the best rate over its.
    pub fn mean_ratio(&self) -> f64 {
        if self.closed {
            let best = self.fixed.iter().map(|cell| cell.report.rate).fold(0.0, f64::max);
            return best / self.adaptive.rate;
        }
        self.adaptive.mean / self.best(|report| report.mean)
    }

    /// The default's p99 over the best fixed policy's, each by its own best.
    pub fn p99_ratio(&self) -> f64 {
        if self.closed {
            self.mean_ratio()
        } else {
            self.adaptive.p99 / self.best(|report| report.p99)
        }
    }

    /// True when the default is overloaded where a fixed policy is not.
    pub fn collapsed(&self) -> bool {
        self.adaptive.overloaded && self.fixed.iter().any(|cell| !cell.report.overloaded)
    }

    fn best(&self, of: impl Fn(&Report) -> f64) -> f64 {
        let sane = self.fixed.iter().filter(|cell| !cell.report.overloaded);
        sane.map(|cell| of(&cell.report)).fold(f64::INFINITY, f64::min)
    }
}

/// Runs one row under every policy, once per seed.
pub fn line(row: &Row, seeds: &[u64]) -> Line {
    let of = |policy| {
        average(
            seeds
                .iter()
                .map(|seed| run(&row.scenario, policy, *seed))
                .collect(),
        )
    };
    Line {
        name: row.name,
        closed: matches!(row.scenario.load, Load::Closed(..) | Load::Pages(..)),
        fixed: FIXED
            .iter()
            .map(|(title, policy)| Cell {
                title,
                report: of(*policy),
            })
            .collect(),
        adaptive: of(Policy::Adaptive),
    }
}

fn average(reports: Vec<Report>) -> Report {
    let n = super::float(reports.len());
    let mut sum = Report::default();
    for report in reports {
        sum.mean += report.mean / n;
        sum.p50 += report.p50 / n;
        sum.p99 += report.p99 / n;
        sum.rate += report.rate / n;
        sum.batch += report.batch / n;
        sum.overloaded |= report.overloaded;
        sum.idle_wakes += report.idle_wakes;
    }
    sum
}

/// The lines as a Markdown table: mean / p99 in ms, or calls a second for a closed loop.
pub fn render(lines: &[Line]) -> String {
    let mut text = String::from("| load |");
    for (title, _) in FIXED {
        text.push_str(&format!(" {title} |"));
    }
    text.push_str(" **adaptive** | mean batch | of the best |\n|---|");
    text.push_str(&"---:|".repeat(FIXED.len() + 3));
    text.push('\n');
    for line in lines {
        text.push_str(&format!("| {} |", line.name));
        for cell in &line.fixed {
            text.push_str(&format!(" {} |", figure(&cell.report, line.closed)));
        }
        let adaptive = figure(&line.adaptive, line.closed);
        let (mean, p99) = (line.mean_ratio(), line.p99_ratio());
        let ratio = if line.closed {
            format!("{mean:.2}")
        } else {
            format!("{mean:.2} / {p99:.2}")
        };
        text.push_str(&format!(
            " **{adaptive}** | {:.1} | {ratio} |\n",
            line.adaptive.batch
        ));
    }
    text
}

fn figure(report: &Report, closed: bool) -> String {
    if report.overloaded {
        "XX".to_owned()
    } else if closed {
        format!("{:.0}/s", report.rate)
    } else {
        format!("{:.1} / {:.1}", report.mean, report.p99)
    }
}
