//! The exposition as a scraper reads it, and its cap.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;

use super::*;

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn families(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect()
}

/// Counts every label of every handle once.
fn touch_all(backend: &BackendMetrics, routes: &[Arc<RouteMetrics>]) {
    fn each<L: Label>(cells: &Labelled<L>) {
        L::ALL.iter().for_each(|label| cells.inc(*label));
    }
    each(&backend.errors);
    each(&backend.mirrored);
    each(&backend.faults);
    each(&backend.upstream_calls);
    each(&backend.upstream_replies);
    each(&backend.pass_through.replies);
    for route in routes {
        each(&route.bypass);
        each(&route.calls.replies);
    }
}

#[test]
fn labels_are_their_own_index() {
    fn check<L: Label>() {
        for (n, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), n, "{}", label.text());
        }
        let texts: BTreeSet<_> = L::ALL.iter().map(|label| label.text()).collect();
        assert_eq!(texts.len(), L::ALL.len());
    }
    check::<Bypass>();
    check::<ErrorKind>();
    check::<FlushReason>();
    check::<ItemOutcome>();
    check::<BatchFailure>();
    check::<CancelStage>();
    check::<MirrorOutcome>();
    check::<Fault>();
    check::<UpstreamCall>();
    check::<StatusClass>();
    check::<Protocol>();
}

#[test]
fn every_family_is_there_before_anything_happened() {
    let metrics = Metrics::new();
    let empty = metrics.render();
    let backend = metrics.backend("users");
    let routes = metrics.routes(&backend, [("p/a", None)]);
    touch_all(&backend, &routes);
    let full = metrics.render();
    assert_eq!(families(&empty), families(&full));
    for name in [
        "jitney_batch_size",
        "jitney_batch_bytes",
        "jitney_batch_dispatch",
        "jitney_queue_wait_seconds",
        "jitney_queue_items",
        "jitney_queue_oldest_age_seconds",
        "jitney_batches_in_flight",
        "jitney_window",
        "jitney_concurrency_limit",
        "jitney_cost_fixed_seconds",
        "jitney_cost_per_item_seconds",
        "jitney_latency_inflation",
        "jitney_bypass",
        "jitney_keys",
        "jitney_key_evictions",
        "jitney_items",
        "jitney_upstream_calls_saved",
        "jitney_batch_failures",
        "jitney_bisect_calls",
        "jitney_poison_items",
        "jitney_cancelled",
        "jitney_late_replies",
    ] {
        assert!(families(&empty).contains(name), "{name}");
    }
    assert!(empty.ends_with("# EOF\n"));
}

#[test]
fn worst_case_stays_below_the_promised_number_of_series() {
    let metrics = Metrics::new();
    for backend in 0..50 {
        let backend = metrics.backend(&format!("backend-{backend}"));
        let names: Vec<String> = (0..500).map(|route| format!("policy/route-{route}")).collect();
        let routes = metrics.routes(&backend, names.iter().map(|name| (name.as_str(), None)));
        assert_eq!(routes.len(), 500);
        touch_all(&backend, &routes);
    }
    let text = metrics.render();
    let count = samples(&text).len();
    assert!(count < 3_000, "{count} series");
    assert!(text.contains(r#"backend="other",route="other""#), "{text}");
}

#[test]
fn known_route_keeps_its_counts_and_a_dropped_one_goes() {
    let metrics = Metrics::new();
    let backend = metrics.backend("users");
    let before = metrics.routes(&backend, [("p/kept", None), ("p/dropped", None)]);
    before[0].calls_saved.add(7);
    let after = metrics.routes(&backend, [("p/new", None), ("p/kept", None)]);
    assert_eq!(after[1].calls_saved.value(), 7);
    let text = metrics.render();
    assert!(!text.contains("p/dropped"), "{text}");
    assert!(
        text.contains(r#"jitney_upstream_calls_saved_total{backend="users",route="p/kept"} 7"#),
        "{text}"
    );
}

#[test]
fn label_text_is_escaped() {
    let metrics = Metrics::new();
    let backend = metrics.backend("a\"} 1\nevil 2");
    drop(metrics.routes(&backend, [("x\\y", None)]));
    let text = metrics.render();
    assert!(
        text.contains(r#"backend="a\"} 1\nevil 2",route="x\\y""#),
        "{text}"
    );
    assert!(!text.contains("\nevil"), "{text}");
}

#[test]
fn histogram_counts_a_bound_in_its_own_bucket() {
    let metrics = Metrics::new();
    let backend = metrics.backend("users");
    let route = metrics.routes(&backend, [("p/a", None)]).remove(0);
    for size in [1, 2, 2, 3, 1000] {
        route.batch_size.observe(size);
    }
    route.queue_wait.observe_time(Duration::from_millis(1));
    let text = metrics.render();
    for (le, count) in [("1.0", 1), ("2.0", 3), ("4.0", 4), ("128.0", 4), ("+Inf", 5)] {
        let line = format!(r#"jitney_batch_size_bucket{{le="{le}",backend="users",route="p/a"}} {count}"#);
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(
        text.contains(r#"jitney_batch_size_sum{backend="users",route="p/a"} 1008.0"#),
        "{text}"
    );
    assert!(
        text.contains(r#"jitney_queue_wait_seconds_bucket{le="0.001",backend="users",route="p/a"} 1"#),
        "{text}"
    );
}

#[test]
fn gauges_are_read_from_their_source_while_it_lives() {
    struct Fixed;
    impl GaugeSource for Fixed {
        fn gauges(&self) -> Gauges {
            Gauges {
                queue_items: 3,
                window: 2.5,
                concurrency_limit: Some(7),
                ..Gauges::default()
            }
        }
    }
    let metrics = Metrics::new();
    let backend = metrics.backend("users");
    let source: Arc<dyn GaugeSource> = Arc::new(Fixed);
    backend.read_from(Arc::downgrade(&source));
    let text = metrics.render();
    assert!(
        text.contains(r#"jitney_queue_items{backend="users"} 3.0"#),
        "{text}"
    );
    assert!(text.contains(r#"jitney_window{backend="users"} 2.5"#), "{text}");
    let learned = r#"jitney_concurrency_limit{backend="users"} 7.0"#;
    assert!(text.contains(learned), "{text}");
    drop(source);
    assert!(!metrics.render().contains("jitney_concurrency_limit{"));
    assert!(
        metrics
            .render()
            .contains(r#"jitney_queue_items{backend="users"} 0.0"#)
    );
}

#[test]
fn answered_calls_count_by_class() {
    let metrics = Metrics::new();
    let backend = metrics.backend("users");
    backend
        .pass_through
        .answered(StatusCode::NOT_FOUND, Duration::from_millis(3));
    let text = metrics.render();
    let line = r#"jitney_calls_total{backend="users",route="",class="4xx"} 1"#;
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_route_that_comes_back_is_counted_on() {
    let metrics = Metrics::new();
    let backend = metrics.backend("users");
    let first = metrics.routes(&backend, [("p/a", None)]).remove(0);
    first
        .calls
        .answered(StatusCode::BAD_GATEWAY, Duration::from_millis(1));
    assert!(metrics.routes(&backend, []).is_empty());
    let again = metrics
        .routes(&backend, [("p/a", Some(Arc::clone(&first)))])
        .remove(0);
    assert!(Arc::ptr_eq(&first, &again));
    let (all, none) = (metrics.tally(|_| true), metrics.tally(|name| name == "another"));
    assert_eq!((all.calls, all.failed, none), (1, 1, Tally::default()));
}
