//! Who takes a change that goes to a share of the sidecars, and what is odd about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jitney_api::Workload;
use jitney_api::push::Kind;
use serde_json::{Value, json};

use crate::status::{Overview, Progress, Sidecar, Sidecars, Spread};
use crate::store::{Recipient, Snapshot};

/// The sidecars by what they are called, and by how they stand to what is staged.
#[derive(Debug, Default)]
pub(super) struct Shares {
    policies: BTreeMap<Arc<str>, Members>,
    names: BTreeMap<(Workload, String), usize>,
}

/// Some of those that a staged policy is for.
#[derive(Debug, Default)]
struct Members {
    take: Vec<Member>,
    keep: Vec<Member>,
}

/// How a sidecar stands to a policy that is staged.
#[derive(Clone, Debug)]
struct Member {
    recipient: Recipient,
    takes: bool,
    /// The generation of what it runs of the policy; `None` while it has not acknowledged what it is to run.
    generation: Option<u64>,
}

impl Shares {
    /// One look at each sidecar.
    pub(super) fn of(sidecars: &Sidecars, snapshot: &Snapshot) -> Self {
        let mut shares = Self::default();
        let staged = staged(snapshot);
        sidecars.each(|sidecar| {
            let Recipient { workload, node } = sidecar.recipient.clone();
            *shares.names.entry((workload, node)).or_default() += 1;
            for (policy, member) in members(sidecar, snapshot, &staged) {
                let of_policy = shares.policies.entry(policy).or_default();
                let side = if member.takes {
                    &mut of_policy.take
                } else {
                    &mut of_policy.keep
                };
                if side.len() < MOST_SHOWN {
                    side.push(member);
                }
            }
        });
        shares
    }

    /// Who takes the change of a policy and who does not: 50 of each at most.
    pub(super) fn members(&self, policy: &str) -> Vec<Value> {
        let members = self.policies.get(policy).into_iter();
        let members = members.flat_map(|members| members.take.iter().chain(&members.keep));
        members
            .map(|member| {
                json!({
                    "node": member.recipient.node,
                    "workload": member.recipient.workload.to_string(),
                    "takes": member.takes,
                    "generation": member.generation,
                })
            })
            .collect()
    }

    /// What is odd: a share without anybody in it, and sidecars that cannot be told apart.
    pub(super) fn warnings(&self, overview: &Overview) -> Vec<String> {
        let policies = overview.policies.iter();
        let empty = policies.filter_map(|(policy, progress)| empty_share(policy, progress));
        let twins = self.names.iter().filter(|(_, count)| **count > 1);
        let twins = twins.map(|((workload, node), count)| {
            let what = if node.is_empty() {
                "do not say what they are called".to_owned()
            } else {
                format!("are all called {node:?}")
            };
            format!(
                "{workload}: {count} sidecars {what}, so that they take a change all together or not at all"
            )
        });
        empty.chain(twins).collect()
    }
}

/// How one sidecar stands to each policy that is staged and is for it.
pub(super) fn of_sidecar(sidecar: &Sidecar, snapshot: &Snapshot, staged: &[Arc<str>]) -> Vec<Value> {
    let members = members(sidecar, snapshot, staged).into_iter();
    members
        .map(|(policy, member)| {
            json!({
                "policy": &*policy,
                "takes": member.takes,
                "generation": member.generation,
            })
        })
        .collect()
}

/// The policies that are staged.
pub(super) fn staged(snapshot: &Snapshot) -> Vec<Arc<str>> {
    let all = snapshot.all(Kind::Policy).map(|(name, _)| name);
    let is_staged = |name: &&Arc<str>| {
        snapshot
            .rollout(name)
            .is_some_and(|rollout| rollout.stage.is_some())
    };
    all.filter(is_staged).cloned().collect()
}

fn members(sidecar: &Sidecar, snapshot: &Snapshot, staged: &[Arc<str>]) -> Vec<(Arc<str>, Member)> {
    if staged.is_empty() {
        return Vec::new();
    }
    let (sight, for_it) = (snapshot.to(&sidecar.recipient), sidecar.policies(snapshot));
    let mine = staged.iter().filter(|policy| for_it.contains(*policy));
    mine.map(|policy| {
        let takes = sight.takes(policy) == Some(true);
        let side = if takes {
            snapshot.group(policy)
        } else {
            snapshot.baseline(policy)
        };
        let generations = side.iter().map(|(_, _, entry)| entry.generation);
        let runs = sidecar.runs_policy(policy, snapshot);
        let member = Member {
            recipient: sidecar.recipient.clone(),
            takes,
            generation: generations.max().filter(|_| runs),
        };
        (Arc::clone(policy), member)
    })
    .collect()
}

/// Which sidecars take a change follows from their names alone, so that nobody runs now this and now that
/// when others come and go; of a few sidecars it may so be none.
fn empty_share(policy: &str, progress: &Progress) -> Option<String> {
    let connected = progress.selected + progress.without;
    let is_empty = Spread::of(progress) == Spread::Staged && progress.staged == 0 && connected > 0;
    let percent = progress.rollout.as_ref()?.percent;
    is_empty.then(|| {
        format!("{policy}: 0 of {connected} connected sidecars are in the {percent} % that take its change: nobody tries it")
    })
}

/// On each side of a stage.
const MOST_SHOWN: usize = 50;
