//! The rows of the table: what is simulated.

use super::{Load, Scenario, Upstream};

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it shows.
    pub name: &'static str,
    /// What is run.
    pub scenario: Scenario,
    /// False for what is shown and not promised.
    pub barred: bool,
}

/// Every row; `scale` stretches the runs' lengths.
pub fn rows(scale: f64) -> Vec<Row> {
    let mut rows = stationary(scale);
    rows.extend(moving(scale));
    rows.extend(pages(scale));
    rows.extend(perf(scale));
    rows
}

fn stationary(scale: f64) -> Vec<Row> {
    let (u1, u2, u3) = (Upstream::serial, Upstream::eight_workers, Upstream::elastic);
    vec![
        open("U1 10/s", u1(), 10.0, 8.0 * scale),
        open("U1 200/s", u1(), 200.0, 2.0 * scale),
        open("U1 1000/s", u1(), 1000.0, scale),
        open("U1 2200/s", u1(), 2200.0, scale),
        open("U2 1000/s", u2(), 1000.0, scale),
        open("U2 2800/s", u2(), 2800.0, scale),
        open("U2 8000/s", u2(), 8000.0, scale),
        closed("U2 closed 64", u2(), 64, 0.0, scale),
        closed("U2 closed 256", u2(), 256, 0.0, scale),
        open("U3 5000/s", u3(), 5000.0, scale),
    ]
}

fn moving(scale: f64) -> Vec<Row> {
    let (u1, u2) = (Upstream::serial, Upstream::eight_workers);
    let seconds = 20.0 * scale;
    let slow = Some((seconds * 0.4, seconds * 0.7, 3.0));
    let noisy = |upstream: Upstream| Upstream {
        noise: 0.3,
        stalls: 0.01,
        ..upstream
    };
    let mut rows = vec![
        row(
            "U1 step 200→2000/s",
            u1(),
            Load::Step(200.0, 2000.0),
            seconds,
            0.25,
        ),
        row(
            "U2 step 500→8000/s",
            u2(),
            Load::Step(500.0, 8000.0),
            seconds,
            0.25,
        ),
        row(
            "U2 step 8000→500/s",
            u2(),
            Load::Step(8000.0, 500.0),
            seconds,
            0.25,
        ),
        row(
            "U1 500/s, 3× slower for a while",
            Upstream { slow, ..u1() },
            Load::Open(500.0),
            seconds,
            0.25,
        ),
        row(
            "U2 2500/s, 3× slower for a while",
            Upstream { slow, ..u2() },
            Load::Open(2500.0),
            seconds,
            0.25,
        ),
        open("U1 1000/s, noisy", noisy(u1()), 1000.0, scale),
        open("U2 2800/s, noisy", noisy(u2()), 2800.0, scale),
        open("U3 2000/s, noisy", noisy(Upstream::elastic()), 2000.0, scale),
        open("U1 1000/s, two sidecars", u1(), 1000.0, scale),
        open("U2 5000/s, two sidecars", u2(), 5000.0, scale),
        open("U2 5000/s, four sidecars", u2(), 5000.0, scale),
        open("U1 1000/s, bodies take 0–2 ms", u1(), 1000.0, scale),
        open("U2 2800/s, bodies take 0–2 ms", u2(), 2800.0, scale),
    ];
    for row in &mut rows {
        if row.name.ends_with("two sidecars") {
            row.scenario.sidecars = 2;
        }
        if row.name.ends_with("four sidecars") {
            row.scenario.sidecars = 4;
            row.barred = false;
        }
        if row.name.contains("bodies") {
            row.scenario.body = 0.002;
        }
    }
    rows
}

fn pages(scale: f64) -> Vec<Row> {
    let pages = |name, upstream, pages, within| {
        let load = Load::Pages(pages, within);
        row(name, upstream, load, 20.0 * scale, 0.25)
    };
    vec![
        pages("database, 16 pages", Upstream::database(), 16, 0.004),
        pages("database, 32 pages", Upstream::database(), 32, 0.01),
        pages("busy machine, 16 pages", Upstream::busy_machine(), 16, 0.004),
        pages("busy machine, 32 pages", Upstream::busy_machine(), 32, 0.01),
    ]
}

fn perf(scale: f64) -> Vec<Row> {
    let model = Upstream::model;
    vec![
        open("model 500/s", model(), 500.0, scale),
        open("model 1500/s", model(), 1500.0, scale),
        open("model 3000/s", model(), 3000.0, scale),
        closed("model closed 256", model(), 256, 0.0, scale),
        closed("model closed 256, staggered", model(), 256, 0.0005, scale),
    ]
}

fn open(name: &'static str, upstream: Upstream, rate: f64, scale: f64) -> Row {
    row(name, upstream, Load::Open(rate), 20.0 * scale, 0.25)
}

fn closed(name: &'static str, upstream: Upstream, callers: usize, pause: f64, scale: f64) -> Row {
    row(name, upstream, Load::Closed(callers, pause), 10.0 * scale, 0.25)
}

fn row(name: &'static str, upstream: Upstream, load: Load, seconds: f64, warm_up: f64) -> Row {
    let scenario = Scenario {
        upstream,
        load,
        seconds,
        warm_up: seconds * warm_up,
        sidecars: 1,
        body: 0.0,
        max_size: 32,
    };
    Row {
        name,
        scenario,
        barred: true,
    }
}
