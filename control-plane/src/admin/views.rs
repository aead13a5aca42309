//! What the pages show, as JSON.

use std::borrow::Cow;
use std::time::SystemTime;

use jitney_api::push::{Conflict, Kind};
use jitney_api::{Diagnostic, Workload};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Admin;
use super::rotation::{Standing, last_certificate};
use super::shares::{self, Shares};
use super::warnings::warnings;
use crate::identity::RootState;
use crate::metrics::Levels;
use crate::source;
use crate::status::{Failing, Found, Overview, Progress, Refused, Rejection, Spread, Totals};
use crate::store::Snapshot;

/// How everything stands.
pub(super) fn status(admin: &Admin, standing_to_roots: &Standing) -> Value {
    let snapshot = admin.store.snapshot();
    let overview = admin.sidecars.overview(&snapshot);
    let standing = admin.source.get();
    let shares = Shares::of(&admin.sidecars, &snapshot);
    let elsewhere = standing_to_roots.workloads_elsewhere();
    let refused = admin.refusals.list(SystemTime::now());
    let policies = overview.policies.iter();
    let policies = policies.map(|(name, progress)| {
        let members = shares.members(name);
        // Of who takes a change and who does not, what each runs is known by what was pushed.
        let progress = match members.is_empty() {
            true => as_object(&standing, Kind::Policy, name, progress),
            false => Cow::Borrowed(progress),
        };
        let mut shown = policy(admin, &snapshot, &standing, name, &progress);
        shown["rollout"]["sidecars"] = members.into();
        shown
    });
    let workloads = overview.workloads.iter().map(|(workload, of)| {
        let mut shown = totals(*of);
        shown["workload"] = workload.to_string().into();
        shown
    });
    let runtimes = overview.runtimes.iter().map(|(name, progress)| {
        let progress = as_object(&standing, Kind::Runtime, name, progress);
        runtime(&snapshot, name, &progress)
    });
    json!({
        "ready": admin.lifecycle.ready().is_ok(),
        "generation": snapshot.generation(),
        "source": {
            "files": standing.sources,
            "refused": faults(&standing.refused),
            "warnings": faults(&source_warnings(&standing, &overview)),
            "conflicts": standing.conflicts.iter().map(conflict).collect::<Vec<_>>(),
        },
        "warnings": warnings(admin, &snapshot, &standing, &shares, &overview, &elsewhere),
        "certificates": { "refused": refused.iter().map(refusal).collect::<Vec<_>>() },
        "state": { "faults": admin.state_faults() },
        "sidecars": totals(overview.sidecars),
        "workloads": workloads.collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
        "runtimes": runtimes.collect::<Vec<_>>(),
        "trust": trust(admin, standing_to_roots),
    })
}

/// With the generation that the object has in a cluster, which its own status names, too.
fn as_object<'p>(
    standing: &source::Standing,
    kind: Kind,
    name: &str,
    progress: &'p Progress,
) -> Cow<'p, Progress> {
    match standing.generations.get(&(kind, name.to_owned())) {
        Some(&generation) => {
            let mut progress = progress.clone();
            progress.generation = generation;
            Cow::Owned(progress)
        }
        None => Cow::Borrowed(progress),
    }
}

/// What is odd about the files. What is for nobody is so only as long as no sidecar of that name is here.
fn source_warnings(standing: &source::Standing, overview: &Overview) -> Vec<Diagnostic> {
    let is_here = |workload: &Workload| overview.workloads.contains_key(workload);
    let strays = standing.strays.iter();
    let strays = strays.filter(|stray| !stray.workload.as_ref().is_some_and(is_here));
    let strays = strays.map(|stray| &stray.warning);
    standing.warnings.iter().chain(strays).cloned().collect()
}

fn totals(of: Totals) -> Value {
    json!({
        "connected": of.connected(),
        "acked": of.acked,
        "rejected": of.rejected,
        "stale": of.stale,
    })
}

fn policy(
    admin: &Admin,
    snapshot: &Snapshot,
    standing: &source::Standing,
    name: &str,
    progress: &Progress,
) -> Value {
    let version = snapshot.entry(Kind::Policy, name).map(|entry| entry.held.version);
    let findings = version.map_or_else(Vec::new, |version| admin.findings.of(name, version));
    json!({
        "name": name,
        "version": version.map(|version| version.to_string()),
        "generation": progress.generation,
        "text": policy_text(standing, name, progress),
        "sidecars": sidecars_of(progress),
        "rollout": rollout(progress),
        "findings": found(&findings),
        "failingBatches": progress.failing.iter().map(failing).collect::<Vec<_>>(),
    })
}

/// A policy that has lost everything to others is to be run by nobody.
fn policy_text(standing: &source::Standing, name: &str, progress: &Progress) -> String {
    let conflicts = standing.conflicts.iter();
    let conflicts = conflicts.filter(|conflict| conflict.policy == name);
    let conflicts: Vec<String> = conflicts
        .map(|conflict| format!("{}: {}", conflict.target, conflict.reason))
        .collect();
    match (&conflicts[..], progress.selected) {
        ([], _) => progress.text(),
        (_, 0) => format!("Conflicted: {}", conflicts.join("; ")),
        (_, _) => format!("{}; conflicted: {}", progress.text(), conflicts.join("; ")),
    }
}

fn runtime(snapshot: &Snapshot, name: &str, progress: &Progress) -> Value {
    let version = snapshot
        .entry(Kind::Runtime, name)
        .map(|entry| entry.held.version);
    json!({
        "name": name,
        "version": version.map(|version| version.to_string()),
        "generation": progress.generation,
        "text": progress.text(),
        "sidecars": sidecars_of(progress),
    })
}

fn sidecars_of(progress: &Progress) -> Value {
    json!({
        "selected": progress.selected,
        "acked": progress.acked,
        "rejected": progress.rejected,
        "stale": progress.stale,
        "lastRejection": progress.last_rejection.as_ref().map(rejection),
    })
}

/// How far the present content may go.
fn rollout(progress: &Progress) -> Value {
    let stage = progress.stage();
    let stop = stage.and_then(|stage| stage.stop.as_ref());
    let since = stage.map(|stage| stop.map_or(stage.since, |stop| stop.at));
    json!({
        "percent": progress.rollout.as_ref().map_or(100, |rollout| rollout.percent),
        "state": Spread::of(progress).as_str(),
        "staged": progress.staged,
        "reason": stop.map(|stop| &stop.reason),
        "at": since.map(at),
    })
}

/// How many have found something, and the worst and the last of it.
fn found(findings: &[Found]) -> Value {
    let worst = findings
        .iter()
        .max_by(|one, other| one.since.total_cmp(&other.since));
    let one = |found: &Found| {
        json!({
            "workload": found.workload.to_string(),
            "at": at(found.at),
            "before": found.before,
            "since": found.since,
        })
    };
    json!({
        "sidecars": findings.len(),
        "worst": worst.map(one),
        "last": findings.last().map(one),
    })
}

/// A route whose batches fail.
fn failing((route, failing): (&String, &Failing)) -> Value {
    json!({
        "route": route,
        "sidecars": failing.sidecars,
        "by": failing.by.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reason": failing.reason,
    })
}

fn trust(admin: &Admin, standing: &Standing) -> Value {
    let roots = admin.trust.roots();
    let step = standing.next_step(roots.all(), SystemTime::now());
    let roots = roots.all().iter().map(|root| {
        json!({
            "id": root.id.to_string(),
            "state": root.state.as_str(),
            "since": at(root.since),
            "notAfter": at(root.not_after),
            "signer": root.authority.signer().unwrap_or_else(|| "self".to_owned()),
            "signsUntil": at(root.authority.life().until),
            "sidecarsThatTrustIt": standing.trust(root.id),
            "sidecarCertificates": standing.hold(root.id),
            "lastCertificateExpires": last_certificate(root).map(at),
        })
    });
    json!({
        "trustDomain": admin.trust.trust_domain(),
        "roots": roots.collect::<Vec<_>>(),
        "rotation": {
            "step": step.name,
            "isSafe": step.waits_for == 0,
            "waitsFor": step.waits_for,
            "text": step.text,
        },
    })
}

/// Every sidecar that is connected.
pub(super) fn sidecars(admin: &Admin) -> Value {
    let snapshot = admin.store.snapshot();
    let (mut all, staged) = (Vec::new(), shares::staged(&snapshot));
    admin.sidecars.each(|sidecar| {
        let runs = sidecar
            .all_runs()
            .map(|(kind, name, version)| json!({"type": kind.as_str(), "name": &**name, "version": version.to_string()}));
        let rejected = sidecar.all_rejected().map(|(kind, nack)| {
            json!({
                "type": kind.as_str(),
                "name": &*nack.name,
                "version": nack.version.map(|version| version.to_string()),
                "field": nack.field,
                "reason": nack.reason,
            })
        });
        all.push(json!({
            "node": sidecar.recipient.node,
            "workload": sidecar.recipient.workload.to_string(),
            "since": at(sidecar.since),
            "root": sidecar.root.map(|root| root.to_string()),
            "rollouts": shares::of_sidecar(sidecar, &snapshot, &staged),
            "versions": runs.collect::<Vec<_>>(),
            "rejected": rejected.collect::<Vec<_>>(),
        }));
    });
    json!({ "sidecars": all })
}

/// Every resource, with who may read it.
pub(super) fn policies(admin: &Admin) -> Value {
    let snapshot = admin.store.snapshot();
    let of_kind = |kind: Kind| {
        let present = snapshot.all(kind).map(move |one| (kind, false, one));
        let baseline = snapshot.all_baseline(kind);
        present.chain(baseline.map(move |one| (kind, true, one)))
    };
    let all = Kind::ALL
        .into_iter()
        .flat_map(of_kind)
        .map(|(kind, is_baseline, (name, entry))| {
            let readers = match entry.readers.workloads() {
                None => json!("everyone"),
                Some(workloads) => workloads.iter().map(ToString::to_string).collect(),
            };
            json!({
                "type": kind.as_str(),
                "name": &**name,
                "version": entry.held.version.to_string(),
                "generation": entry.generation,
                "isBaseline": is_baseline,
                "readers": readers,
            })
        });
    json!({ "generation": snapshot.generation(), "resources": all.collect::<Vec<_>>() })
}

/// What a scrape says beside what is counted as it happens.
pub(super) fn levels(admin: &Admin, standing_to_roots: &Standing) -> Levels {
    let snapshot = admin.store.snapshot();
    let overview = admin.sidecars.overview(&snapshot);
    let standing = admin.source.get();
    let (mut policies, mut rollouts) = ([0; 3], [0; 3]);
    for progress in overview.policies.values() {
        rollouts[Spread::of(progress) as usize] += 1;
        let state = match progress {
            Progress { rejected: 1.., .. } => 2,
            Progress { stale: 1.., .. } => 1,
            Progress { .. } => 0,
        };
        policies[state] += 1;
    }
    let totals = overview.sidecars;
    let roots = admin.trust.roots();
    let step = standing_to_roots.next_step(roots.all(), SystemTime::now());
    let signers = roots.all().iter().filter(|root| root.state != RootState::Old);
    let signers = signers
        .map(|root| (root.id.to_string(), root.authority.life()))
        .collect();
    let roots = roots.all().iter();
    Levels {
        signers,
        sidecars: [totals.acked, totals.stale, totals.rejected],
        policies,
        rollouts,
        conflicts: standing.conflicts.len(),
        is_source_good: standing.refused.is_empty(),
        unkept: admin.state_faults().len(),
        generation: snapshot.generation(),
        roots: roots
            .map(|root| {
                (
                    root.id.to_string(),
                    standing_to_roots.trust(root.id),
                    standing_to_roots.hold(root.id),
                )
            })
            .collect(),
        rotation_waits_for: (step.name, step.waits_for),
    }
}

fn faults(faults: &[Diagnostic]) -> Vec<Value> {
    let fault = |fault: &Diagnostic| {
        json!({
            "file": &*fault.file,
            "line": fault.line,
            "column": fault.column,
            "field": fault.field,
            "message": fault.message,
            "text": fault.to_string(),
        })
    };
    faults.iter().map(fault).collect()
}

fn conflict(conflict: &Conflict) -> Value {
    json!({
        "policy": conflict.policy,
        "target": conflict.target,
        "winner": conflict.winner,
        "reason": conflict.reason,
    })
}

/// A sidecar that got no certificate.
fn refusal(refused: &Refused) -> Value {
    json!({
        "workload": refused.workload.as_ref().map(ToString::to_string),
        "node": refused.node,
        "reason": refused.reason,
        "times": refused.times,
        "since": at(refused.since),
        "at": at(refused.at),
    })
}

fn rejection(rejection: &Rejection) -> Value {
    let nack = &rejection.nack;
    json!({
        "node": rejection.by.node,
        "type": rejection.kind.as_str(),
        "name": &*nack.name,
        "version": nack.version.map(|version| version.to_string()),
        "field": nack.field,
        "reason": nack.reason,
    })
}

/// RFC 3339, to the second.
pub(super) fn at(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).replace_nanosecond(0);
    time.ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
