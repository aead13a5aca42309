//! Properties over random scripts: whatever happens in whatever order, these hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        key: u8,
        items: usize,
        bytes: usize,
        deadline_ms: Option<u64>,
        priority: u8,
        tenant: u64,
    },
    /// Cancels the n-th call pushed so far.
    Cancel(usize),
    /// Ends the n-th batch in flight.
    End(usize, Outcome),
    Announce(u32),
    Retract(u32),
    Forwards(u64),
    Backwards(u64),
    /// The owner pumps after every event; a script may let it be late.
    Pump,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Ok),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::Overloaded { retry_after: None }),
        1 => Just(Outcome::Overloaded { retry_after: Some(Duration::from_millis(7)) }),
        1 => Just(Outcome::TooLarge),
        1 => Just(Outcome::Abandoned),
    ];
    let push = (
        0..6u8,
        1..12usize,
        0..60usize,
        prop::option::of(0..40u64),
        0..4u8,
        0..4u64,
    )
        .prop_map(|(key, items, bytes, deadline_ms, priority, tenant)| Step::Push {
            key,
            items,
            bytes,
            deadline_ms,
            priority,
            tenant,
        });
    prop_oneof![
        20 => push,
        3 => any::<usize>().prop_map(Step::Cancel),
        12 => (any::<usize>(), outcome).prop_map(|(at, outcome)| Step::End(at, outcome)),
        2 => (0..3u32).prop_map(Step::Announce),
        2 => (0..3u32).prop_map(Step::Retract),
        8 => (0..30_000u64).prop_map(Step::Forwards),
        1 => (0..30_000u64).prop_map(Step::Backwards),
        12 => Just(Step::Pump),
    ]
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    (prop::collection::vec(step(), 1..150), any::<bool>()).prop_map(|(mut steps, drains)| {
        if drains {
            steps.insert(steps.len() / 2, Step::Drain);
        }
        steps
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let dispatch =
        prop_oneof![3 => Just(Dispatch::Adaptive), 1 => Just(Dispatch::Eager), 1 => Just(Dispatch::Fixed)];
    let order = prop_oneof![
        Just(Order::Fifo),
        Just(Order::ShortestFirst),
        Just(Order::Priority),
        Just(Order::EarliestDeadline)
    ];
    let window = prop_oneof![Just(Window::Auto), (0..4usize).prop_map(Window::Fixed)];
    (
        dispatch,
        order,
        window,
        1..9usize,
        20..200usize,
        0..10u64,
        1..40usize,
        1..60u64,
    )
        .prop_map(
            |(dispatch, order, window, max_size, max_bytes, timeout, max_queue_size, queue_timeout)| Limits {
                max_size,
                max_bytes,
                timeout: Duration::from_millis(timeout),
                dispatch,
                order,
                max_queue_size,
                max_queue_bytes: 400,
                queue_timeout: Duration::from_millis(queue_timeout),
                window,
            },
        )
}

/// A batcher, and what has become of each call.
struct Play {
    bench: Bench,
    /// One per key.
    limits: Vec<Arc<Limits>>,
    calls: Vec<Pushed>,
    flights: Vec<Batch<u32>>,
    left: BTreeMap<u32, &'static str>,
}

struct Pushed {
    key: u8,
    items: usize,
    bytes: usize,
    ticket: Option<Ticket>,
}

impl Play {
    fn new(limits: Vec<Limits>) -> Self {
        let settings = Settings {
            max_keys: 4,
            max_queued_items: 100,
            ..Settings::default()
        };
        Self {
            bench: Bench::with(settings),
            limits: limits.into_iter().map(Arc::new).collect(),
            calls: Vec::new(),
            flights: Vec::new(),
            left: BTreeMap::new(),
        }
    }

    fn leave(&mut self, call: u32, how: &'static str) {
        let before = self.left.insert(call, how);
        assert_eq!(before, None, "call {call} left as {before:?}, and again as {how}");
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Push {
                key,
                items,
                bytes,
                deadline_ms,
                priority,
                tenant,
            } => {
                let deadline = deadline_ms.map(|ms| self.bench.now + Duration::from_millis(ms));
                let call = u32::try_from(self.calls.len()).expect("short scripts");
                let class = u32::from(key % 3);
                let queued = Queued {
                    call,
                    items,
                    bytes,
                    shared_bytes: 5,
                    deadline,
                    priority,
                    tenant,
                    class,
                };
                let limits = Arc::clone(&self.limits[usize::from(key)]);
                let ticket = self.bench.queue(&format!("key {key}"), &limits, queued).ok();
                self.calls.push(Pushed {
                    key,
                    items,
                    bytes,
                    ticket,
                });
                if ticket.is_none() {
                    self.leave(call, "refused");
                }
            }
            Step::Cancel(at) => self.cancel(at),
            Step::End(at, outcome) => {
                if !self.flights.is_empty() {
                    let batch = self.flights.remove(at % self.flights.len());
                    self.bench.end(&batch, outcome);
                }
            }
            Step::Announce(class) => self.bench.batcher.announce(class, self.bench.now),
            Step::Retract(class) => self.bench.batcher.retract(class, self.bench.now),
            Step::Forwards(micros) => self.bench.now += Duration::from_micros(micros),
            Step::Backwards(micros) => {
                let back = self.bench.now.checked_sub(Duration::from_micros(micros));
                self.bench.now = back.unwrap_or(self.bench.now).max(self.bench.start);
            }
            Step::Pump => self.pump(),
            Step::Drain => self.bench.batcher.drain(),
        }
    }

    fn cancel(&mut self, at: usize) {
        if self.calls.is_empty() {
            return;
        }
        let at = at % self.calls.len();
        let call = u32::try_from(at).expect("short scripts");
        let Some(ticket) = self.calls[at].ticket else {
            return;
        };
        match self.bench.batcher.cancel(ticket) {
            Some(found) => {
                assert_eq!(found, call);
                self.leave(call, "cancelled");
            }
            None => assert!(
                self.left.contains_key(&call),
                "a queued call could not be cancelled"
            ),
        }
    }

    fn pump(&mut self) {
        for (call, _) in self.bench.expired() {
            self.leave(call, "expired");
        }
        for batch in self.bench.poll() {
            self.check(&batch);
            for member in &batch.members {
                self.leave(member.call, "batched");
            }
            self.flights.push(batch);
        }
        if self.bench.batcher.queued() == 0 {
            assert_eq!(self.bench.wake(), None, "nothing is queued");
        } else {
            assert!(self.bench.wake().is_some(), "what is queued leaves some day");
        }
    }

    fn check(&self, batch: &Batch<u32>) {
        let of = |call: u32| &self.calls[usize::try_from(call).expect("small")];
        let keys: BTreeSet<u8> = batch.members.iter().map(|member| of(member.call).key).collect();
        assert_eq!(keys.len(), 1, "two keys in one batch, or none");
        let items: usize = batch.members.iter().map(|member| of(member.call).items).sum();
        let bytes: usize = 5 + batch
            .members
            .iter()
            .map(|member| of(member.call).bytes)
            .sum::<usize>();
        assert_eq!((batch.items, batch.bytes), (items, bytes));
        let limits = &self.limits[usize::from(of(batch.members[0].call).key)];
        if batch.members.len() > 1 {
            assert!(
                items <= limits.max_size && bytes <= limits.max_bytes,
                "over a cap"
            );
        }
    }

    /// Answers everything, and waits for whatever the batcher wants to wait for.
    fn finish(&mut self) {
        for _ in 0..4 * self.calls.len() + 20 {
            self.pump();
            if self.left.len() == self.calls.len() && self.flights.is_empty() {
                break;
            }
            for batch in std::mem::take(&mut self.flights) {
                self.bench.end(&batch, Outcome::Ok);
            }
            if let Some(at) = self.bench.batcher.poll_timeout() {
                self.bench.now = self.bench.now.max(at);
            }
        }
        assert_eq!(
            self.left.len(),
            self.calls.len(),
            "calls were lost: {:?}",
            self.left
        );
        assert_eq!(
            (self.bench.batcher.queued(), self.bench.batcher.in_flight()),
            (0, 0)
        );
        let snapshot = self.bench.batcher.snapshot(self.bench.now);
        assert_eq!((snapshot.queued_items, snapshot.queued_bytes), (0, 0));
        assert!(snapshot.keys <= 4 && snapshot.lanes.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every call leaves exactly once; no cap is exceeded, no two keys mix, no clock panics.
    #[test]
    fn every_call_leaves_exactly_once(
        limits in prop::collection::vec(any_limits(), 6),
        steps in script(),
    ) {
        let mut play = Play::new(limits);
        for step in steps {
            play.play(step);
        }
        play.finish();
    }

    /// The calls of a batch stand in the order of service, and a cancelled neighbour, before or
    /// after the batch was formed, moves nobody.
    #[test]
    fn positions_never_move(pushed in 2..20u32, gone in prop::collection::vec(0..20u32, 0..6)) {
        let mut bench = Bench::new();
        let limits = limits(|limits| { limits.max_size = 32; limits.window = Window::Fixed(1); });
        bench.push("k", &limits, 1000);
        let busy = bench.only();
        let tickets: Vec<_> = (0..pushed).map(|call| bench.push("k", &limits, call)).collect();
        let (early, late) = gone.split_at(gone.len() / 2);
        let at = |call: &u32| tickets.get(usize::try_from(*call).expect("small"));
        for ticket in early.iter().filter_map(at) {
            bench.batcher.cancel(*ticket);
        }
        let expected: Vec<u32> = (0..pushed).filter(|call| !early.contains(call)).collect();
        bench.done(&busy);
        let batches = bench.poll();
        for ticket in late.iter().filter_map(at) {
            prop_assert_eq!(bench.batcher.cancel(*ticket), None);
        }
        let found: Vec<u32> = batches.iter().flat_map(calls).collect();
        prop_assert_eq!(found, expected);
    }
}
