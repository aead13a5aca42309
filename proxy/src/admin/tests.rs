//! The admin endpoint, asked over a socket of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use jitney_core::policy::Policy;
use serde_json::json;

use super::inspect::{BatchView, EndpointView, LaneView, Left, Outcome, RecentBatches};
use super::*;
use crate::log::Format;
use crate::memory::Memory;
use crate::metrics::{BackendMetrics, Gauges};

const EVIL: &str = "<script>alert(1)</script>";

/// A backend whose every text is an attack.
struct Hostile {
    metrics: Arc<BackendMetrics>,
    batches: RecentBatches,
}

impl BackendView for Hostile {
    fn name(&self) -> &str {
        EVIL
    }

    fn metrics(&self) -> Arc<BackendMetrics> {
        Arc::clone(&self.metrics)
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            window: 2.0,
            ..Gauges::default()
        }
    }

    fn lanes(&self) -> Vec<LaneView> {
        let oldest = Duration::from_millis(3);
        vec![LaneView {
            route: EVIL.into(),
            key: EVIL.into(),
            items: 1,
            bytes: 2,
            oldest,
            max_size: 8,
        }]
    }

    fn endpoints(&self) -> Vec<EndpointView> {
        vec![EndpointView {
            address: EVIL.into(),
            secured: None,
            zone: Some(EVIL.into()),
            is_healthy: true,
            note: EVIL.into(),
            load: 0.5,
            in_flight: 1,
            connections: 2,
        }]
    }

    fn recent(&self) -> Vec<BatchView> {
        self.batches.view(|key| String::from_utf8_lossy(key).into_owned())
    }
}

fn left(id: u64) -> Left {
    Left {
        id,
        route: "p/a".into(),
        key: EVIL.as_bytes().into(),
        members: 3,
        items: 4,
        bytes: 5,
        reason: "full",
        wait: Duration::from_millis(1),
        at: std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        outcome: None,
    }
}

struct Served {
    address: SocketAddr,
    admin: Admin,
}

fn serve() -> Served {
    static LOG: OnceLock<LogControl> = OnceLock::new();
    let log = LOG
        .get_or_init(|| LogControl::start(Format::Text, "off".parse().unwrap()).unwrap())
        .clone();
    let metrics = Metrics::new();
    let backend = metrics.backend(EVIL);
    drop(metrics.routes(&backend, [("p/a", None)]));
    let batches = RecentBatches::default();
    batches.note(left(1));
    let backends = Views::default();
    backends.replace([Arc::new(Hostile {
        metrics: backend,
        batches,
    }) as Arc<dyn BackendView>]);
    let policy = PolicyStatus::new(metrics.clone());
    policy.applied(Vec::new(), json!({}), Vec::new());
    let admin = Admin {
        policy: Arc::new(policy),
        control: None,
        memory: Memory::default(),
        listeners: watch::Sender::default().subscribe(),
        is_strict: watch::Sender::default().subscribe(),
        mesh: Mesh::default(),
        metrics,
        drain: Drain::new(),
        log,
        access_log: false,
        backends,
        probes: Probes::default(),
        settings: json!({"listen": EVIL}),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    jitney_api::program::serve(listener, router(admin.clone()), std::future::pending()).unwrap();
    Served { address, admin }
}

impl Served {
    /// Status, head and body of the reply.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let host = if headers.contains("host:") {
            ""
        } else {
            "host: localhost\r\n"
        };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refused the head may have closed already.
        drop(stream.write_all(body.as_bytes()));
        let mut reply = String::new();
        drop(stream.read_to_string(&mut reply));
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0);
        (status, head.to_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        self.ask("GET", path, "", "")
    }
}

#[test]
fn nothing_is_asked_of_the_service_but_what_is_named() {
    let (status, _, told) = serve().get("/probes/users/liveness");
    assert_eq!((status, &*told), (404, "no such probe\n"));
}

#[test]
fn every_route_answers_and_the_others_do_not() {
    let served = serve();
    for path in [
        "/",
        "/ready",
        "/live",
        "/metrics",
        "/config",
        "/batches",
        "/backends",
        "/log-level",
    ] {
        assert_eq!(served.get(path).0, 200, "{path}");
        let (status, _, body) = served.ask("HEAD", path, "", "");
        assert_eq!((status, body.as_str()), (200, ""), "HEAD {path}");
    }
    for path in [
        "/nowhere",
        "/metrics/",
        "/config/..",
        "//",
        "/%2e",
        "/ready?x=1/../drain/x",
    ] {
        let expected = if path.starts_with("/ready?") { 200 } else { 404 };
        assert_eq!(served.get(path).0, expected, "{path}");
    }
}

#[test]
fn wrong_method_is_405_and_says_which_are_right() {
    let served = serve();
    for (method, path, allowed) in [
        ("POST", "/", "get"),
        ("DELETE", "/metrics", "get"),
        ("POST", "/ready", "get"),
        ("POST", "/config", "get"),
        ("GET", "/explain", "post"),
        ("GET", "/drain", "post"),
        ("PUT", "/drain", "post"),
        ("DELETE", "/log-level", "put"),
    ] {
        let (status, head, _) = served.ask(method, path, "", "");
        assert_eq!(status, 405, "{method} {path}");
        let allow = head
            .lines()
            .find_map(|line| line.strip_prefix("allow: "))
            .unwrap_or_default();
        assert!(allow.contains(allowed), "{method} {path}: {head}");
    }
    assert!(!served.admin.drain.is_draining());
}

#[test]
fn without_a_policy_in_force_it_is_not_ready_and_shows_the_control_plane() {
    let served = serve();
    let metrics = Metrics::new();
    let standing = control::Standing {
        fault: Some("cannot connect".into()),
        resources: [((jitney_api::push::Kind::Policy, "shop/users".into()), "1".into())].into(),
        ..control::Standing::default()
    };
    let admin = Admin {
        policy: Arc::new(PolicyStatus::new(metrics)),
        control: Some(Arc::new(parking_lot::Mutex::new(standing))),
        ..served.admin
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    jitney_api::program::serve(listener, router(admin.clone()), std::future::pending()).unwrap();
    let served = Served { address, admin };
    assert_eq!(served.get("/ready").0, 503);
    assert_eq!(served.get("/live").0, 200);
    let config: serde_json::Value = serde_json::from_str(&served.get("/config").2).unwrap();
    assert_eq!(config["controlPlane"]["fault"], "cannot connect");
    assert_eq!(config["controlPlane"]["resources"][0]["name"], "shop/users");
}

#[test]
fn drain_makes_it_not_ready_but_alive() {
    let served = serve();
    assert_eq!(served.ask("POST", "/drain", "", "").0, 202);
    assert!(served.admin.drain.is_draining());
    assert_eq!(served.get("/ready").0, 503);
    assert_eq!(served.get("/live").0, 200);
    assert_eq!(served.ask("POST", "/drain", "", "").0, 202);
}

#[test]
fn web_pages_and_proxied_calls_change_nothing() {
    let served = serve();
    for headers in [
        "origin: http://evil.example\r\n",
        "via: 1.1 gateway\r\n",
        "x-forwarded-for: 10.0.0.7\r\n",
    ] {
        assert_eq!(served.ask("POST", "/drain", headers, "").0, 403, "{headers}");
        assert_eq!(
            served.ask("PUT", "/log-level", headers, "off").0,
            403,
            "{headers}"
        );
        assert_eq!(served.ask("GET", "/log-level", headers, "").0, 200, "{headers}");
    }
    assert!(!served.admin.drain.is_draining());
}

#[test]
fn log_level_is_checked_before_it_is_set() {
    let served = serve();
    let (status, _, body) = served.ask("PUT", "/log-level", "", "verbose");
    assert_eq!(status, 400);
    assert!(body.contains("`verbose` is not a log level"), "{body}");
    let (status, _, body) = served.ask("POST", "/log-level", "", "error,access=off\n");
    assert_eq!((status, body.as_str()), (200, "error,access=off\n"));
    assert_eq!(served.ask("PUT", "/log-level", "", "off").0, 200);
    assert_eq!(served.get("/log-level").2, "off\n");
}

#[test]
fn hostile_text_never_becomes_markup() {
    let served = serve();
    served.admin.policy.refused(vec![format!("p.yaml:1:2: {EVIL}")]);
    for path in ["/config", "/batches", "/backends"] {
        let (_, head, body) = served.get(path);
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(value.to_string().contains(EVIL), "{path}: {body}");
    }
    let (_, head, page) = served.get("/");
    assert!(!page.contains(EVIL));
    for hole in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "{{nonce}}",
    ] {
        assert!(!page.contains(hole), "{hole}");
    }
    let nonce = |page: &str| page.split("nonce=\"").nth(1).unwrap()[..32].to_owned();
    assert!(
        head.contains(&format!("script-src 'nonce-{}'", nonce(&page))),
        "{head}"
    );
    assert!(head.contains("default-src 'none'"), "{head}");
    assert_ne!(nonce(&page), nonce(&served.get("/").2));
    let outside = ["http://", "https://"].map(|scheme| page.matches(scheme).count());
    // The namespace of SVG twice, and the example in the footer: nothing is fetched from elsewhere.
    assert_eq!(outside, [3, 0]);
    assert_eq!(
        served.get(&format!("/{}", "%3Cscript%3E")).2,
        "no such page; / lists what there is\n"
    );
}

#[test]
fn refusal_stays_visible_until_and_after_the_next_good_policy() {
    let served = serve();
    let config = || serde_json::from_str::<serde_json::Value>(&served.get("/config").2).unwrap();
    assert_eq!(config()["refusal"], json!(null));
    let good = || {
        served
            .admin
            .policy
            .applied(vec!["p.yaml".into()], json!({"password": "t0p"}), vec![])
    };
    assert_eq!(good(), 2);
    served
        .admin
        .policy
        .refused(vec!["p.yaml:3:7: spec.routes[0].codec: no such preset".into()]);
    let seen = config();
    assert_eq!(seen["policy"]["generation"], 2);
    assert_eq!(seen["policy"]["effective"]["password"], "***");
    assert_eq!(
        seen["refusal"]["faults"][0],
        "p.yaml:3:7: spec.routes[0].codec: no such preset"
    );
    assert_eq!(seen["refusal"]["current"], true);
    assert!(served.get("/metrics").2.contains("jitney_policy_faulty 1"));
    assert_eq!(good(), 3);
    assert_eq!(config()["refusal"]["current"], false);
    assert!(
        served
            .get("/metrics")
            .2
            .contains("jitney_policy_refusals_total 1")
    );
}

#[test]
fn explain_takes_a_request_as_text() {
    let served = serve();
    let (status, _, body) = served.ask("POST", "/explain", "", "GET /users/7 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(status, 200);
    assert!(body.contains("no route matches"), "{body}");
    assert_eq!(
        served
            .ask("POST", "/explain?backend=none", "", "GET / HTTP/1.1\r\n\r\n")
            .0,
        404
    );
    let (status, _, body) = served.ask("POST", "/explain", "", "GET /\nbroken");
    assert_eq!((status, body.as_str()), (400, "line 2: expected NAME: VALUE\n"));
    let large = "x".repeat(EXPLAIN_BYTES_MAX + 1);
    assert_eq!(served.ask("POST", "/explain", "", &large).0, 413);
}

#[test]
fn scrape_says_that_it_is_open_metrics() {
    let (_, head, body) = serve().get("/metrics");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn ring_keeps_the_latest_and_learns_their_outcome() {
    let ring = RecentBatches::default();
    for id in 0..100 {
        ring.note(left(id));
    }
    ring.finish(99, Duration::from_millis(4), Outcome::AskedAlone(2));
    ring.finish(98, Duration::from_millis(4), Outcome::Failed("count"));
    ring.finish(3, Duration::from_millis(4), Outcome::Split);
    let seen = ring.view(|_| String::new());
    assert_eq!(seen.len(), 64);
    assert_eq!((seen[0].id, seen[63].id), (99, 36));
    let outcomes: Vec<_> = seen.iter().take(3).map(|batch| batch.outcome.as_str()).collect();
    assert_eq!(outcomes, ["split, 2 asked alone", "failed: count", "in flight"]);
    assert_eq!(
        (seen[0].duration, seen[2].duration),
        (Some(Duration::from_millis(4)), None)
    );
}
