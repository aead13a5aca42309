//! 50,000 random calls with callers that leave, slow and faulty replies and several identities,
//! against the real sidecar: no reply is another's, nothing runs twice without leave, no batch is
//! over its caps or mixes identities, and every error is true.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use jitney_tests::caller::{Body, request};
use jitney_tests::upstream::Ending;
use jitney_tests::{Answer, Caller, Random, Reply, Route, Seen, TestProxy, TestUpstream, model, policy};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const CALLS: usize = 50_000;
const CALLERS: usize = 64;
const IDENTITIES: &[&str] = &["ada", "bob", "eve", "kim"];
const MAX_SIZE: usize = 16;
const MAX_BYTES: usize = 1_500;

/// The conventions of the storm, and which of them may send an item twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Predictions on a route that inference presets declare replay-safe.
    Predict,
    /// The same without leave: alone, and once.
    Once,
    /// GETs by id.
    User,
    /// JSON-RPC over POST without leave: merged, and once.
    Rpc,
}

/// One call of the storm. Its number is in every item, so that a reply shows whose it is.
#[derive(Clone, Copy, Debug)]
struct Script {
    number: usize,
    kind: Kind,
    by: &'static str,
    items: usize,
    padding: usize,
    bad: bool,
    leaves: Option<Duration>,
}

impl Script {
    fn draw(number: usize, random: &mut Random) -> Self {
        let kind = [Kind::Predict, Kind::Predict, Kind::Once, Kind::User, Kind::Rpc][random.index(5)];
        let leaves = random
            .percent(4)
            .then(|| Duration::from_micros(random.below(8_000)));
        Self {
            number,
            kind,
            by: IDENTITIES[random.index(IDENTITIES.len())],
            items: if kind == Kind::Predict {
                1 + random.index(3)
            } else {
                1
            },
            padding: random.index(60),
            bad: kind == Kind::Predict && random.below(250) == 0,
            leaves,
        }
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.by)
    }

    fn instances(&self) -> Vec<String> {
        let padding = "x".repeat(self.padding);
        let bad = if self.bad { r#","bad":1"# } else { "" };
        let item = |item| {
            format!(
                r#"{{"call":{},"by":"{}","item":{item},"pad":"{padding}"{bad}}}"#,
                self.number, self.by
            )
        };
        (0..self.items).map(item).collect()
    }

    fn id(&self) -> String {
        format!("{}.{}", self.number, self.by)
    }

    fn request(&self) -> Request<Body> {
        let authorization = self.authorization();
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        let base = "http://service.test";
        match self.kind {
            Kind::Predict | Kind::Once => {
                let model = if self.kind == Kind::Once { "once" } else { "v1" };
                let body = format!(r#"{{"instances":[{}]}}"#, self.instances().join(","));
                request(
                    "POST",
                    &format!("{base}/{model}/models/m:predict"),
                    &headers,
                    body,
                )
            }
            Kind::User => request("GET", &format!("{base}/users/{}", self.id()), &headers[..1], ""),
            Kind::Rpc => {
                let (number, by) = (self.number, self.by);
                // Few ids for many calls: equal ids of several callers are the ordinary case.
                let id = number % 3;
                let body =
                    format!(r#"{{"jsonrpc":"2.0","method":"echo","params":[{number},"{by}"],"id":{id}}}"#);
                request("POST", &format!("{base}/rpc"), &headers, body)
            }
        }
    }

    fn expected(&self) -> String {
        let by = self.authorization();
        match self.kind {
            Kind::Predict | Kind::Once => {
                let instances = self.instances();
                model::predictions(&instances.iter().map(String::as_str).collect::<Vec<_>>(), &by)
            }
            Kind::User => model::user(&self.id(), &by),
            Kind::Rpc => format!(
                r#"{{"jsonrpc":"2.0","result":{{"params":[{},"{}"],"by":"{by}"}},"id":{}}}"#,
                self.number,
                self.by,
                self.number % 3
            ),
        }
    }
}

/// What the upstream did with one call.
#[derive(Clone, Debug, Default)]
struct Told {
    runs: usize,
    statuses: Vec<u16>,
    broken: bool,
}

/// The upstream's side of the storm.
struct Ledger {
    told: Mutex<Vec<Told>>,
    faults: Mutex<Vec<String>>,
    random: Mutex<Random>,
    requests: AtomicUsize,
    merged: AtomicUsize,
}

impl Ledger {
    fn fault(&self, text: String) {
        self.faults.lock().unwrap().push(text);
    }

    /// Answers as the model does, but for a few percent of faults; and keeps the books.
    fn answer(&self, seen: &Seen) -> Reply {
        let calls = self.check(seen);
        let (reply, broken) = self.react(seen, calls.len() > 1);
        let mut told = self.told.lock().unwrap();
        for call in calls {
            told[call].runs += 1;
            told[call].broken |= broken;
            told[call].statuses.push(reply.status);
        }
        reply
    }

    /// The calls in a request, after the checks of everything that must hold for it.
    fn check(&self, seen: &Seen) -> Vec<usize> {
        let items = items(seen);
        let who = seen.header("authorization").trim_start_matches("Bearer ");
        for (call, by) in items.iter().filter(|(_, by)| by != who) {
            self.fault(format!("call {call} of {by} was sent as {who}"));
        }
        let mut calls: Vec<usize> = items.iter().map(|(call, _)| *call).collect();
        calls.dedup();
        self.requests.fetch_add(1, Ordering::Relaxed);
        if calls.len() > 1 {
            self.merged.fetch_add(calls.len(), Ordering::Relaxed);
            if items.len() > MAX_SIZE || seen.body.len() > MAX_BYTES {
                self.fault(format!(
                    "a batch of {} items, {} bytes",
                    items.len(),
                    seen.body.len()
                ));
            }
        }
        calls
    }

    /// The reply, and whether it is broken.
    fn react(&self, seen: &Seen, is_batch: bool) -> (Reply, bool) {
        let (dice, delay) = {
            let mut random = self.random.lock().unwrap();
            (random.below(1_000), random.below(4_000))
        };
        let right = match seen.target.as_str() {
            "/rpc" => model::json_rpc(seen),
            path if path.starts_with("/users") => model::users(seen),
            _ => model::kserve(seen),
        };
        let right = right.after(Duration::from_micros(delay));
        match dice {
            0..8 => (Reply::json(503, "busy").header("retry-after", "1"), false),
            8..16 => (Reply::json(429, "slow down").header("retry-after", "1"), false),
            16..26 => (Reply::json(500, "oops"), false),
            26..34 => (right.ending(Ending::Cut(30)), true),
            34..40 => (right.ending(Ending::HangUp), true),
            40..48 if is_batch => (spoilt(seen, right), true),
            48..60 => (right.after(Duration::from_millis(40)), false),
            _ => (right, false),
        }
    }
}

/// A merged reply that does not fit: a result short, an element too many, or an unknown id.
fn spoilt(seen: &Seen, right: Reply) -> Reply {
    let text = right.text();
    let text = match seen.target.as_str() {
        "/rpc" => text.replacen("\"id\":", "\"id\":77", 1),
        path if path.starts_with("/users") => text.replacen('[', "[{\"id\":\"0.mallory\"},", 1),
        _ => text.replacen("[{", "[{\"echo\":0},{", 1),
    };
    Reply {
        body: text.into(),
        ..right
    }
}

/// Every item of a request: its call and who made it.
fn items(seen: &Seen) -> Vec<(usize, String)> {
    if let Some(ids) = seen.target.strip_prefix("/users") {
        let ids = ids.trim_start_matches(['/', '?']).trim_start_matches("ids=");
        return ids
            .split(',')
            .filter_map(|id| id.split_once('.'))
            .map(|(call, by)| (call.parse().unwrap(), by.into()))
            .collect();
    }
    let text = seen.text();
    let (before, between) = if seen.target == "/rpc" {
        ("\"params\":[", ",\"")
    } else {
        ("\"call\":", ",\"by\":\"")
    };
    let items = text.split(before).skip(1).map(|rest| {
        let (call, rest) = rest.split_once(between).unwrap();
        (call.parse().unwrap(), rest.split('"').next().unwrap().to_owned())
    });
    items.collect()
}

/// True when an answer that is not the right one may be given.
fn is_true(answer: &Answer, told: &Told) -> bool {
    let is_shed = matches!(answer.status, 429 | 503)
        && !answer.header("retry-after").is_empty()
        && !answer.header("x-jitney-error").is_empty();
    told.statuses
        .iter()
        .any(|status| *status == answer.status && *status != 200)
        || told.broken && matches!(answer.status, 502..=504)
        || is_shed
}

/// One caller: takes the next call until there are none. Gives how many were served and shed.
async fn caller(
    address: std::net::SocketAddr,
    place: usize,
    next: Arc<AtomicUsize>,
    seed: u64,
    ledger: Arc<Ledger>,
) -> (usize, usize) {
    let open = async || {
        let opened = if place.is_multiple_of(4) {
            Caller::h2(address).await
        } else {
            Caller::h1(address).await
        };
        opened.unwrap()
    };
    let (mut connection, mut served, mut refused) = (open().await, 0, 0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= CALLS {
            return (served, refused);
        }
        let script = Script::draw(number, &mut Random::seeded(seed ^ number as u64));
        if let Some(patience) = script.leaves {
            let answer = timeout(patience, connection.call(script.request())).await;
            // A reply that broke off before the patience ended took the connection along.
            let is_over = answer.is_err() && matches!(connection, Caller::H1(_));
            if is_over || answer.is_ok_and(|answer| answer.is_err()) {
                connection = open().await;
            }
            continue;
        }
        let answer = match connection.call(script.request()).await {
            Ok(answer) => answer,
            Err(error) => {
                // The proxy closes a connection whose reply it had begun and could not finish.
                if !ledger.told.lock().unwrap()[number].broken {
                    ledger.fault(format!("{script:?} got no reply: {error:#}"));
                }
                connection = open().await;
                continue;
            }
        };
        if answer.status == 200 && answer.text() == script.expected() {
            served += 1;
        } else {
            refused += 1;
            let told = ledger.told.lock().unwrap()[number].clone();
            if !is_true(&answer, &told) {
                let (status, headers, text) = (answer.status, &answer.headers, answer.text());
                ledger.fault(format!(
                    "{script:?}\n    got {status} {text}\n    {headers:?}\n    {told:?}"
                ));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_random_calls() {
    let mut random = Random::for_run("storm");
    let seed = random.bits();
    let ledger = Arc::new(Ledger {
        told: Mutex::new(vec![Told::default(); CALLS]),
        faults: Mutex::default(),
        random: Mutex::new(random.fork()),
        requests: AtomicUsize::default(),
        merged: AtomicUsize::default(),
    });
    let books = Arc::clone(&ledger);
    let upstream = TestUpstream::start_unrecorded(move |seen| books.answer(seen)).await;
    let caps = format!("batch: {{maxSize: {MAX_SIZE}, maxBytes: {MAX_BYTES}}}");
    let once = r#"match: {method: POST, path: {type: Template, value: "/once/models/{model}:predict"}}"#;
    let routes = [
        Route::kserve().line(&caps),
        Route::new("once", once, "codec: {preset: kserve-v1}")
            .line(&caps)
            .line("onFailure: {replay: Never}"),
        Route::users().line(&caps),
        Route::json_rpc().line(&caps).line("onFailure: {replay: Never}"),
    ];
    let mut proxy = TestProxy::start(upstream.address, &policy::active(&routes)).await;
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut callers = JoinSet::new();
    for place in 0..CALLERS {
        callers.spawn(caller(
            proxy.address,
            place,
            Arc::clone(&next),
            seed,
            Arc::clone(&ledger),
        ));
    }
    let results = callers.join_all().await;
    let (served, refused) = results
        .iter()
        .fold((0, 0), |sum, result| (sum.0 + result.0, sum.1 + result.1));
    let requests = ledger.requests.load(Ordering::Relaxed);
    println!(
        "storm: {served} served, {refused} refused, {requests} upstream calls, {:?}",
        start.elapsed()
    );
    assert!(proxy.runs(), "the sidecar ended:\n{}", proxy.log());

    for (number, told) in ledger.told.lock().unwrap().iter().enumerate() {
        let script = Script::draw(number, &mut Random::seeded(seed ^ number as u64));
        let may = if matches!(script.kind, Kind::Once | Kind::Rpc) {
            1
        } else {
            12
        };
        if told.runs > may {
            ledger.fault(format!("{script:?} ran {} times", told.runs));
        }
    }
    let faults = ledger.faults.lock().unwrap();
    assert!(
        faults.is_empty(),
        "{} faults, the first:\n  {}",
        faults.len(),
        faults[..faults.len().min(12)].join("\n  ")
    );
    assert!(served > CALLS * 8 / 10, "only {served} of {CALLS} were served");
    assert!(
        ledger.merged.load(Ordering::Relaxed) > CALLS / 4,
        "hardly anything was merged"
    );
}
