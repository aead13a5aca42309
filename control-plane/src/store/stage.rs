//! Stages: which sidecars are to run a policy's present content, and what the others keep.

use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::push::{Pushed, Version};

use super::sight::Recipient;

/// How a policy's changes spread, and how far the present one may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Share of the sidecars that take a change first, 1 to 100.
    pub percent: u32,
    /// `None`: every sidecar is to run the present content.
    pub stage: Option<Stage>,
}

/// A change that not every sidecar is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// A hash of what is changed to: the policy and its routes, with their readers.
    pub content: Version,
    /// What all others are to run: the policy and its routes as they were; empty when there was none.
    pub baseline: Arc<[Pushed]>,
    /// When the change was made.
    pub since: SystemTime,
    /// Why no sidecar is to run it any more.
    pub stop: Option<Stop>,
}

/// The end of a stage that did no good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Who said what.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

impl Rollout {
    /// Whether a sidecar is to run the policy's present content, and not the baseline.
    pub fn is_for(&self, policy: &str, recipient: &Recipient) -> bool {
        self.share().is_none_or(|share| place(policy, recipient) < share)
    }

    /// The sidecars that are to run the present content, in percent; `None` without a stage.
    fn share(&self) -> Option<u32> {
        let stage = self.stage.as_ref()?;
        Some(if stage.stop.is_some() { 0 } else { self.percent })
    }

    /// Who sees what: where this is the same, every sidecar sees the same.
    pub(super) fn spread(&self) -> Option<(u32, &[Pushed])> {
        let stage = self.stage.as_ref()?;
        Some((self.share()?, &stage.baseline))
    }
}

/// A sidecar's place in the order in which sidecars take changes of a policy, 0 to 99: it takes one when
/// its place is below the percentage. It follows from the policy's name, the workload and what the sidecar
/// calls itself alone, so that every replica, and the next one after it, and the next version of this
/// program, gives the same place. Sidecars of a workload that do not say what they are called share one.
///
/// The hash is FNV-1a of 64 bits (draft-eastlake-fnv) over the three, the workload as `namespace/account`,
/// each followed by a zero byte, with the finalizer of MurmurHash3, for names that differ in their last letter only.
pub fn place(policy: &str, recipient: &Recipient) -> u32 {
    let Workload { namespace, account } = &recipient.workload;
    let hash = [policy, "\0", namespace, "/", account, "\0", &recipient.node, "\0"]
        .into_iter()
        .flat_map(str::bytes)
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from((hash ^ hash >> 33) % 100).unwrap_or_default()
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(account: &str, node: &str) -> Recipient {
        Recipient {
            workload: Workload {
                namespace: "shop".into(),
                account: account.into(),
            },
            node: node.into(),
        }
    }

    #[test]
    fn places_stay_what_they_are_in_every_version() {
        for (policy, account, node, expected) in [
            ("shop/users", "users", "users-1", 20),
            ("shop/users", "users", "users-2", 69),
            ("shop/users", "users", "", 91),
            ("shop/orders", "users", "users-1", 28),
            ("shop/users", "orders", "users-1", 16),
        ] {
            let found = place(policy, &recipient(account, node));
            assert_eq!(found, expected, "{policy} {account} {node}");
        }
    }

    #[test]
    fn every_share_is_about_as_large_as_it_says() {
        for policy in ["shop/users", "shop/orders", "a/b"] {
            let mut places = [0_u32; 100];
            for node in 0..10_000 {
                places[place(policy, &recipient("users", &format!("users-{node}"))) as usize] += 1;
            }
            let mut taken = 0;
            for (percent, count) in (1..=100).zip(places) {
                taken += count;
                let off = taken.abs_diff(100 * percent);
                // Four standard deviations of 10,000 throws.
                assert!(off <= 200, "{policy}: {taken} of 10,000 at {percent} %");
            }
        }
    }

    #[test]
    fn policies_do_not_all_begin_with_the_same_sidecars() {
        let nodes = (0..1000).map(|node| recipient("users", &format!("users-{node}")));
        let both = nodes.filter(|one| place("shop/a", one) < 50 && place("shop/b", one) < 50);
        let both = both.count();
        assert!((190..=310).contains(&both), "{both} of 1,000, expected about 250");
    }

    #[test]
    fn raising_the_share_adds_sidecars_and_removes_none() {
        let stage = Stage {
            content: Version::of(b""),
            baseline: Arc::default(),
            since: SystemTime::UNIX_EPOCH,
            stop: None,
        };
        let is_for = |percent, node: &Recipient| {
            let stage = Some(stage.clone());
            Rollout { percent, stage }.is_for("shop/users", node)
        };
        for node in 0..200 {
            let node = recipient("users", &format!("users-{node}"));
            let takes: Vec<bool> = (1..=100).map(|percent| is_for(percent, &node)).collect();
            assert!(takes.is_sorted(), "{node:?}");
            assert!(takes[99], "{node:?}");
        }
    }
}
