//! `backendRefs`: the calls that come to a backend, shared out over several.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{get, request};
use jitney_tests::wait::{self, PATIENCE};
use jitney_tests::{Caller, Reply, TestControlPlane, TestProxy, TestUpstream, model};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::pushed::free_ports;
use crate::shared::{alone, together};

/// Two backends, of which `users` has a listener, and a policy for it.
fn config(users: SocketAddr, next: SocketAddr, more: &str, policy: &str) -> String {
    format!(
        "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['{users}']{more}}}\n---\n\
         kind: Backend\nmetadata: {{name: next}}\nspec: {{endpoints: ['{next}']{more}}}\n---\n\
         kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '127.0.0.1:0', backend: users}}\n---\n\
         kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: Backend, name: users}}]\n{policy}"
    )
}

fn shares(users: u32, next: u32) -> String {
    format!(
        "  traffic: {{backendRefs: [{{name: users, weight: {users}}}, {{name: next, weight: {next}}}]}}\n"
    )
}

async fn named(name: &'static str) -> TestUpstream {
    TestUpstream::start(move |_| Reply::json(200, format!("\"{name}\""))).await
}

/// Calls answered for each backend.
async fn calls(proxy: &TestProxy) -> [f64; 2] {
    let of = async |backend: &str| {
        let label = format!("backend=\"{backend}\"");
        proxy.metric("jitney_calls_total", &label).await
    };
    [of("users").await, of("next").await]
}

/// Whether `found` of `calls` is what a share gives but once in a million runs: within five standard deviations.
#[track_caller]
fn is_share(found: f64, calls: f64, share: f64) {
    let (mean, deviation) = (calls * share, (calls * share * (1.0 - share)).sqrt());
    assert!(
        (found - mean).abs() <= 5.0 * deviation,
        "{found} of {calls}, expected {mean} give or take {deviation}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_wholly_the_backends_that_it_was_given_to() {
    const CALLS: usize = 2000;
    let (users, next) = (named("users").await, named("next").await);
    let text = config(users.address, next.address, "", &shares(3, 1));
    let proxy = TestProxy::with().config(text).arg("--access-log").start().await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    let mut of_next = 0;
    for _ in 0..CALLS {
        let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
        of_next += usize::from(answer.text() == "\"next\"");
    }
    is_share(of_next as f64, CALLS as f64, 0.25);
    assert_eq!(next.seen().len(), of_next);
    let both = [CALLS - of_next, of_next].map(|count| count as f64);
    assert_eq!(calls(&proxy).await, both);
    let lines = |backend: &str| proxy.log().matches(&format!("backend=\"{backend}\"")).count() >= 100;
    wait::until("the access log tells which", || lines("next") && lines("users")).await;
    let explained =
        jitney_tests::caller::call(proxy.admin, request("POST", "/explain", &[], "GET /x\n")).await;
    let explained = explained.unwrap().text();
    assert!(
        explained.contains("backend: users\nshared out: users 75 %, next 25 %\nroute: none\n"),
        "{explained}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_calls_of_one_backend_by_its_own_policy() {
    const ROUNDS: usize = 20;
    const CALLERS: usize = 100;
    let (users, next) = (
        TestUpstream::start(model::users).await,
        TestUpstream::start(model::users).await,
    );
    let route = |size: usize| {
        format!(
            "  routes:\n  - match: {{method: GET, path: {{type: Template, value: \"/users/{{id}}\"}}}}\n    \
             codec: {{keyedGet: {{batchPath: \"/users?ids={{id}}\", key: /id}}}}\n    \
             batch: {{maxSize: {size}, dispatch: Fixed, timeout: 20ms}}\n"
        )
    };
    let policy = shares(1, 1)
        + &route(20)
        + "---\nkind: BatchPolicy\nmetadata: {name: q}\nspec:\n  targetRefs: [{kind: Backend, name: next}]\n"
        + &route(5);
    let proxy = TestProxy::with().config(config(users.address, next.address, "", &policy));
    let proxy = proxy.start().await;
    for _ in 0..ROUNDS {
        let ids = 0..CALLERS;
        let answers = ids
            .clone()
            .map(|id| request("GET", &format!("/users/{id}"), &[], ""));
        let answers = together(proxy.address, answers.collect()).await;
        for (id, answer) in ids.zip(&answers) {
            assert_eq!(
                (answer.status, answer.text()),
                (200, model::user(&id.to_string(), ""))
            );
        }
    }
    let [stayed, went] = calls(&proxy).await;
    assert_eq!(stayed + went, (ROUNDS * CALLERS) as f64);
    is_share(went, stayed + went, 0.5);
    let sent = [&users, &next].map(|upstream| upstream.seen().len() as f64);
    assert!(sent[0] <= stayed / 4.0, "{stayed} calls in {} requests", sent[0]);
    assert!(
        (went / 5.0..=went / 2.0).contains(&sent[1]),
        "{went} calls in {}",
        sent[1]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_give_to_each_other_do_so_once() {
    let (users, next) = (named("users").await, named("next").await);
    let policy = "  traffic: {backendRefs: [{name: next}], rateLimit: {requestsPerSecond: 0.01}}\n---\n\
                  kind: BatchPolicy\nmetadata: {name: q}\nspec:\n  targetRefs: [{kind: Backend, name: next}]\n  \
                  traffic: {backendRefs: [{name: users}]}\n---\n\
                  kind: Listener\nmetadata: {name: out}\nspec: {address: '127.0.0.1:0', backend: next}\n";
    let proxy = TestProxy::with().config(config(users.address, next.address, "", policy));
    let proxy = proxy.start().await;
    let log = proxy.log();
    let other = log
        .lines()
        .find(|line| line.contains("listening") && line.contains("next"))
        .unwrap();
    let other = other.split("address=").nth(1).unwrap().split(' ').next().unwrap();
    let of_users = get(proxy.address, "/x").await.unwrap();
    assert_eq!(of_users.text(), "\"next\"");
    // Whose listener is called is asked first, and so is who gets the call.
    let limited = get(proxy.address, "/x").await.unwrap();
    assert_eq!(
        (limited.status, limited.header("x-jitney-error")),
        (429, "rate_limited")
    );
    let limited = get(other.parse().unwrap(), "/x").await.unwrap();
    assert_eq!((limited.status, users.seen().len()), (429, 0));
    assert_eq!(calls(&proxy).await, [2.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_change_while_calls_go_on() {
    let (users, next) = (named("users").await, named("next").await);
    let text = |policy: &str| config(users.address, next.address, "", policy);
    let proxy = TestProxy::with().config(text("  traffic: {}\n")).start().await;
    for (policy, expected) in [
        (shares(0, 1), "\"next\""),
        (shares(1, 0), "\"users\""),
        (shares(0, 7), "\"next\""),
        ("  traffic: {}\n".to_owned(), "\"users\""),
    ] {
        std::fs::write(proxy.policy_path(), text(&policy)).unwrap();
        let end = Instant::now() + PATIENCE;
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let answer = alone(proxy.address, request("GET", "/x", &[], "")).await;
            assert_eq!(answer.status, 200);
            in_a_row = if answer.text() == expected {
                in_a_row + 1
            } else {
                0
            };
            assert!(Instant::now() < end, "never {expected}");
        }
    }
}

/// A server that says its name at once, or in place of the reply to a request that asks for another protocol.
async fn greeter(name: &'static str, speaks_first: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !speaks_first && !read.ends_with(b"\r\n\r\n") {
                    read.push(stream.read_u8().await?);
                }
                if !speaks_first {
                    let head =
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: names\r\n\r\n";
                    stream.write_all(head.as_bytes()).await?;
                }
                stream.write_all(name.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// What comes last on a connection over which this is said.
async fn hears(address: SocketAddr, said: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(said.as_bytes()).await?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    Ok(heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_upgrades_are_shared_out_too() {
    const UPGRADE: &str = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: names\r\n\r\n";
    for (more, speaks_first, said) in [(", protocol: TCP", true, ""), ("", false, UPGRADE)] {
        let (users, next) = (
            greeter("<users>", speaks_first).await,
            greeter("<next>", speaks_first).await,
        );
        let proxy = TestProxy::with().config(config(users, next, more, &shares(1, 1)));
        let proxy = proxy.start().await;
        let heard: JoinSet<_> = (0..100).map(|_| hears(proxy.address, said)).collect();
        let mut of_next = 0;
        for heard in heard.join_all().await {
            let heard = heard.unwrap();
            assert!(heard.ends_with("<users>") || heard.ends_with("<next>"), "{heard}");
            of_next += usize::from(heard.ends_with("<next>"));
        }
        is_share(of_next as f64, 100.0, 0.5);
    }
}

/// Calls without a pause until it is told to stop, and counts by whom they were answered.
struct Caravan {
    stop: Arc<AtomicBool>,
    /// Since when only the next one answers.
    in_a_row: Arc<AtomicUsize>,
    of_next: Arc<AtomicUsize>,
    running: tokio::task::JoinHandle<usize>,
}

impl Caravan {
    fn start(address: SocketAddr) -> Self {
        let (stop, of_next) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let in_a_row = Arc::<AtomicUsize>::default();
        let (until, count, row) = (Arc::clone(&stop), Arc::clone(&of_next), Arc::clone(&in_a_row));
        let running = tokio::spawn(async move {
            let mut calls = 0;
            let mut caller = Caller::h1(address).await.unwrap();
            while !until.load(Ordering::SeqCst) {
                let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                if answer.text() == "\"next\"" {
                    count.fetch_add(1, Ordering::SeqCst);
                    row.fetch_add(1, Ordering::SeqCst);
                } else {
                    row.store(0, Ordering::SeqCst);
                }
                calls += 1;
                sleep(Duration::from_millis(1)).await;
            }
            calls
        });
        Self {
            stop,
            in_a_row,
            of_next,
            running,
        }
    }

    /// Returns once so many calls more were answered by the next one.
    async fn meets_next(&self) {
        let enough = self.of_next.load(Ordering::SeqCst) + 20;
        wait::until("the next one answers", || {
            self.of_next.load(Ordering::SeqCst) >= enough
        })
        .await;
    }

    async fn ends(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.running.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_sent_the_backends_that_a_pushed_policy_names() {
    let (users, next) = (named("users").await, named("next").await);
    let [port] = free_ports();
    let documents = |policy: &str| {
        format!(
            "kind: Backend\nmetadata: {{name: users, namespace: shop}}\nspec: {{endpoints: ['{}']}}\n---\n\
             kind: Backend\nmetadata: {{name: next, namespace: shop}}\nspec: {{endpoints: ['{}']}}\n---\n\
             kind: Backend\nmetadata: {{name: stranger, namespace: shop}}\nspec: {{endpoints: ['10.9.9.9:80']}}\n---\n\
             kind: Listener\nmetadata: {{name: out, namespace: shop}}\n\
             spec: {{address: '127.0.0.1:{port}', backend: users, workload: web}}\n---\n\
             kind: BatchPolicy\nmetadata: {{name: users, namespace: shop}}\nspec:\n  placement: Outbound\n  \
             targetRefs: [{{kind: Backend, name: users}}]\n{policy}",
            users.address, next.address
        )
    };
    let plane = TestControlPlane::start(&documents("")).await;
    let proxy = plane.sidecar("shop/web", "web").pushed().start().await;
    let caravan = Caravan::start(proxy.address);
    plane.write(&documents(&shares(1, 1)));
    caravan.meets_next().await;
    let config = proxy.admin("/config").await.text();
    assert!(
        config.contains("shop/next") && !config.contains("shop/stranger"),
        "{config}"
    );
    // It goes again, and what named it before.
    plane.write(&documents(""));
    let is_gone = async || !proxy.admin("/backends").await.text().contains("shop/next");
    let end = Instant::now() + PATIENCE;
    while !is_gone().await {
        assert!(Instant::now() < end, "{}", proxy.log());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(caravan.ends().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callees_sidecar_shares_out_what_comes_for_the_service_beside_it() {
    let (users, next) = (named("users").await, named("next").await);
    let [port] = free_ports();
    let documents = |users_share: u32| {
        format!(
            "kind: Backend\nmetadata: {{name: users, namespace: shop}}\nspec: {{endpoints: ['127.0.0.1:{port}']}}\n---\n\
             kind: Backend\nmetadata: {{name: next, namespace: shop}}\nspec: {{endpoints: ['{}']}}\n---\n\
             kind: Listener\nmetadata: {{name: in, namespace: shop}}\n\
             spec: {{address: '127.0.0.1:{port}', backend: users, local: '{}'}}\n---\n\
             kind: BatchPolicy\nmetadata: {{name: users, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Backend, name: users}}]\n{}",
            next.address,
            users.address,
            shares(users_share, 1)
        )
    };
    let plane = TestControlPlane::start(&documents(1)).await;
    let proxy = plane.sidecar("shop/users", "users").pushed().start().await;
    let caravan = Caravan::start(proxy.address);
    caravan.meets_next().await;
    assert!(!users.seen().is_empty(), "some stay");
    plane.write(&documents(0));
    wait::until("none stays", || caravan.in_a_row.load(Ordering::SeqCst) >= 40).await;
    assert!(caravan.ends().await > 40);
}
