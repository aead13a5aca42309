//! One batch on its way: sent, split, every member answered; when it fails, isolated within the
//! route's budget so that one bad item does not fail its neighbours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_core::batch::{Batch, BatchId, FlushReason, Outcome};
use jitney_core::isolate::{Failure, Remedy};
use tokio::task::JoinSet;

use super::alarm::now;
use super::attempt::{Attempt, Failed, attempt};
use super::pending::{Group, Journey, Pending};
use super::slot::Flight;
use crate::admin::inspect::{self, Left};
use crate::metrics::{RouteMetrics, Trouble};
use crate::upstream::{Cover, Upstream};

/// Sends a batch and answers its members. Ends early when the last of them has left.
pub(crate) async fn fly(upstream: Arc<Upstream>, batch: Batch<Box<Pending>>) {
    let mut completion = Completion {
        upstream: &upstream,
        id: Some(batch.id),
    };
    let flight = Flight::new();
    let (number, size) = (upstream.next_batch(), batch.members.len());
    let (items, bytes, key, reason) = (batch.items, batch.bytes, batch.key, batch.reason);
    let mut group = Vec::with_capacity(size);
    let mut longest = Duration::ZERO;
    for member in batch.members {
        // Positions are given here and never again; who has left by now gets none.
        let position = group.len();
        let journey = Journey {
            batch: number,
            position,
            size,
            waited: member.waited,
            reason,
            expected: batch.expected,
        };
        group.extend(member.call.board(&flight, journey));
        longest = longest.max(member.waited);
    }
    let Some(first) = group.first() else { return };
    let metrics = Arc::clone(&first.call.state.metrics);
    let cover = first.call.state.cover(group.len());
    count(&metrics, &group, items, bytes, reason);
    if cover.is_some() {
        metrics.calls_saved.add(group.len() as u64 - 1);
    }
    upstream.recent.note(Left {
        id: number,
        route: Arc::clone(metrics.name()),
        key: Arc::clone(&key),
        members: group.len(),
        items,
        bytes,
        reason: reason.as_str(),
        wait: longest,
        at: SystemTime::now(),
        outcome: None,
    });
    let began = now();
    let together = if cover.is_some() { group.len() } else { 0 };
    let travel = async {
        let (outcome, attempted) = match cover {
            Some(cover) => covered(&upstream, group, cover).await,
            // Their time says nothing about batches.
            None => (Outcome::Failed, Attempt::Unanswered(group)),
        };
        completion.report(outcome);
        upstream
            .recent
            .finish(number, now().saturating_duration_since(began), shown(&attempted));
        settle(&upstream, attempted, &key, together, &metrics.trouble).await;
    };
    tokio::select! {
        biased;
        () = travel => {}
        () = flight.abandoned() => {
            upstream.metrics.late_replies.inc();
            upstream.recent.finish(number, now().saturating_duration_since(began), inspect::Outcome::Abandoned);
        }
    }
}

/// Sends a batch that may have to be taken apart.
async fn covered(upstream: &Upstream, group: Group, cover: Cover) -> (Outcome, Attempt) {
    let together = group.len() > 1;
    let (outcome, mut attempted) = attempt(upstream, group).await;
    match &mut attempted {
        Attempt::Failed(failed) => failed.cover = Some(cover),
        Attempt::Answered | Attempt::Unanswered(_) if together => cover.served(),
        Attempt::Answered | Attempt::Unanswered(_) => {}
    }
    (outcome, attempted)
}

fn count(metrics: &RouteMetrics, group: &Group, items: usize, bytes: usize, reason: FlushReason) {
    metrics.batch_size.observe(items as u64);
    metrics.batch_bytes.observe(bytes as u64);
    metrics.dispatch.inc(reason);
    for journey in group.iter().filter_map(|member| member.journey) {
        metrics.queue_wait.observe_time(journey.waited);
    }
}

/// Sees to those whom the batch left without an answer, and notes what that says of the route's batches.
/// So many members were sent together.
async fn settle(
    upstream: &Arc<Upstream>,
    attempted: Attempt,
    key: &[u8],
    together: usize,
    trouble: &Trouble,
) {
    match attempted {
        Attempt::Answered if together > 1 => trouble.answered(),
        Attempt::Answered => {}
        Attempt::Unanswered(members) => {
            let is_of_use = members.len() < together;
            if is_of_use {
                trouble.answered();
            }
            let alone = isolate(upstream, singles(members), key, Cause::Incomplete).await;
            if !is_of_use && together > 1 && alone.served > 0 {
                trouble.failed("the reply holds nothing for any of its members".to_owned());
            }
        }
        Attempt::Failed(failed) => {
            let (failure, why) = (failed.failure, failed.why.clone());
            let cause = match failed.failure {
                Failure::Misfit if failed.suspects.is_empty() => Cause::Misfit,
                Failure::Misfit => Cause::Incomplete,
                Failure::Status(_) | Failure::Refused { .. } | Failure::Unsent | Failure::Broken => {
                    Cause::Failure
                }
            };
            let alone = isolate(upstream, regroup(failed), key, cause).await;
            let is_of_batch = alone.served > 0 || failure.is_of_batch();
            if alone.culprits == 0 && is_of_batch && !failure.is_of_size() {
                trouble.failed(why);
            }
        }
    }
}

fn shown(attempted: &Attempt) -> inspect::Outcome {
    match attempted {
        Attempt::Answered => inspect::Outcome::Split,
        Attempt::Unanswered(members) => inspect::Outcome::AskedAlone(members.len()),
        Attempt::Failed(failed) => inspect::Outcome::Failed(match failed.failure {
            Failure::Status(_) | Failure::Refused { .. } => "status",
            Failure::Unsent | Failure::Broken => "connection",
            Failure::Misfit => "shape",
        }),
    }
}

/// Why members of a batch are sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The batch failed; somebody in it may be to blame.
    Failure,
    /// Its reply did not fit.
    Misfit,
    /// Its reply left members out that only the upstream knows about.
    Incomplete,
}

/// Members that were sent alone.
#[derive(Default)]
struct Alone {
    /// Those that the upstream served.
    served: u32,
    /// Those whom it failed, and who are to blame for their batch.
    culprits: u32,
}

/// Sends groups again, each level at once, until everyone is answered.
async fn isolate(upstream: &Arc<Upstream>, mut groups: Vec<Group>, key: &[u8], cause: Cause) -> Alone {
    let first = groups.first().and_then(|group| group.first());
    let state = first.map(|one| Arc::clone(&one.call.state));
    let (mut alone, mut spread) = (Alone::default(), groups.len() > 1);
    while !groups.is_empty() {
        let mut sending = JoinSet::new();
        for group in groups.drain(..) {
            let upstream = Arc::clone(upstream);
            sending.spawn(async move {
                let is_alone = group.len() == 1;
                let blamed = (cause == Cause::Failure && is_alone)
                    .then(|| (Arc::clone(&group[0].call.state), group[0].culprit()));
                let (outcome, attempted) = attempt(&upstream, group).await;
                let culprit = outcome == Outcome::Failed && blamed.is_some();
                if let (true, Some((state, call))) = (culprit, blamed) {
                    state.blame(call);
                }
                (culprit, is_alone && outcome == Outcome::Ok, attempted)
            });
        }
        while let Some(sent) = sending.join_next().await {
            let Ok((culprit, served, attempted)) = sent else {
                continue;
            };
            alone.culprits += u32::from(culprit);
            alone.served += u32::from(served);
            match attempted {
                Attempt::Answered => {}
                Attempt::Unanswered(members) => groups.extend(singles(members)),
                Attempt::Failed(failed) => groups.extend(regroup(failed)),
            }
        }
        spread |= groups.len() > 1;
    }
    // Everyone succeeded alone: it is the batch that the upstream does not take.
    if let (Some(state), true) = (state, cause != Cause::Incomplete && spread && alone.culprits == 0) {
        state.blame_key(key);
    }
    alone
}

/// The groups in which a failed one is sent again; none when its failure stands.
fn regroup(mut failed: Failed) -> Vec<Group> {
    let remedy = failed.remedy();
    if remedy != Remedy::FanOut && failed.suspects.len() < failed.group.len() {
        failed.blame_suspects();
    }
    match remedy {
        Remedy::FanOut => {
            failed.tell_everyone();
            Vec::new()
        }
        Remedy::Singles => {
            failed.count_extra(failed.group.len());
            singles(failed.group)
        }
        Remedy::Apart => {
            failed.count_extra(failed.suspects.len() + 1);
            apart(failed)
        }
        Remedy::Halves => {
            failed.count_extra(2);
            let mut first = failed.group;
            let second = first.split_off(first.len() / 2);
            vec![first, second]
        }
    }
}

/// Who is suspected goes alone, the others together.
fn apart(failed: Failed) -> Vec<Group> {
    let (mut groups, mut others) = (Vec::new(), Vec::new());
    for (position, member) in failed.group.into_iter().enumerate() {
        if failed.suspects.contains(&position) {
            groups.push(vec![member]);
        } else {
            others.push(member);
        }
    }
    groups.push(others);
    groups
}

fn singles(members: Group) -> Vec<Group> {
    members.into_iter().map(|member| vec![member]).collect()
}

/// Tells the dispatcher how the batch ended, whatever becomes of the task.
struct Completion<'a> {
    upstream: &'a Arc<Upstream>,
    id: Option<BatchId>,
}

impl Completion<'_> {
    fn report(&mut self, outcome: Outcome) {
        if let Some(id) = self.id.take() {
            self.upstream.batches.complete(id, outcome);
        }
    }
}

impl Drop for Completion<'_> {
    fn drop(&mut self) {
        self.report(Outcome::Abandoned);
    }
}
