//! The bars of the dispatcher, in runs short enough for every day; `cargo run --release --example
//! simulate` prints the table of the long ones.

use jitney_tests::simulate::{Load, Policy, Row, Scenario, Upstream, line, rows, run};

/// As a share of the long runs.
const SCALE: f64 = 0.25;
const SEEDS: [u64; 2] = [11, 12];

#[test]
fn stationary_loads_stay_near_the_best_fixed_policy() {
    hold_the_bars(|name| name.starts_with("U1") && !is_moving(name));
}

#[test]
fn parallel_upstreams_stay_near_the_best_fixed_policy() {
    let others = ["U1", "model", "database", "busy machine"];
    hold_the_bars(|name| !others.iter().any(|other| name.starts_with(other)) && !is_moving(name));
}

#[test]
fn changing_loads_and_upstreams_stay_near_the_best_fixed_policy() {
    hold_the_bars(is_moving);
}

#[test]
fn pages_of_many_calls_stay_near_the_best_fixed_policy() {
    hold_the_bars(|name| name.ends_with("pages"));
}

/// The first batch of a burst is slowed by those that leave after it: judged by how many were in
/// flight when it left, a wider window costs nothing there.
#[test]
fn batches_hold_where_all_share_a_busy_machine() {
    for row in rows(SCALE).iter().filter(|row| row.name.starts_with("busy")) {
        for seed in 11..16 {
            let report = run(&row.scenario, Policy::Adaptive, seed);
            assert!(report.batch > 8.0, "{}, seed {seed}: {report:?}", row.name);
        }
    }
}

fn is_moving(name: &str) -> bool {
    name.contains("step") || name.contains("slower")
}

#[track_caller]
fn hold_the_bars(which: impl Fn(&str) -> bool) {
    for row in rows(SCALE).iter().filter(|row| row.barred && which(row.name)) {
        let line = line(row, &SEEDS);
        let (mean, p99) = (line.mean_ratio(), line.p99_ratio());
        assert!(
            !line.collapsed(),
            "{}: overloaded where a fixed policy is not: {line:?}",
            row.name
        );
        assert!(
            mean <= 1.4 && p99 <= 1.4,
            "{}: mean {mean:.2}, p99 {p99:.2} of the best: {line:?}",
            row.name
        );
    }
}

#[test]
fn the_model_server_is_used_to_nine_tenths_and_timers_are_beaten() {
    for row in rows(SCALE).iter().filter(|row| row.name.starts_with("model")) {
        let line = line(row, &SEEDS);
        if line.closed {
            assert!(line.mean_ratio() <= 1.0 / 0.9, "{}: {line:?}", row.name);
            continue;
        }
        let timer = line
            .fixed
            .iter()
            .find(|cell| cell.title == "timer 2 ms, 1 in flight")
            .unwrap();
        let faster = line.adaptive.p50 < timer.report.p50 && line.adaptive.p99 < timer.report.p99;
        assert!(faster, "{}: {line:?}", row.name);
    }
}

#[test]
fn a_lone_caller_waits_for_nothing_and_nothing_wakes_up() {
    let row = lone(Upstream {
        noise: 0.0,
        ..Upstream::serial()
    });
    let report = run(&row.scenario, Policy::Adaptive, 1);
    assert!(
        (report.mean - 4.55).abs() < 0.001 && (report.p99 - 4.55).abs() < 0.001,
        "{report:?}"
    );
    assert_eq!(report.idle_wakes, 0);
}

fn lone(upstream: Upstream) -> Row {
    let scenario = Scenario {
        upstream,
        load: Load::Closed(1, 0.01),
        seconds: 5.0,
        warm_up: 0.0,
        sidecars: 1,
        body: 0.001,
        max_size: 32,
    };
    Row {
        name: "lone",
        scenario,
        barred: true,
    }
}
