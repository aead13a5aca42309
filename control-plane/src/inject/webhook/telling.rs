//! What a pod's author should know, told where it is looked for: the API server shows warnings to whoever makes the
//! pod, which is a controller that tells nobody. An Event says the same beside what that controller is for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::faults::{Doing, Faults};
use crate::inject::Pod;
use crate::kubernetes::{About, Told, tell};

/// The Event for a pod that is made with warnings; `None` of one that nobody makes but who is shown them.
pub(in crate::inject) fn told(pod: Pod<'_>, warnings: &[String]) -> Option<Told> {
    let owners = pod.metadata["ownerReferences"].as_array()?.iter();
    let owner = owners.into_iter().find(|owner| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().map(str::to_owned);
    let uid = text("uid").filter(|uid| is_uid(uid))?;
    // Each of a StatefulSet's pods has a name of its own.
    let called = format!("{}: ", pod.called);
    let own = warnings
        .iter()
        .map(|one| one.strip_prefix(&called).unwrap_or(one));
    let note = own.collect::<Vec<_>>().join("; ");
    if note.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    Some(Told {
        name: format!("jitney-warned-{uid}-{:016x}", hasher.finish()),
        namespace: pod.namespace.to_owned(),
        about: About {
            api_version: text("apiVersion")?,
            kind: text("kind")?,
            namespace: Some(pod.namespace.to_owned()),
            name: text("name")?,
            uid,
        },
        reason: "SidecarWarning",
        note: format!("of its pods: {note}"),
    })
}

/// As the API server makes them. Whoever makes a pod can write anything there.
fn is_uid(text: &str) -> bool {
    let is_of_one = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=UID_BYTES).contains(&text.len()) && text.bytes().all(is_of_one) && !text.starts_with('-')
}

/// Writes Events for as long as it is polled, each once, at most [`BETWEEN`] apart: what comes faster waits in the queue, and
/// what finds that full is told when the next pod of the same owner is made.
pub(super) async fn keep(
    client: &Client,
    mut told: mpsc::Receiver<Told>,
    replica: &str,
    faults: &Arc<Faults>,
) {
    let mut known = Known::default();
    while let Some(one) = told.recv().await {
        if !known.is_news(&one.name, Instant::now()) {
            continue;
        }
        let done = match tell(client, replica, &one).await {
            Ok(_) => Ok(()),
            // It names what cannot be: that is nobody's fault but its author's.
            Err(kube::Error::Api(status)) if [400, 422].contains(&status.code) => {
                tracing::debug!(message = status.message, event = one.name, "no Event");
                Ok(())
            }
            Err(error) => {
                known.forget(&one.name);
                Err(format!("Event in {}: {error}", one.namespace))
            }
        };
        faults.note(Doing::Warnings, done);
        sleep(BETWEEN).await;
    }
}

/// What was told of lately.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, Instant>);

impl Known {
    /// Whether this was not told of lately; from now on it was.
    fn is_news(&mut self, name: &str, now: Instant) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < LATELY);
        if self.0.contains_key(name) {
            return false;
        }
        if self.0.len() >= MOST {
            // The API server knows each that it still shows.
            self.0.clear();
        }
        self.0.insert(name.to_owned(), now);
        true
    }

    fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

/// Events that wait to be written: as many as a few rollouts begin at once.
pub(super) const QUEUE: usize = 64;
/// As many in a second as of pods that were missed.
const BETWEEN: Duration = Duration::from_millis(50);
/// As long as an API server shows an Event unless it is told otherwise.
const LATELY: Duration = Duration::from_secs(3600);
/// Owners with warnings that are remembered, about 100 bytes each.
const MOST: usize = 1024;
/// A uid has 36, and a name with two of them is one still.
const UID_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is told of a pod by this name, of this owner.
    fn of(called: &str, owner: &Value, warnings: &[&str]) -> Option<Told> {
        let metadata = json!({"ownerReferences": [{"kind": "Other", "uid": "0"}, owner]});
        let called = format!("pod shop/{called}");
        let warnings: Vec<String> = warnings.iter().map(|one| format!("{called}: {one}")).collect();
        let pod = Pod {
            called: &called,
            metadata: &metadata,
            spec: &Value::Null,
            namespace: "shop",
        };
        told(pod, &warnings)
    }

    fn owner(uid: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "users-5d8f", "uid": uid, "controller": true})
    }

    #[test]
    fn whoever_makes_pods_is_told_once_of_all_of_them() {
        let one = of(
            "users-*",
            &owner("1-a"),
            &["dnsPolicy: odd", "port 15006 is ours"],
        )
        .unwrap();
        assert_eq!(one.note, "of its pods: dnsPolicy: odd; port 15006 is ours");
        assert_eq!((&*one.about.kind, &*one.about.name), ("ReplicaSet", "users-5d8f"));
        assert!(one.name.starts_with("jitney-warned-1-a-"), "{}", one.name);
        let same = of(
            "users-1",
            &owner("1-a"),
            &["dnsPolicy: odd", "port 15006 is ours"],
        );
        assert_eq!(same, Some(one.clone()));
        for other in [
            of(
                "users-*",
                &owner("1-b"),
                &["dnsPolicy: odd", "port 15006 is ours"],
            ),
            of("users-*", &owner("1-a"), &["dnsPolicy: odd"]),
        ] {
            assert_ne!(other.unwrap().name, one.name);
        }
    }

    #[test]
    fn nothing_is_told_of_nobody() {
        assert_eq!(of("users", &owner("1"), &[]), None);
        assert_eq!(
            of("users", &json!({"controller": true, "uid": "1"}), &["a"]),
            None
        );
        for uid in ["", "../x", "A", "-1", &"1".repeat(UID_BYTES + 1)] {
            assert_eq!(of("users", &owner(uid), &["a"]), None, "{uid}");
        }
        let mut other = owner("1");
        other["controller"] = false.into();
        assert_eq!(of("users", &other, &["a"]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (mut known, now) = (Known::default(), Instant::now());
        assert!(known.is_news("a", now) && !known.is_news("a", now));
        assert!(known.is_news("a", now + LATELY));
        known.forget("a");
        assert!(known.is_news("a", now + LATELY));
        for number in 0..2 * MOST {
            known.is_news(&number.to_string(), now);
            assert!(known.0.len() <= MOST);
        }
    }
}
