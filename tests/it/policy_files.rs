//! Policy and configuration files that change under the real sidecar.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{Caller, get, request};
use jitney_tests::{Reply, Route, Seen, TestProxy, TestUpstream, model, policy as policies};
use serde_json::{Value, from_str};
use tokio::time::Instant;

use crate::shared::{instances, items_queued, predict, together};

fn policy(route: &str) -> String {
    format!(
        r#"
kind: BatchPolicy
metadata: {{name: users}}
spec:
  mode: Active
  routes:
  - name: {route}
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
"#
    )
}

async fn echo(name: &'static str) -> TestUpstream {
    TestUpstream::start(move |_| Reply::json(200, format!("{{\"from\":\"{name}\"}}"))).await
}

async fn config(proxy: &TestProxy) -> Value {
    from_str(&proxy.admin("/config").await.text()).unwrap()
}

/// Waits until `/config` satisfies `fact`; returns how long that took.
#[track_caller]
fn shows(proxy: &TestProxy, fact: impl Fn(&Value) -> bool) -> impl Future<Output = Duration> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let seen = config(proxy).await;
            if fact(&seen) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{place}: {seen:#}\n{}",
                proxy.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn runs_route(route: &str) -> impl Fn(&Value) -> bool {
    let name = Value::from(format!("users/{route}"));
    move |config| config["policy"]["effective"]["backends"][0]["routes"][0] == name
}

#[tokio::test]
async fn change_is_in_force_within_two_seconds_whatever_way_it_is_made() {
    let upstream = echo("a").await;
    let proxy = TestProxy::start(upstream.address, &policy("first")).await;
    let path = proxy.policy_path();
    let two_seconds = Duration::from_secs(2);

    fs::write(path, policy("in-place")).unwrap();
    assert!(shows(&proxy, runs_route("in-place")).await < two_seconds);

    let beside = path.with_extension("tmp");
    fs::write(&beside, policy("renamed")).unwrap();
    fs::rename(&beside, path).unwrap();
    assert!(shows(&proxy, runs_route("renamed")).await < two_seconds);

    let folder = path.parent().unwrap();
    for version in ["v1", "v2"] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("policy.yaml"), policy(version)).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if version == "v1" {
            std::os::unix::fs::symlink("..data/policy.yaml", &beside).unwrap();
            fs::rename(&beside, path).unwrap();
        }
        assert!(shows(&proxy, runs_route(version)).await < two_seconds);
    }
}

#[tokio::test]
async fn faulty_change_is_refused_shown_and_leaves_the_last_good_policy() {
    let upstream = echo("a").await;
    let proxy = TestProxy::start(upstream.address, &policy("good")).await;
    let generation = config(&proxy).await["policy"]["generation"].clone();

    let faulty = policy("bad").replace("codec:", "kodek:");
    fs::write(proxy.policy_path(), &faulty).unwrap();
    shows(&proxy, |config| config["refusal"]["current"] == true).await;
    let seen = config(&proxy).await;
    let place = format!("{}:9:5: ", proxy.policy_path().display());
    let faults = seen["refusal"]["faults"].as_array().unwrap();
    assert!(
        faults
            .iter()
            .any(|fault| fault.as_str().unwrap().starts_with(&place)),
        "{faults:#?}"
    );
    assert!(runs_route("good")(&seen), "{seen:#}");
    assert_eq!(seen["policy"]["generation"], generation);
    assert_eq!(proxy.metric("jitney_policy_refusals_total", "").await, 1.0);
    assert_eq!(proxy.metric("jitney_policy_faulty", "").await, 1.0);
    assert_eq!(
        proxy.log().matches(&place).count(),
        1,
        "logged once:\n{}",
        proxy.log()
    );
    assert_eq!(get(proxy.address, "/else").await.unwrap().status, 200);

    fs::remove_file(proxy.policy_path()).unwrap();
    shows(&proxy, |config| {
        config["refusal"]["faults"][0]
            .as_str()
            .is_some_and(|fault| fault.contains("no such file"))
    })
    .await;
    fs::write(proxy.policy_path(), policy("better")).unwrap();
    shows(&proxy, runs_route("better")).await;
    let seen = config(&proxy).await;
    assert_eq!(seen["refusal"]["current"], false);
    assert_eq!(proxy.metric("jitney_policy_faulty", "").await, 0.0);
}

/// Callers that keep calling until told to stop, each on its own connection.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(proxy: &TestProxy, callers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let address = proxy.address;
        let one = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                let mut caller = Caller::h1(address).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match caller.call(request("GET", "/users/1", &[], "")).await {
                        Ok(answer) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            if answer.header("connection") == "close" {
                                caller = Caller::h1(address).await.unwrap();
                            }
                        }
                        // A connection that is closed while idle is no lost call: HTTP has its callers try again.
                        other => {
                            wrong.push(format!("{other:?}"));
                            caller = Caller::h1(address).await.unwrap();
                        }
                    }
                }
                wrong
            })
        };
        Self {
            callers: (0..callers).map(one).collect(),
            stop,
            answered,
        }
    }

    async fn more(&self, calls: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + calls;
        jitney_tests::wait::until("calls are answered", || {
            self.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for caller in self.callers {
            wrong.extend(caller.await.unwrap());
        }
        wrong
    }
}

#[tokio::test]
async fn change_under_load_drops_no_call() {
    let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, r#"[{"id":1}]"#)).await;
    let proxy = TestProxy::start(upstream.address, &policy("r0")).await;
    let load = Load::start(&proxy, 8);
    for n in 1..=5 {
        load.more(100).await;
        fs::write(proxy.policy_path(), policy(&format!("r{n}"))).unwrap();
        shows(&proxy, runs_route(&format!("r{n}"))).await;
    }
    load.more(100).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

fn documents(listeners: &[(&str, &str, &str)], backends: &[(&str, &TestUpstream)]) -> String {
    let listeners = listeners.iter().map(|(name, address, backend)| {
        format!("kind: Listener\nmetadata: {{name: {name}}}\nspec: {{address: \"{address}\", backend: {backend}}}\n")
    });
    let backends = backends.iter().map(|(name, upstream)| {
        format!(
            "kind: Backend\nmetadata: {{name: {name}}}\nspec: {{endpoints: [\"{}\"]}}\n",
            upstream.address
        )
    });
    listeners.chain(backends).collect::<Vec<_>>().join("---\n")
}

async fn says(proxy: &TestProxy) -> String {
    get(proxy.address, "/").await.unwrap().text()
}

async fn applied(proxy: &TestProxy, path: &Path, text: &str, generation: u64) {
    fs::write(path, text).unwrap();
    shows(proxy, |config| config["policy"]["generation"] == generation).await;
}

#[tokio::test]
async fn listener_moves_to_another_backend_without_dropping_a_call() {
    let (a, b) = (echo("a").await, echo("b").await);
    let first = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a), ("b", &b)]);
    let proxy = TestProxy::with().config(first.as_str()).start().await;
    assert!(says(&proxy).await.contains("\"a\""));
    let second = documents(&[("in", "127.0.0.1:0", "b")], &[("a", &a), ("b", &b)]);
    applied(&proxy, proxy.policy_path(), &second, 2).await;
    assert!(says(&proxy).await.contains("\"b\""));
    // The same backend elsewhere.
    let third = documents(&[("in", "127.0.0.1:0", "b")], &[("b", &a)]);
    applied(&proxy, proxy.policy_path(), &third, 3).await;
    assert!(says(&proxy).await.contains("\"a\""));
}

#[tokio::test]
async fn listeners_come_and_go() {
    let a = echo("a").await;
    let one = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a)]);
    let proxy = TestProxy::with().config(one.as_str()).start().await;
    let two = documents(
        &[("in", "127.0.0.1:0", "a"), ("more", "127.0.0.1:0", "a")],
        &[("a", &a)],
    );
    applied(&proxy, proxy.policy_path(), &two, 2).await;
    let second = || {
        let log = proxy.log();
        let mut listening = log
            .lines()
            .filter(|line| line.contains("listening") && !line.contains("admin"));
        listening.nth(1).map(str::to_owned)
    };
    jitney_tests::wait::until("the log says where", || second().is_some()).await;
    let second = second().unwrap();
    let second = second
        .split("address=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(get(second, "/").await.unwrap().status, 200);
    applied(&proxy, proxy.policy_path(), &one, 3).await;
    jitney_tests::wait::until("nobody listens there", || {
        std::net::TcpStream::connect(second).is_err()
    })
    .await;
    assert!(says(&proxy).await.contains("\"a\""));
}

#[tokio::test]
async fn address_that_is_taken_refuses_the_whole_change() {
    let (a, b) = (echo("a").await, echo("b").await);
    let first = documents(&[("in", "127.0.0.1:0", "a")], &[("a", &a), ("b", &b)]);
    let proxy = TestProxy::with().config(first.as_str()).start().await;
    let taken = a.address.to_string();
    let second = documents(
        &[("in", "127.0.0.1:0", "b"), ("more", &taken, "a")],
        &[("a", &a), ("b", &b)],
    );
    fs::write(proxy.policy_path(), second).unwrap();
    shows(&proxy, |config| config["refusal"]["current"] == true).await;
    assert!(
        config(&proxy).await["refusal"]["faults"][0]
            .as_str()
            .unwrap()
            .contains(&taken)
    );
    assert!(says(&proxy).await.contains("\"a\""));
}

/// One listener and one backend with these endpoints and this policy.
fn one_backend(endpoints: &[&TestUpstream], policy: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|upstream| upstream.address.to_string())
        .collect();
    format!(
        "kind: Listener\nmetadata: {{name: in}}\nspec: {{address: \"127.0.0.1:0\"}}\n---\n\
         kind: Backend\nmetadata: {{name: a}}\nspec: {{endpoints: {endpoints:?}}}\n---\n{policy}"
    )
}

/// What `/backends` shows of the one backend.
async fn backend(proxy: &TestProxy) -> Value {
    let shown: Value = from_str(&proxy.admin("/backends").await.text()).unwrap();
    shown["backends"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_change_under_load_without_a_failed_call_and_nothing_learned_is_lost() {
    let user = |_: &Seen| Reply::json(200, r#"[{"id":1}]"#).after(Duration::from_millis(1));
    let (a, b) = (TestUpstream::start(user).await, TestUpstream::start(user).await);
    let with = |endpoints: &[&TestUpstream]| one_backend(endpoints, &policy("r"));
    let proxy = TestProxy::with().config(with(&[&a])).start().await;
    let path = proxy.policy_path();
    let load = Load::start(&proxy, 16);
    load.more(1000).await;
    for (generation, to_a, to_b) in [
        (2, true, true),
        (3, false, true),
        (4, true, false),
        (5, true, true),
    ] {
        let endpoints = [(&a, to_a), (&b, to_b)].into_iter().filter(|(_, wanted)| *wanted);
        let endpoints: Vec<_> = endpoints.map(|(upstream, _)| upstream).collect();
        applied(&proxy, path, &with(&endpoints), generation).await;
        // Those that were on their way are answered.
        load.more(200).await;
        [&a, &b].into_iter().for_each(TestUpstream::forget);
        load.more(200).await;
        let is_asked = |upstream: &TestUpstream| !upstream.seen().is_empty();
        // The one that answered faster so far may get more than one batch in a row.
        let each = || endpoints.iter().all(|endpoint| is_asked(endpoint));
        jitney_tests::wait::until("each endpoint is asked", each).await;
        assert_eq!([&a, &b].map(is_asked), [to_a, to_b], "generation {generation}");
    }
    assert_eq!(load.end().await, Vec::<String>::new());
    assert_eq!(proxy.metric("jitney_errors_total", "").await, 0.0);

    let before = backend(&proxy).await;
    applied(&proxy, path, &with(&[&b]), 6).await;
    let after = backend(&proxy).await;
    assert_eq!(
        after["endpoints"],
        Value::from(vec![before["endpoints"][1].clone()])
    );
    let learned = |backend: &Value| [backend["window"].clone(), backend["routes"].clone()];
    assert_eq!(learned(&after), learned(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_batch_leaves_for_the_endpoints_of_then() {
    let (a, b) = (
        TestUpstream::start(model::kserve).await,
        TestUpstream::start(model::kserve).await,
    );
    let policy = policies::active(&[Route::kserve().fixed(4)]);
    let proxy = TestProxy::with()
        .config(one_backend(&[&a], &policy))
        .start()
        .await;
    let call = |n: u32| predict(instances(&[&n.to_string()]));
    let address = proxy.address;
    let waiting = tokio::spawn(async move { together(address, (0..3).map(call).collect()).await });
    items_queued(&proxy, 3.0).await;
    applied(&proxy, proxy.policy_path(), &one_backend(&[&b], &policy), 2).await;
    let mut answers = together(address, vec![call(3)]).await;
    answers.extend(waiting.await.unwrap());
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!((a.seen().len(), b.seen().len()), (0, 1));
}

#[tokio::test]
async fn a_mesh_document_means_the_same_without_a_control_plane() {
    let service = TestUpstream::start(model::users).await;
    let documents = |runtime: &str| {
        format!(
            "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['127.0.0.1:9']}}\n---\n\
             kind: Listener\nmetadata: {{name: inbound}}\n\
             spec: {{address: '127.0.0.1:0', local: '{}'}}\n---{}\n---\n{runtime}",
            service.address,
            policy("by-id"),
        )
    };
    let proxy = TestProxy::with().config(documents("")).start().await;
    let answer = get(proxy.address, "/users/7").await.unwrap();
    assert_eq!(
        answer.text(),
        model::user("7", ""),
        "it went to the service beside it"
    );
    let runtime = "kind: Runtime\nmetadata: {name: users}\nspec: {logLevel: debug, mode: Disabled}\n";
    fs::write(proxy.policy_path(), documents(runtime)).unwrap();
    shows(&proxy, |config| config["policy"]["generation"] == 2).await;
    assert_eq!(proxy.admin("/log-level").await.text(), "debug\n");
    let backends: Value = from_str(&proxy.admin("/backends").await.text()).unwrap();
    let modes: Vec<&Value> = backends["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["routes"][0]["mode"])
        .collect();
    assert!(modes.iter().all(|mode| *mode == "Disabled"), "{backends:#}");
    assert_eq!(
        get(proxy.address, "/users/8").await.unwrap().text(),
        model::user("8", "")
    );
}
