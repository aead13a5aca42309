//! What is said of a Runtime in its status.

use std::collections::BTreeSet;

use jitney_api::push::{Catalog, meant};
use jitney_api::{ConditionStatus, ConditionType, Reason, RuntimeStatus, SidecarStatus, Workload};

use super::said::{self, Said, running};
use crate::kubernetes::custom::{Custom, KEPT};

/// What is known of a Runtime.
#[derive(Debug)]
pub(in crate::kubernetes) struct RuntimeFacts<'a> {
    /// Whose it is.
    pub(in crate::kubernetes) workload: Workload,
    pub(in crate::kubernetes) custom: &'a Custom,
    pub(in crate::kubernetes) catalog: &'a Catalog,
    /// Its generation that is pushed; `None` when none is.
    pub(in crate::kubernetes) in_force: Option<i64>,
    pub(in crate::kubernetes) sidecars: SidecarStatus,
    /// The status that it has.
    pub(in crate::kubernetes) before: &'a RuntimeStatus,
    /// The time, as statuses write it.
    pub(in crate::kubernetes) now: &'a str,
}

impl RuntimeFacts<'_> {
    /// What its status should be.
    pub(in crate::kubernetes) fn status(&self) -> RuntimeStatus {
        let before = &self.before.conditions;
        let said = [self.accepted(), self.programmed()];
        RuntimeStatus {
            conditions: said
                .into_iter()
                .map(|said| said.condition(before, self.now))
                .collect(),
            sidecars: Some(self.sidecars.clone()),
        }
    }

    /// Why nobody runs it: no pod of its service account has a sidecar. `None` if one has.
    pub(in crate::kubernetes) fn is_for_nobody(&self) -> Option<String> {
        let known: BTreeSet<Workload> = self.catalog.sidecars.values().cloned().collect();
        if known.contains(&self.workload) {
            return None;
        }
        let accounts: Vec<&str> = known.iter().map(|workload| &*workload.account).collect();
        let others = match &accounts[..] {
            [] => "no account of the namespace has one".to_owned(),
            some => format!("accounts that have one: {}", some.join(", ")),
        };
        let (account, meant) = (&self.workload.account, meant(&self.workload, &known));
        Some(format!(
            "no pod of the service account {account:?} has a sidecar{meant}; {others}"
        ))
    }

    fn accepted(&self) -> Said {
        let faults = self.custom.faults.iter();
        let faults: Vec<String> = faults
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect();
        let (reason, message) = if faults.is_empty() {
            (Reason::Accepted, "valid".to_owned())
        } else {
            let stays = match self.in_force {
                Some(generation) => format!("generation {generation} stays in force"),
                None if self.custom.is_kept_in_part() => KEPT.to_owned(),
                None => "nothing of it is in force".to_owned(),
            };
            (Reason::Invalid, format!("{}; {stays}", faults.join("; ")))
        };
        Said {
            kind: ConditionType::Accepted,
            status: said::status(reason == Reason::Accepted),
            reason,
            message,
            generation: self.custom.generation,
        }
    }

    fn programmed(&self) -> Said {
        let said = said::programmed(self.in_force, self.custom.generation, &self.sidecars);
        if let Some(nobody) = self.is_for_nobody().filter(|_| self.sidecars.selected == 0) {
            return Said {
                message: nobody,
                ..said
            };
        }
        if self.custom.is_kept_in_part() && self.sidecars.selected > 0 {
            return Said {
                status: ConditionStatus::False,
                reason: Reason::PartiallyProgrammed,
                message: running(&self.sidecars, "what is kept of it"),
                ..said
            };
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::DynamicObject;
    use serde_json::{Value, json};

    use super::*;

    fn runtime(spec: &Value, before: Option<&Custom>) -> Custom {
        let object = json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": "Runtime",
            "metadata": {"name": "users", "namespace": "shop", "generation": 3},
            "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        Custom::read("Runtime", &object, before)
    }

    fn workload(account: &str) -> Workload {
        Workload {
            namespace: "shop".to_owned(),
            account: account.to_owned(),
        }
    }

    /// What is said of it where pods of these accounts have sidecars, of which `acked` run it: a line a condition.
    fn said(custom: &Custom, accounts: &[&str], acked: u32) -> Vec<String> {
        let pods = accounts.iter().enumerate();
        let sidecars: BTreeMap<_, _> = pods
            .map(|(pod, account)| (format!("pod-{pod}").into(), workload(account)))
            .collect();
        let selected = sidecars.values().filter(|one| **one == workload("users")).count();
        let catalog = Catalog {
            namespace: "shop".to_owned(),
            sidecars,
            ..Catalog::default()
        };
        let selected = u32::try_from(selected).unwrap();
        let facts = RuntimeFacts {
            workload: workload("users"),
            custom,
            catalog: &catalog,
            in_force: custom.good_generation,
            sidecars: SidecarStatus {
                selected,
                acked,
                stale: selected - acked,
                ..SidecarStatus::default()
            },
            before: &RuntimeStatus::default(),
            now: "2026-01-31T23:59:59Z",
        };
        let conditions = facts.status().conditions.into_iter();
        conditions
            .map(|one| format!("{}={:?} {}: {}", one.kind, one.status, one.reason, one.message))
            .collect()
    }

    #[test]
    fn who_runs_it_is_told() {
        let good = runtime(&json!({"mode": "Shadow"}), None);
        assert_eq!(
            said(&good, &["users", "users", "orders"], 1),
            [
                "Accepted=True Accepted: valid",
                "Programmed=False PartiallyProgrammed: 1 of 2 sidecars run generation 3; 1 not heard of yet"
            ]
        );
        assert_eq!(
            said(&good, &["users"], 1)[1],
            "Programmed=True Programmed: 1 of 1 sidecar runs generation 3"
        );
    }

    #[test]
    fn one_that_is_for_nobody_says_so() {
        let good = runtime(&json!({"mtls": {"mode": "Strict"}}), None);
        let nobody = "Programmed=Unknown NoSidecars: no pod of the service account \"users\" has a sidecar";
        for (accounts, more) in [
            (&[][..], "; no account of the namespace has one"),
            (&["default"], "; accounts that have one: default"),
            (
                &["user"],
                " (did you mean shop/user?); accounts that have one: user",
            ),
        ] {
            assert_eq!(said(&good, accounts, 0)[1], format!("{nobody}{more}"));
        }
    }

    #[test]
    fn a_faulty_one_says_what_is_wrong_and_what_is_kept() {
        let rule = |path: &str| json!({"rules": [{"paths": [{"type": "RegularExpression", "value": path}]}]});
        let faulty = json!({"mtls": {"mode": "Strict"}, "authorization": rule("/(a")});
        let told = said(&runtime(&faulty, None), &["users"], 1);
        let field = "Accepted=False Invalid: spec.authorization.rules[0].paths[0].value: ";
        assert!(told[0].starts_with(field) && told[0].ends_with(KEPT), "{told:?}");
        assert_eq!(
            told[1],
            "Programmed=False PartiallyProgrammed: 1 of 1 sidecar runs what is kept of it"
        );
        let mut good = runtime(&json!({"mtls": {"mode": "Strict"}}), None);
        good.good_generation = Some(2);
        let told = said(&runtime(&faulty, Some(&good)), &["users"], 1);
        assert!(told[0].ends_with("; generation 2 stays in force"), "{told:?}");
        assert_eq!(
            told[1],
            "Programmed=True Programmed: 1 of 1 sidecar runs generation 2"
        );
        let open = said(&runtime(&json!({"logLevel": "loud!"}), None), &["users"], 0);
        assert!(open[0].ends_with("; nothing of it is in force"), "{open:?}");
    }
}
