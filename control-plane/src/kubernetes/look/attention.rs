//! Whether a control plane looks at what is applied: a status that nobody keeps up says what was once so.

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

/// That no control plane keeps statuses up, by the Lease of the one that does; a warning where it cannot be read.
pub(super) async fn away(client: &Client, namespace: &str) -> Option<Diagnostic> {
    let file = format!("Lease {namespace}/{LEASE}").into();
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    match leases.get_opt(LEASE).await {
        Ok(lease) => {
            let told = silent(lease.as_ref(), OffsetDateTime::now_utc().unix_timestamp())?;
            let way = "what statuses say may not be so; --control-plane-namespace says where it should run";
            Some(Diagnostic::of_file(
                &file,
                format!("no control plane runs: {told}; {way}"),
            ))
        }
        Err(error) => Some(Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::of_file(
                &file,
                format!("whether a control plane runs is not known: {error}"),
            )
        }),
    }
}

/// Why nobody holds it now, a Unix time in seconds; `None` when somebody does.
fn silent(lease: Option<&Lease>, now: i64) -> Option<String> {
    let Some(lease) = lease else {
        return Some("it is not there".to_owned());
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let renewed = spec.renew_time.filter(|_| spec.holder_identity.is_some());
    let Some(renewed) = renewed else {
        return Some("nobody holds it".to_owned());
    };
    let age = now.saturating_sub(renewed.0.as_second());
    let good_for = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    (age > good_for.saturating_add(CLOCKS_APART)).then(|| {
        format!(
            "it was last renewed {age} s ago, at {}, and is good for {good_for} s",
            renewed.0
        )
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
        silent(Some(&lease), 1_767_225_660)
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
        assert_eq!(silent(None, 0), Some("it is not there".to_owned()));
    }
}
