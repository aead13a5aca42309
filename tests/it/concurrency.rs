//! How many requests may be in flight is learned: what is too much is shed, what is let in succeeds.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney_tests::caller::{Body, request};
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Answer, Caller, Reply, Route, TestProxy, TestUpstream, model, policy};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::shared::{instances, predict, together};

/// What each request takes of a worker.
const SERVICE: Duration = Duration::from_millis(40);
/// Callers, and how often each calls: 600 calls a second, or less where the machine is busy, and four workers
/// serve 100.
const CALLERS: u32 = 30;
const EVERY: Duration = Duration::from_millis(50);
const WORKERS: usize = 4;

type Call = http::Request<Body>;

/// Workers of an upstream, by when each has done what it was given.
#[derive(Clone)]
struct Workers(Arc<Mutex<Vec<Instant>>>);

impl Workers {
    fn of(count: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Instant::now(); count])))
    }

    /// How long a request takes that comes now: it waits for the worker that is done first.
    fn take(&self) -> Duration {
        let (now, mut free) = (Instant::now(), self.0.lock().unwrap());
        let Some(first) = free.iter_mut().min() else {
            return SERVICE;
        };
        *first = now.max(*first) + SERVICE;
        *first - now
    }
}

/// Calls at a steady pace until it is dropped.
struct Load {
    _tasks: JoinSet<()>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    served: AtomicUsize,
    shed: AtomicUsize,
    odd: Mutex<Vec<String>>,
}

impl Load {
    fn start(proxy: &TestProxy, call: fn(usize) -> Call) -> Self {
        let (mut tasks, count) = (JoinSet::new(), Arc::new(Count::default()));
        for caller in 0..CALLERS {
            let (count, address) = (Arc::clone(&count), proxy.address);
            tasks.spawn(async move {
                let mut connection = Caller::h1(address).await.unwrap();
                let mut pace = interval(EVERY);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    pace.tick().await;
                    let answer = connection.call(call(n + 1000 * caller as usize)).await.unwrap();
                    count.note(&answer);
                }
            });
        }
        Self { _tasks: tasks, count }
    }

    /// Waits until so many more calls were served.
    async fn serves(&self, more: usize) {
        let served = || self.count.served.load(Ordering::SeqCst);
        let goal = served() + more;
        until("enough calls were served", || served() >= goal).await;
    }

    /// Waits until so many were served, one after the other, of which none was shed.
    async fn serves_all(&self, more: usize) {
        let served = || self.count.served.load(Ordering::SeqCst);
        let (mut begin, mut shed) = (served(), self.shed());
        until("all calls are served", || {
            if self.shed() > shed {
                (begin, shed) = (served(), self.shed());
            }
            served() >= begin + more
        })
        .await;
    }

    fn shed(&self) -> usize {
        assert_eq!(*self.count.odd.lock().unwrap(), [""; 0]);
        self.count.shed.load(Ordering::SeqCst)
    }
}

impl Count {
    fn note(&self, answer: &Answer) {
        match (answer.status, answer.header("x-jitney-error")) {
            (200, "") => self.served.fetch_add(1, Ordering::SeqCst),
            (503, "concurrency_limit") if answer.header("retry-after") == "1" => {
                self.shed.fetch_add(1, Ordering::SeqCst)
            }
            _ => {
                self.odd.lock().unwrap().push(format!("{answer:?}"));
                0
            }
        };
    }
}

async fn until_limit(proxy: &TestProxy, what: &str, fact: impl Fn(f64) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let limit = proxy.metric("jitney_concurrency_limit", "").await;
        if fact(limit) {
            return;
        }
        assert!(Instant::now() < end, "the limit is {limit}, never {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn text(traffic: &str, batch: &str) -> String {
    policy::active(&[Route::kserve().line(batch)]) + "  traffic: {adaptiveConcurrency: {" + traffic + "}}\n"
}

fn plain(_: usize) -> Call {
    request("GET", "/x", &[], "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_shed_and_the_limit_grows_back() {
    let (workers, is_roomy) = (Workers::of(WORKERS), Arc::new(AtomicBool::new(false)));
    let roomy = Arc::clone(&is_roomy);
    let upstream = TestUpstream::start_unrecorded(move |_| {
        let takes = workers.take();
        let takes = if roomy.load(Ordering::SeqCst) {
            SERVICE
        } else {
            takes
        };
        Reply::json(200, "1").after(takes)
    });
    let proxy = TestProxy::start(upstream.await.address, &text("", "batch: {maxSize: 8}")).await;
    let load = Load::start(&proxy, plain);
    until_limit(&proxy, "about the workers", |limit| limit <= 2.0 * WORKERS as f64).await;
    until("calls find no room", || load.shed() > 50).await;
    load.serves(50).await;
    let shown: Value = serde_json::from_str(&proxy.admin("/backends").await.text()).unwrap();
    assert!(shown["backends"][0]["concurrency_limit"].is_u64(), "{shown:#}");
    is_roomy.store(true, Ordering::SeqCst);
    load.serves_all(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_wait_where_calls_are_shed() {
    let workers = Workers::of(WORKERS);
    let upstream = TestUpstream::start_unrecorded(move |seen| {
        let takes = workers.take();
        let reply = if seen.target.starts_with("/x") {
            Reply::json(200, "1")
        } else {
            model::kserve(seen)
        };
        reply.after(takes)
    });
    let bounds = "maxConcurrency: 4";
    let proxy = TestProxy::start(upstream.await.address, &text(bounds, "batch: {maxSize: 32}")).await;
    let (alone, batched) = (
        Load::start(&proxy, plain),
        Load::start(&proxy, |n| predict(instances(&[&n.to_string()]))),
    );
    alone.serves(50).await;
    batched.serves(500).await;
    alone.serves(50).await;
    until("calls are shed", || alone.shed() > 0).await;
    assert_eq!(batched.shed(), 0, "they travel in fewer batches instead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_bounds_calls_and_batches() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen_at_once = Arc::clone(&most);
    let upstream = TestUpstream::start_unrecorded(move |seen| {
        seen_at_once.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let now = Arc::clone(&now);
        tokio::spawn(async move {
            sleep(5 * SERVICE).await;
            now.fetch_sub(1, Ordering::SeqCst);
        });
        let reply = if seen.target.starts_with("/x") {
            Reply::json(200, "1")
        } else {
            model::kserve(seen)
        };
        // For longer than it is counted: the next one comes after that.
        reply.after(10 * SERVICE)
    });
    let bounds = "minConcurrency: 2, maxConcurrency: 2";
    let batch = "batch: {maxSize: 2, window: {min: 8, max: 8}}";
    let proxy = TestProxy::start(upstream.await.address, &text(bounds, batch)).await;
    let calls = (0..16).map(|n| predict(instances(&[&n.to_string()]))).collect();
    let answers = together(proxy.address, calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(most.load(Ordering::SeqCst) <= 2);
    let answers = together(proxy.address, (0..6).map(plain).collect()).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let shed = answers
        .iter()
        .filter(|answer| answer.header("x-jitney-error") == "concurrency_limit");
    assert_eq!((served, shed.count()), (2, 4));
}

/// Answers calls, but those to `/stream` never end.
async fn streaming() -> SocketAddr {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = service.accept().await.unwrap();
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut read).await {
                    let is_endless = read[..length].starts_with(b"GET /stream");
                    let length = if is_endless { 1000 } else { 1 };
                    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n1");
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_is_streamed_for_long_keeps_nobody_out() {
    let bounds = "minConcurrency: 2, maxConcurrency: 2";
    let proxy = TestProxy::start(streaming().await, &text(bounds, "")).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let call = b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(call).await.unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        streams.push(stream);
    }
    let answers = together(proxy.address, vec![plain(0), plain(1)]).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
}
