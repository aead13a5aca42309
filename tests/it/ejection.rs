//! One endpoint of three goes bad under 500 calls a second: it is taken out, no call that may be
//! repeated fails from then on, retries keep to their budget, and one call at a time finds out whether
//! it is well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::request;
use jitney_tests::upstream::Ending;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Caller, Reply, Route, TestProxy, TestUpstream, policy};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::shared::together;

const TRAFFIC: &str = "  traffic:
    timeouts: {request: 15s, perTry: 300ms}
    loadBalancer: {type: RoundRobin}
    retry: {attempts: 3, on: [connect-failure, reset], budget: {ratio: 0.2, minPerSecond: 0}}
    circuitBreaker: {consecutiveFailures: 5, baseEjectionTime: 1s}
";
/// The share of calls that the policy lets be tried again.
const RATIO: f64 = 0.2;
/// Callers, and how often each calls: 500 calls a second.
const CALLERS: u32 = 25;
const EVERY: Duration = Duration::from_millis(50);
/// Calls before something happens and after it did.
const ENOUGH: usize = 500;

/// Three endpoints, the first of which has a switch, and a sidecar before them.
struct Stage {
    upstreams: Vec<TestUpstream>,
    /// What the first runs on: to kill it is to end this.
    first: Option<Runtime>,
    bad: Arc<AtomicBool>,
    proxy: TestProxy,
}

/// Calls at a steady pace until it is told to stop.
struct Load {
    tasks: JoinSet<()>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    stop: AtomicBool,
    /// The endpoint is out: no call that begins now may fail.
    is_out: AtomicBool,
    begun: AtomicUsize,
    failed_since: AtomicUsize,
    done_since: AtomicUsize,
}

impl Stage {
    async fn with(fault: Reply) -> Self {
        let bad = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&bad);
        let first = Runtime::new().unwrap();
        let faulty = first.spawn(TestUpstream::start(move |_| {
            if switch.load(Ordering::SeqCst) {
                fault.clone()
            } else {
                Reply::json(200, "1")
            }
        }));
        let mut upstreams = vec![faulty.await.unwrap()];
        for _ in 0..2 {
            upstreams.push(TestUpstream::start(|_| Reply::json(200, "1")).await);
        }
        let settings = upstreams.iter().fold(TestProxy::with(), |settings, upstream| {
            settings.upstream(upstream.address)
        });
        let text = policy::active(&[Route::kserve()]) + TRAFFIC;
        Self {
            proxy: settings.policy(text).start().await,
            upstreams,
            first: Some(first),
            bad,
        }
    }

    /// Waits until the sidecar says this of its first endpoint; empty for one that works.
    async fn until_noted(&self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let shown: Value = serde_json::from_slice(&self.proxy.admin("/backends").await.body).unwrap();
            let endpoint = &shown["backends"][0]["endpoints"][0];
            let (note, is_healthy) = (endpoint["note"].as_str().unwrap(), &endpoint["is_healthy"]);
            if (wanted.is_empty() && *is_healthy == true) || (!wanted.is_empty() && note.contains(wanted)) {
                return;
            }
            assert!(Instant::now() < end, "never {wanted:?}, but {note:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Calls flow while `go_bad` happens, and go on once the endpoint is out.
    async fn survives(&mut self, go_bad: impl FnOnce(&mut Self)) {
        let mut load = Load::start(&self.proxy);
        load.until("enough calls went well", |count| &count.begun, ENOUGH)
            .await;
        go_bad(self);
        self.until_noted("its calls failed").await;
        load.count.is_out.store(true, Ordering::SeqCst);
        load.until("enough calls went on", |count| &count.done_since, ENOUGH)
            .await;
        load.count.stop.store(true, Ordering::SeqCst);
        while load.tasks.join_next().await.is_some() {}
        let count = &load.count;
        assert_eq!(count.failed_since.load(Ordering::SeqCst), 0);
        let tries = async |kind| {
            let label = format!("kind=\"{kind}\"");
            self.proxy.metric("jitney_upstream_calls_total", &label).await
        };
        let (retries, elsewhere) = (tries("retry").await, tries("elsewhere").await);
        let allowed = RATIO * count.begun.load(Ordering::SeqCst) as f64;
        assert!(retries <= allowed, "{retries} retries, {allowed} allowed");
        assert!(retries + elsewhere >= 1.0);
    }

    /// Once its rest is over one call of many finds out how the endpoint is.
    async fn is_probed(&self) {
        let calls = || (0..6).map(|_| request("GET", "/x", &[], "")).collect();
        self.until_noted("the next one is a trial").await;
        self.upstreams[0].forget();
        let answers = together(self.proxy.address, calls()).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        // Sent twice, if it was given an idle connection that proved dead.
        let seen = self.upstreams[0].seen().len();
        assert!((1..=2).contains(&seen), "one on trial, which failed: {seen}");
        self.until_noted("gets none for").await;
        self.bad.store(false, Ordering::SeqCst);
        self.until_noted("the next one is a trial").await;
        let answers = together(self.proxy.address, calls()).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        self.until_noted("").await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            first.shutdown_background();
        }
    }
}

impl Load {
    fn start(proxy: &TestProxy) -> Self {
        let (mut tasks, count) = (JoinSet::new(), Arc::new(Count::default()));
        for _ in 0..CALLERS {
            let (count, address) = (Arc::clone(&count), proxy.address);
            tasks.spawn(async move {
                let mut caller = Caller::h1(address).await.unwrap();
                let mut pace = interval(EVERY);
                pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while !count.stop.load(Ordering::SeqCst) {
                    pace.tick().await;
                    count.call(&mut caller).await;
                }
            });
        }
        Self { tasks, count }
    }

    async fn until(&mut self, what: &str, of: impl Fn(&Count) -> &AtomicUsize, enough: usize) {
        jitney_tests::wait::until(what, || of(&self.count).load(Ordering::SeqCst) >= enough).await;
    }
}

impl Count {
    async fn call(&self, caller: &mut Caller) {
        let was_out = self.is_out.load(Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
        if was_out {
            self.done_since.fetch_add(1, Ordering::SeqCst);
            self.failed_since
                .fetch_add(usize::from(answer.status != 200), Ordering::SeqCst);
        }
    }
}

fn well() -> Reply {
    Reply::json(200, "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_endpoint_costs_nobody_a_call() {
    let mut stage = Stage::with(well()).await;
    stage
        .survives(|stage| stage.first.take().unwrap().shutdown_background())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowed_endpoint_costs_nobody_a_call() {
    let mut stage = Stage::with(well().after(Duration::from_secs(2))).await;
    stage
        .survives(|stage| stage.bad.store(true, Ordering::SeqCst))
        .await;
    stage.is_probed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resetting_endpoint_costs_nobody_a_call() {
    let mut stage = Stage::with(well().ending(Ending::HangUp)).await;
    stage
        .survives(|stage| stage.bad.store(true, Ordering::SeqCst))
        .await;
    stage.is_probed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_that_takes_calls_and_says_nothing_costs_nobody_a_call() {
    let mut stage = Stage::with(well().ending(Ending::Never)).await;
    stage
        .survives(|stage| stage.bad.store(true, Ordering::SeqCst))
        .await;
    stage.is_probed().await;
}
