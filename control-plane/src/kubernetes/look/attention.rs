//! Whether a control plane looks at what is applied: a status that nobody keeps up says what was once so.

use std::fmt;
use std::sync::Arc;

use jitney_api::{Condition, ConditionType, Diagnostic, Severity};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use time::OffsetDateTime;

use crate::kubernetes::custom::Custom;
use crate::kubernetes::lease::LEASE;

/// That the present generation of an object is another than the one of which its status tells.
pub(super) fn unseen<'a>(
    file: &Arc<str>,
    custom: &Custom,
    mut conditions: impl Iterator<Item = &'a Condition>,
) -> Option<Diagnostic> {
    let accepted = conditions.find(|one| one.kind == ConditionType::Accepted.to_string());
    let generation = custom.generation;
    let told = match accepted.and_then(|one| one.observed_generation) {
        Some(observed) if observed == generation => return None,
        Some(observed) => {
            format!("its status is of generation {observed}, and it is generation {generation}")
        }
        None => "it has no status of a control plane's".to_owned(),
    };
    Some(Diagnostic::of_file(
        file,
        format!("no control plane has looked at it: {told}"),
    ))
}

/// That no control plane keeps statuses up.
pub(super) struct Away {
    pub(super) told: Diagnostic,
    /// Whether it may be over in a moment: a replica that ends gives the Lease back, and another one takes it.
    pub(super) may_pass: bool,
}

/// That no control plane keeps statuses up, by the Lease of the one that does; a warning where it cannot be read.
pub(super) async fn away(client: &Client, namespace: &str) -> Option<Away> {
    let file = format!("Lease {namespace}/{LEASE}").into();
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    match leases.get_opt(LEASE).await {
        Ok(lease) => {
            let silence = silence(lease.as_ref(), OffsetDateTime::now_utc().unix_timestamp())?;
            let way = "what statuses say may not be so; --control-plane-namespace says where it should run";
            Some(Away {
                told: Diagnostic::of_file(&file, format!("no control plane runs: {silence}; {way}")),
                may_pass: silence == Silence::Free,
            })
        }
        Err(error) => Some(Away {
            told: Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::of_file(
                    &file,
                    format!("whether a control plane runs is not known: {error}"),
                )
            },
            may_pass: false,
        }),
    }
}

/// Why nobody holds the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    Absent,
    /// Nobody ever did, or whoever did has given it back.
    Free,
    /// Whoever did is gone, and has not: how long it is good for, since when and for how long nobody has renewed it.
    Expired {
        good_for: i64,
        at: String,
        age: i64,
    },
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not there"),
            Self::Free => f.write_str("nobody holds it"),
            Self::Expired { good_for, at, age } => {
                write!(
                    f,
                    "it was last renewed {age} s ago, at {at}, and is good for {good_for} s"
                )
            }
        }
    }
}

/// Why nobody holds it now, a Unix time in seconds; `None` when somebody does.
fn silence(lease: Option<&Lease>, now: i64) -> Option<Silence> {
    let Some(lease) = lease else {
        return Some(Silence::Absent);
    };
    let spec = lease.spec.clone().unwrap_or_default();
    // As `kubectl` may leave it: without a holder, or with one that has no name.
    let is_held = spec.holder_identity.is_some_and(|holder| !holder.is_empty());
    let Some(renewed) = spec.renew_time.filter(|_| is_held) else {
        return Some(Silence::Free);
    };
    let age = now.saturating_sub(renewed.0.as_second());
    let good_for = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let is_expired = age > good_for.saturating_add(CLOCKS_APART);
    is_expired.then(|| Silence::Expired {
        good_for,
        at: renewed.0.to_string(),
        age,
    })
}

/// How far the clock here may be from theirs, in seconds.
const CLOCKS_APART: i64 = 30;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said a minute after midnight.
    fn said(spec: &Value) -> Option<String> {
        let lease: Lease = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        silence(Some(&lease), 1_767_225_660).map(|silence| silence.to_string())
    }

    #[test]
    fn a_lease_that_nobody_renews_is_nobodys() {
        let spec = |renewed: &str| json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": format!("2026-01-01T00:{renewed}.000000Z")});
        for (renewed, expected) in [("00:16", None), ("01:00", None), ("01:20", None)] {
            assert_eq!(said(&spec(renewed)), expected, "{renewed}");
        }
        assert_eq!(
            said(&spec("00:10")),
            Some("it was last renewed 50 s ago, at 2026-01-01T00:00:10Z, and is good for 15 s".to_owned())
        );
        assert_eq!(said(&json!({})), Some("nobody holds it".to_owned()));
        assert_eq!(silence(None, 0), Some(Silence::Absent));
        let released =
            serde_json::from_value(json!({"metadata": {}, "spec": {"leaseTransitions": 3}})).unwrap();
        assert_eq!(silence(Some(&released), 0), Some(Silence::Free));
    }
}
