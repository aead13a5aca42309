//! What becomes of one policy's content: decisions only, from what was before and what the source says
//! now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::push::{Pushed, Readers, Version};

use crate::store::{Rollout, Stage, Stop};

/// A policy and its routes, in the order of their types and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// A hash of all of it, readers included.
    pub(super) version: Version,
    pub(super) resources: Arc<[Pushed]>,
}

/// Where a policy is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Course {
    percent: u32,
    /// The version of what the source says.
    present: Version,
    /// Invariant: the present content, when there is no stage.
    baseline: Group,
    stage: Option<Running>,
}

#[derive(Clone, Debug, PartialEq)]
struct Running {
    since: SystemTime,
    stop: Option<Stop>,
}

/// What is kept of a policy on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) baseline: Group,
    /// The change that is staged, and since when.
    pub(super) staged: Option<(Version, SystemTime)>,
}

/// What is known of a policy from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// There was no such policy.
    New,
    /// There may have been one.
    Unknown,
    /// There was this.
    Known(Record),
}

impl Group {
    pub(super) fn new(mut resources: Vec<Pushed>) -> Self {
        resources.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        let mut text = String::new();
        for Pushed {
            kind,
            name,
            held,
            readers,
        } in &resources
        {
            let readers = match readers {
                Readers::Everyone => "everyone".to_owned(),
                Readers::Workloads(workloads) => {
                    let names = workloads.iter().map(ToString::to_string);
                    names.collect::<Vec<_>>().join(" ")
                }
                // They come and go while what they run stays the same.
                Readers::Sidecars(_) => "sidecars".to_owned(),
            };
            text.push_str(&format!("{kind}\n{name}\n{}\n{readers}\n", held.version));
        }
        Self {
            version: Version::of(text.as_bytes()),
            resources: resources.into(),
        }
    }

    /// With the readers that the policy has now, where these are sidecars: they come and go.
    fn read_as(self, present: &Self) -> Self {
        let mut present = present.resources.iter();
        let now = present.find(|one| matches!(one.readers, Readers::Sidecars(_)));
        let Some(now) = now else { return self };
        let resources = self.resources.iter().map(|one| Pushed {
            readers: now.readers.clone(),
            ..one.clone()
        });
        Self::new(resources.collect())
    }

    /// What is pushed, by policy.
    pub(super) fn all(pushed: &[Pushed]) -> BTreeMap<Arc<str>, Self> {
        let mut groups = BTreeMap::<&str, Vec<Pushed>>::new();
        for one in pushed {
            if let Some(policy) = one.kind.policy_of(&one.name) {
                groups.entry(policy).or_default().push(one.clone());
            }
        }
        let groups = groups.into_iter();
        groups
            .map(|(policy, resources)| (policy.into(), Self::new(resources)))
            .collect()
    }
}

impl Course {
    /// Where a policy of this content and percentage is, after what was before. What is noted as stopped
    /// is so as long as its content stays.
    pub(super) fn new(
        group: Group,
        percent: u32,
        past: Past,
        stopped: Option<&(Version, Stop)>,
        now: SystemTime,
    ) -> Self {
        let present = group.version;
        let stop = stopped.filter(|(content, _)| *content == present);
        let (baseline, staged) = match past {
            Past::New => (Group::new(Vec::new()), None),
            // What was before is lost, and what is did harm: calls that pass through harm nobody.
            Past::Unknown if stop.is_some() => (Group::new(Vec::new()), None),
            Past::Unknown => (group.clone(), None),
            Past::Known(Record { baseline, staged }) => (baseline.read_as(&group), staged),
        };
        let is_whole = percent >= 100 && stop.is_none();
        if is_whole || present == baseline.version {
            return Self {
                percent,
                present,
                baseline: group,
                stage: None,
            };
        }
        let goes_on = staged.filter(|(content, _)| *content == present);
        Self {
            percent,
            present,
            baseline,
            stage: Some(Running {
                since: goes_on.map_or(now, |(_, since)| since),
                stop: stop.map(|(_, stop)| stop.clone()),
            }),
        }
    }

    /// What the next course begins from.
    pub(super) fn past(&self) -> Past {
        Past::Known(self.to_record())
    }

    /// What is to be on disk: nothing of a policy whose changes go to everyone at once.
    pub(super) fn record(&self) -> Option<Record> {
        (self.percent < 100 || self.stage.is_some()).then(|| self.to_record())
    }

    /// What everyone runs who takes no part in a stage.
    pub(super) const fn baseline(&self) -> &Group {
        &self.baseline
    }

    /// The version of what the source says.
    pub(super) const fn present(&self) -> Version {
        self.present
    }

    /// What there is to know of it, whether it has to be on disk or not.
    pub(super) fn to_record(&self) -> Record {
        Record {
            baseline: self.baseline.clone(),
            staged: self.stage.as_ref().map(|stage| (self.present, stage.since)),
        }
    }

    /// What stopped it, and which content that was.
    pub(super) fn stopped(&self) -> Option<(Version, Stop)> {
        let stop = self.stage.as_ref()?.stop.clone()?;
        Some((self.present, stop))
    }

    /// Whether only a share of the sidecars is to run the present content, and may be found to do badly.
    pub(super) fn is_running(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.stop.is_none())
    }

    /// Stops the stage of a content. False when there is none, or it has stopped already.
    pub(super) fn stop(&mut self, content: Version, stop: &Stop) -> bool {
        let running = self.stage.as_mut().filter(|stage| stage.stop.is_none());
        let Some(stage) = running.filter(|_| self.present == content) else {
            return false;
        };
        stage.stop = Some(stop.clone());
        true
    }

    /// As it is to be in the store; `None` for a policy whose changes go to everyone at once.
    pub(super) fn rollout(&self) -> Option<Rollout> {
        let stage = self.stage.as_ref().map(|stage| Stage {
            content: self.present,
            baseline: Arc::clone(&self.baseline.resources),
            since: stage.since,
            stop: stage.stop.clone(),
        });
        (self.percent < 100 || stage.is_some()).then_some(Rollout {
            percent: self.percent,
            stage,
        })
    }

    /// Says in the log what is another than before: in this process or, for what an earlier one had staged,
    /// in that.
    pub(super) fn tell(&self, policy: &str, before: Option<&Self>, left: Option<Version>) {
        let percent = self.percent;
        let staged = before.filter(|before| before.stage.is_some());
        let goes_on =
            left == Some(self.present) || staged.is_some_and(|before| before.present == self.present);
        match (&self.stage, staged) {
            (Some(_), Some(before)) if goes_on => {
                if before.percent != percent {
                    let from = before.percent;
                    tracing::info!(
                        policy,
                        percent,
                        from,
                        "another share of the sidecars is to run a staged change"
                    );
                }
            }
            (Some(Running { stop: Some(stop), .. }), _) => {
                let reason = &stop.reason;
                tracing::info!(
                    policy,
                    reason,
                    "a rollout that had stopped stays so: no sidecar is to run the change"
                );
            }
            (Some(_), _) if goes_on => {
                tracing::info!(
                    policy,
                    percent,
                    "a staged change goes on: a share of the sidecars is to run it"
                );
            }
            (Some(_), _) => {
                tracing::info!(
                    policy,
                    percent,
                    "a change is staged: a share of the sidecars is to run it"
                );
            }
            (None, Some(before)) if before.baseline.version == self.present => {
                tracing::info!(policy, "a staged change was taken back");
            }
            (None, Some(_)) => {
                tracing::info!(
                    policy,
                    "a rollout is complete: every sidecar is to run the change"
                );
            }
            (None, None) => {}
        }
    }
}
