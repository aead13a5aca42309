//! Sidecars that got no certificate for their token, and why: shown until they have one.

use std::time::{Duration, SystemTime};

use jitney_api::Workload;
use parking_lot::Mutex;

use super::{NODE_BYTES, REASON_BYTES, cut};

/// Who was refused, the latest last.
#[derive(Debug, Default)]
pub struct Refusals {
    refused: Mutex<Vec<Refused>>,
}

/// One sidecar that was refused, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose token it showed; `None` where that cannot be told.
    pub workload: Option<Workload>,
    /// What it calls itself. Empty for who shows no token of ours: anybody could send any name.
    pub node: String,
    /// Why.
    pub reason: String,
    /// What can be done about it.
    pub way_out: String,
    /// How often.
    pub times: u64,
    /// When first.
    pub since: SystemTime,
    /// When last.
    pub at: SystemTime,
}

impl Refusals {
    /// A token was refused: why, and what can be done about it.
    pub fn note(
        &self,
        workload: Option<&Workload>,
        node: &str,
        [reason, way_out]: [&str; 2],
        now: SystemTime,
    ) {
        let node = if workload.is_some() {
            cut(node, NODE_BYTES)
        } else {
            String::new()
        };
        let one = Refused {
            workload: workload.cloned(),
            node,
            reason: cut(reason, REASON_BYTES),
            way_out: cut(way_out, REASON_BYTES),
            times: 1,
            since: now,
            at: now,
        };
        let mut refused = self.refused.lock();
        let is_same = |other: &Refused| other.is_of(workload, &one.node) && other.reason == one.reason;
        let before = refused.iter().position(is_same).map(|at| refused.remove(at));
        if refused.len() >= MOST_REFUSED {
            refused.remove(0);
        }
        refused.push(match before {
            Some(before) => Refused {
                times: before.times.saturating_add(1),
                at: now,
                ..before
            },
            None => one,
        });
    }

    /// A sidecar has got a certificate, or is connected with one.
    pub fn has_certificate(&self, workload: &Workload, node: &str) {
        let node = cut(node, NODE_BYTES);
        self.refused
            .lock()
            .retain(|other| !other.is_of(Some(workload), &node));
    }

    /// Those that were refused lately: who asks no more has gone.
    pub fn list(&self, now: SystemTime) -> Vec<Refused> {
        let mut refused = self.refused.lock();
        refused.retain(|one| now.duration_since(one.at).unwrap_or_default() < SHOWN);
        refused.clone()
    }
}

impl Refused {
    fn is_of(&self, workload: Option<&Workload>, node: &str) -> bool {
        self.workload.as_ref() == workload && self.node == *node
    }

    /// Who, how often and why, and the way out.
    pub fn text(&self) -> String {
        let who = match &self.workload {
            None => "somebody".to_owned(),
            Some(workload) => format!("{workload} {}", self.node).trim_end().to_owned(),
        };
        let times = if self.times == 1 {
            "once".to_owned()
        } else {
            format!("{} times", self.times)
        };
        format!(
            "{who} gets no certificate, refused {times}: {}; {}",
            self.reason, self.way_out
        )
    }
}

/// Sidecars and reasons that are remembered: more of them say nothing more.
const MOST_REFUSED: usize = 64;
/// A sidecar asks again within a minute or so.
const SHOWN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_shown_until_there_is_a_certificate_or_nobody_asks() {
        let (refusals, users) = (Refusals::default(), "shop/users".parse().unwrap());
        let texts = |seconds| {
            let refused = refusals.list(later(seconds)).into_iter();
            refused.map(|one| one.text()).collect::<Vec<_>>()
        };
        refusals.note(
            Some(&users),
            "users-1",
            ["token: used before", "get another"],
            later(1),
        );
        refusals.note(
            None,
            "\u{7}anything",
            ["token: the signature does not fit", "get one"],
            later(2),
        );
        refusals.note(
            Some(&users),
            "users-1",
            ["token: used before", "get another"],
            later(3),
        );
        assert_eq!(
            texts(4),
            [
                "somebody gets no certificate, refused once: token: the signature does not fit; get one",
                "shop/users users-1 gets no certificate, refused 2 times: token: used before; get another",
            ]
        );
        refusals.has_certificate(&users, "users-2");
        assert_eq!(texts(4).len(), 2);
        refusals.has_certificate(&users, "users-1");
        assert_eq!(texts(4).len(), 1);
        assert_eq!(texts(602).len(), 0);
    }

    #[test]
    fn no_more_are_remembered_than_are_of_use() {
        let refusals = Refusals::default();
        for number in 0..1000 {
            let workload = format!("shop/{number}").parse().unwrap();
            refusals.note(
                Some(&workload),
                &"n".repeat(1000),
                [&"r".repeat(5000), ""],
                later(1),
            );
        }
        let refused = refusals.list(later(1));
        assert_eq!(refused.len(), MOST_REFUSED);
        assert_eq!(
            (refused[0].node.len(), refused[0].reason.len()),
            (NODE_BYTES, REASON_BYTES)
        );
    }
}
