//! The real dispatcher on a virtual clock, in front of model upstreams, beside the fixed policies
//! that other batchers use. Nothing here waits: a minute of traffic takes a fraction of a second.

mod policies;
mod random;
mod scenarios;
mod table;
mod upstream;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

pub use policies::Policy;
pub use scenarios::{Row, rows};
pub use table::{Cell, FIXED, Line, line, render};
pub use upstream::Upstream;

use policies::Sidecar;
use random::Random;

/// How calls come.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Poisson arrivals, so many a second.
    Open(f64),
    /// Poisson arrivals: the first rate until half-time, then the second.
    Step(f64, f64),
    /// So many callers, each asking again when it has its answer, after a pause of up to so
    /// many seconds.
    Closed(usize, f64),
    /// So many pages, each of which asks for 20 things within so many seconds, and is asked for
    /// again after as long when it has all of them: the N+1 pattern.
    Pages(usize, f64),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What answers.
    pub upstream: Upstream,
    /// What asks.
    pub load: Load,
    /// Length in seconds.
    pub seconds: f64,
    /// Answers before this many seconds do not count.
    pub warm_up: f64,
    /// Sidecars in front of the one upstream, which share the load evenly.
    pub sidecars: usize,
    /// Longest time between a call's head and the end of its body, in seconds: announced arrivals.
    pub body: f64,
    /// Most items in a batch.
    pub max_size: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Mean time from the call's arrival to its answer, in milliseconds.
    pub mean: f64,
    /// Half of the calls were faster, in milliseconds.
    pub p50: f64,
    /// 99 of 100 calls were faster, in milliseconds.
    pub p99: f64,
    /// Answers a second.
    pub rate: f64,
    /// Mean calls in a batch.
    pub batch: f64,
    /// True when unanswered calls pile up.
    pub overloaded: bool,
    /// Wake-ups wanted by the dispatcher while nothing was queued.
    pub idle_wakes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Head(usize),
    Body(usize),
    Done(usize, u64),
    Wake(usize),
    /// The upstream's cores are done with a batch, unless another came meanwhile.
    Work(u64),
}

struct Run<'a> {
    scenario: &'a Scenario,
    upstream: upstream::State,
    sidecars: Vec<Sidecar>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    random: Random,
    service: Random,
    zero: Instant,
    /// Arrival of each call, and the sidecar that has it.
    calls: Vec<(Duration, usize)>,
    /// Things that each page still waits for.
    pages: Vec<usize>,
    /// The page that each call is for.
    page_of: Vec<usize>,
    flights: Vec<Vec<usize>>,
    wakes: Vec<Option<Duration>>,
    waits: Vec<f64>,
    answered: usize,
    batches: usize,
    idle_wakes: usize,
    /// Of the latest [`Event::Work`]; earlier ones are void.
    version: u64,
}

/// Runs a scenario under a policy.
pub fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Report {
    let zero = tokio::time::Instant::now().into_std();
    let mut run = Run {
        scenario,
        upstream: scenario.upstream.start(),
        sidecars: (0..scenario.sidecars)
            .map(|_| policy.sidecar(scenario.max_size))
            .collect(),
        events: BinaryHeap::new(),
        order: 0,
        random: Random::new(seed),
        service: Random::new(seed ^ 0x5eed),
        zero,
        calls: Vec::new(),
        pages: Vec::new(),
        page_of: Vec::new(),
        flights: Vec::new(),
        wakes: vec![None; scenario.sidecars],
        waits: Vec::new(),
        answered: 0,
        batches: 0,
        idle_wakes: 0,
        version: 0,
    };
    match scenario.load {
        Load::Open(_) | Load::Step(..) => run.arrive_later(Duration::ZERO),
        Load::Closed(callers, pause) => {
            for _ in 0..callers {
                let at = Duration::from_secs_f64(run.random.unit() * pause.max(0.001));
                run.new_call(at);
            }
        }
        Load::Pages(pages, _) => {
            for page in 0..pages {
                run.pages.push(0);
                run.new_page(page, Duration::ZERO);
            }
        }
    }
    run.play()
}

impl Run<'_> {
    fn play(mut self) -> Report {
        let end = Duration::from_secs_f64(self.scenario.seconds);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if now > end {
                break;
            }
            self.handle(event, now);
            // Calls that arrive at one moment are queued before any of them leaves.
            while self.events.peek().is_some_and(|Reverse((at, _, _))| *at == now) {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.handle(event, now);
                }
            }
            for sidecar in 0..self.sidecars.len() {
                self.pump(sidecar, now);
            }
        }
        self.report()
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn arrive_later(&mut self, now: Duration) {
        let rate = match self.scenario.load {
            Load::Open(rate) => rate,
            Load::Step(first, _) if now.as_secs_f64() < self.scenario.seconds / 2.0 => first,
            Load::Step(_, second) => second,
            Load::Closed(..) | Load::Pages(..) => return,
        };
        let gap = self.random.exponential(1.0 / rate);
        self.new_call(now + Duration::from_secs_f64(gap));
    }

    fn new_call(&mut self, at: Duration) {
        let call = self.calls.len();
        let sidecar = call % self.sidecars.len();
        let body = Duration::from_secs_f64(self.random.unit() * self.scenario.body);
        self.calls.push((at + body, sidecar));
        self.schedule(at, Event::Head(call));
    }

    fn new_page(&mut self, page: usize, now: Duration) {
        let Load::Pages(_, within) = self.scenario.load else {
            return;
        };
        let from = now + Duration::from_secs_f64(within * self.random.unit());
        for _ in 0..CALLS_OF_A_PAGE {
            let at = from + Duration::from_secs_f64(within * self.random.unit());
            self.new_call(at);
            self.page_of.push(page);
        }
        self.pages[page] = CALLS_OF_A_PAGE;
    }

    fn handle(&mut self, event: Event, now: Duration) {
        let time = self.zero + now;
        match event {
            Event::Head(call) => {
                let (body, sidecar) = self.calls[call];
                self.arrive_later(now);
                self.sidecars[sidecar].announce(time);
                if body > now {
                    self.schedule(body, Event::Body(call));
                } else {
                    self.sidecars[sidecar].push(call, time);
                }
            }
            Event::Body(call) => self.sidecars[self.calls[call].1].push(call, time),
            Event::Wake(sidecar) => {
                self.wakes[sidecar] = None;
                self.idle_wakes += usize::from(self.sidecars[sidecar].queued() == 0);
            }
            Event::Work(version) if version == self.version => {
                for (flight, name) in self.upstream.done(now) {
                    self.schedule(now, Event::Done(flight, name));
                }
                self.work_on();
            }
            Event::Work(_) => {}
            Event::Done(flight, name) => self.land(flight, name, now),
        }
    }

    fn land(&mut self, flight: usize, name: u64, now: Duration) {
        let members = std::mem::take(&mut self.flights[flight]);
        let sidecar = self.calls[members[0]].1;
        self.sidecars[sidecar].complete(name, self.zero + now);
        self.answered += members.len();
        for call in members {
            if now.as_secs_f64() >= self.scenario.warm_up {
                self.waits.push((now - self.calls[call].0).as_secs_f64() * 1e3);
            }
            if let Load::Closed(_, pause) = self.scenario.load {
                let pause = Duration::from_secs_f64(self.random.unit() * pause);
                self.new_call(now + pause);
            }
            if let Some(&page) = self.page_of.get(call) {
                self.pages[page] -= 1;
                if self.pages[page] == 0 {
                    self.new_page(page, now);
                }
            }
        }
    }

    fn pump(&mut self, sidecar: usize, now: Duration) {
        while let Some((name, members)) = self.sidecars[sidecar].poll(self.zero + now) {
            let (items, flight) = (members.len(), self.flights.len());
            self.batches += 1;
            self.flights.push(members);
            if self.upstream.is_shared() {
                self.upstream.share(now, items, (flight, name), &mut self.service);
                self.work_on();
            } else {
                let done = self.upstream.serve(now, items, &mut self.service);
                self.schedule(done, Event::Done(flight, name));
            }
        }
        let wanted = self.sidecars[sidecar]
            .timeout()
            .map(|at| at.saturating_duration_since(self.zero));
        if let Some(at) = wanted
            && self.wakes[sidecar].is_none_or(|armed| at < armed)
        {
            self.wakes[sidecar] = Some(at);
            self.schedule(at.max(now + Duration::from_nanos(1)), Event::Wake(sidecar));
        }
    }

    fn work_on(&mut self) {
        self.version += 1;
        if let Some(at) = self.upstream.next_done() {
            self.schedule(at, Event::Work(self.version));
        }
    }

    fn report(mut self) -> Report {
        self.waits.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = self.waits.len().saturating_sub(1);
            self.waits
                .get(nearest(share * float(last)))
                .copied()
                .unwrap_or(f64::INFINITY)
        };
        let outstanding = self.calls.len() - self.answered;
        let bearable = match self.scenario.load {
            Load::Open(rate) => 0.25 * rate + 64.0,
            Load::Step(first, second) => 0.25 * first.max(second) + 64.0,
            Load::Closed(..) | Load::Pages(..) => f64::INFINITY,
        };
        Report {
            mean: self.waits.iter().sum::<f64>() / float(self.waits.len()).max(1.0),
            p50: at(0.5),
            p99: at(0.99),
            rate: float(self.waits.len()) / (self.scenario.seconds - self.scenario.warm_up),
            batch: float(self.answered) / float(self.batches).max(1.0),
            overloaded: float(outstanding) > bearable,
            idle_wakes: self.idle_wakes,
        }
    }
}

/// As in `examples/mesh`, where each of two services is asked for so many.
const CALLS_OF_A_PAGE: usize = 20;

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn float(n: usize) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a length"
)]
fn nearest(at: f64) -> usize {
    at.round() as usize
}
