//! What is odd and refuses nothing, a line each.

use std::collections::BTreeSet;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::push::{Kind, meant};

use super::Admin;
use super::shares::Shares;
use crate::source;
use crate::status::Overview;
use crate::store::Snapshot;

/// Everything but what the files themselves say.
pub(super) fn warnings(
    admin: &Admin,
    snapshot: &Snapshot,
    standing: &source::Standing,
    shares: &Shares,
    overview: &Overview,
    elsewhere: &BTreeSet<Workload>,
) -> Vec<String> {
    let mut warnings = admin.faults.texts();
    warnings.extend(standing.refusal());
    warnings.extend(admin.rollouts.warnings());
    warnings.extend(shares.warnings(overview));
    for (policy, progress) in &overview.policies {
        if let Some(stop) = progress.stage().and_then(|stage| stage.stop.as_ref()) {
            warnings.push(format!("{policy}: its rollout has stopped: {}", stop.reason));
        }
        let failing = progress.failing.iter();
        warnings.extend(failing.map(|(route, failing)| format!("{policy}: {}", failing.text(route))));
    }
    let refused = admin.refusals.list(SystemTime::now());
    warnings.extend(refused.iter().map(|refused| refused.text()));
    warnings.extend(admin.handshakes.texts(SystemTime::now()));
    let is_somewhere = |workload: &Workload| {
        overview.workloads.contains_key(workload) || is_elsewhere(workload, standing, elsewhere)
    };
    warnings.extend(missing(snapshot, is_somewhere));
    warnings.extend(misnamed(overview, &standing.workloads));
    if warnings.len() > MOST {
        let more = warnings.len() - MOST;
        warnings.truncate(MOST);
        warnings.push(format!("and {more} more"));
    }
    warnings
}

/// Whether a workload needs no word from this replica, to which none of its sidecars is connected.
fn is_elsewhere(workload: &Workload, standing: &source::Standing, elsewhere: &BTreeSet<Workload>) -> bool {
    let mut strays = standing.strays.iter();
    elsewhere.contains(workload)
        // That nobody knows it is said of the files.
        || strays.any(|stray| stray.workload.as_ref() == Some(workload))
        // Its pods' sidecars may be connected to any replica: statuses tell of all of them, this page of its own.
        || standing.of_pods.as_ref().is_some_and(|pods| pods.contains(workload))
}

/// Workloads for which there is something, and nobody who runs it.
fn missing(snapshot: &Snapshot, is_here: impl Fn(&Workload) -> bool) -> Vec<String> {
    let workloads: BTreeSet<&Workload> = snapshot.workloads().collect();
    let missing = workloads.into_iter().filter(|workload| !is_here(workload));
    let warning = |workload: &Workload| {
        let policies = snapshot.own_of(workload, Kind::Policy).count();
        let runtimes = snapshot.own_of(workload, Kind::Runtime).count();
        let what = match (policies, runtimes) {
            (0, 0) => return None,
            (0, _) => "its listeners or caps".to_owned(),
            (1, _) => "a policy".to_owned(),
            (count, _) => format!("{count} policies"),
        };
        Some(format!(
            "{workload}: no sidecar of it is connected that would run {what}"
        ))
    };
    missing.filter_map(warning).collect()
}

/// Sidecars that are nearly called as somebody whom the documents know, and so get nothing.
fn misnamed(overview: &Overview, known: &BTreeSet<Workload>) -> Vec<String> {
    let strangers = overview
        .workloads
        .keys()
        .filter(|workload| !known.contains(workload));
    let misnamed = strangers.map(|workload| (workload, meant(workload, known)));
    let misnamed = misnamed.filter(|(_, meant)| !meant.is_empty());
    misnamed
        .map(|(workload, meant)| {
            format!("{workload}: a sidecar of it is connected, and no document knows it{meant}")
        })
        .collect()
}

/// More say nothing more.
const MOST: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    /// In a cluster a replica sees the sidecars of others as pods only; in files, as these say.
    #[test]
    fn a_workload_with_sidecars_at_another_replica_is_not_missed() {
        let users: Workload = "shop/users".parse().unwrap();
        let others = BTreeSet::from(["shop/orders".parse().unwrap()]);
        let standing = |of_pods: Option<&BTreeSet<Workload>>| source::Standing {
            of_pods: of_pods.cloned(),
            ..source::Standing::default()
        };
        let of_users = BTreeSet::from([users.clone()]);
        let nowhere = BTreeSet::new();
        assert!(is_elsewhere(&users, &standing(Some(&of_users)), &nowhere));
        assert!(is_elsewhere(&users, &standing(None), &of_users));
        for of_pods in [None, Some(&nowhere), Some(&others)] {
            assert!(!is_elsewhere(&users, &standing(of_pods), &others), "{of_pods:?}");
        }
    }
}
