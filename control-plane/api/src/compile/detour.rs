//! What is done to calls before they are sent on.

use http::StatusCode;
use jitney_core::grpc::Code;
use jitney_core::policy as core;

use super::batching::MAX_WAIT;
use super::targets::unknown_backend;
use super::{Check, Faults};
use crate::node::Path;
use crate::{BackendRef, Diagnostic, Documents, FaultAbort, FaultInjection, Protocol, Resource, Traffic};

/// Detours; one at fault is none.
pub(super) fn detours(check: &Check<'_>, path: &Path, settings: &Traffic) -> core::Detours {
    let refs = settings.backend_refs.as_deref();
    core::Detours {
        split: refs.and_then(|refs| split(check, &path.key("backendRefs"), refs)),
        mirror: settings.request_mirror.as_ref().map(|mirror| core::Mirror {
            name: mirror.backend_ref.name.as_str().into(),
            share: share(check, &path.keys("requestMirror.percent"), mirror.percent),
        }),
        faults: settings
            .fault_injection
            .as_ref()
            .map(|settings| faults(check, &path.key("faultInjection"), settings)),
    }
}

fn split(check: &Check<'_>, path: &Path, refs: &[BackendRef]) -> Option<core::Split> {
    if !(1..=MAX_REFS).contains(&refs.len()) {
        let count = refs.len();
        check.fault(path, format!("found {count} backends, expected 1 to {MAX_REFS}"));
        return None;
    }
    for (index, one) in refs.iter().enumerate() {
        let path = path.index(index);
        if one.weight > MAX_WEIGHT {
            let message = format!("found {}, expected 0 to {MAX_WEIGHT}", one.weight);
            check.fault(&path.key("weight"), message);
        }
        if refs[..index].iter().any(|before| before.name == one.name) {
            let message = format!("found {:?} a second time, expected it once", one.name);
            check.fault(&path.key("name"), message);
        }
    }
    let shares = refs
        .iter()
        .map(|one| core::BackendRef::new(one.name.as_str(), one.weight));
    let split = core::Split::new(shares);
    if split.is_none() {
        check.fault(path, "found no weight above 0, expected at least one");
    }
    split
}

fn faults(check: &Check<'_>, path: &Path, settings: &FaultInjection) -> core::Faults {
    if settings.delay.is_none() && settings.abort.is_none() {
        check.fault(path, "found neither delay nor abort, expected at least one");
    }
    let delay = settings.delay.as_ref().map(|delay| {
        let (path, found) = (path.key("delay"), delay.fixed_delay);
        if found.0.is_zero() || found.0 > MAX_WAIT {
            let message = format!("found {found}, expected a time above 0, at most 1h");
            check.fault(&path.key("fixedDelay"), message);
        }
        let share = share(check, &path.key("percentage"), delay.percentage);
        (found.0, share)
    });
    let abort = settings.abort.as_ref().map(|abort| {
        let path = path.key("abort");
        let share = share(check, &path.key("percentage"), abort.percentage);
        (injected(check, &path, abort), share)
    });
    core::Faults { delay, abort }
}

fn injected(check: &Check<'_>, path: &Path, abort: &FaultAbort) -> core::Injected {
    if abort.http_status.is_none() && abort.grpc_status.is_none() {
        check.fault(
            path,
            "found neither httpStatus nor grpcStatus, expected at least one",
        );
    }
    let http = abort.http_status.and_then(|found| {
        let status = StatusCode::from_u16(found)
            .ok()
            .filter(|_| (200..600).contains(&found));
        if status.is_none() {
            check.fault(
                &path.key("httpStatus"),
                format!("found {found}, expected 200 to 599"),
            );
        }
        status
    });
    let grpc = abort.grpc_status.and_then(|found| {
        let code = Code::new(found).filter(|code| *code != Code::OK);
        if code.is_none() {
            check.fault(
                &path.key("grpcStatus"),
                format!("found {found}, expected 1 to 16"),
            );
        }
        code
    });
    core::Injected { http, grpc }
}

fn share(check: &Check<'_>, path: &Path, percent: f64) -> core::Share {
    if !(0.0..=100.0).contains(&percent) {
        check.fault(path, format!("found {percent}, expected 0 to 100"));
    }
    core::Share::percent(percent)
}

/// A backend as policies know it: its name and its protocol.
pub(super) type Known<'a> = (&'a str, Protocol);

/// Checks that backends that a policy names are there, and take what the policy's targets take.
pub(super) fn check_named(check: &Check<'_>, settings: &Traffic, known: &[Known<'_>], targets: &[Known<'_>]) {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let is_bytes = |one: &&Known<'_>| one.1 == Protocol::TCP;
    for (path, name) in named(settings) {
        unknown_backend(check, &path, name, &names);
        let takes_no_call = known.iter().filter(is_bytes).any(|(other, _)| *other == name);
        if takes_no_call && let Some((target, _)) = targets.iter().find(|target| !is_bytes(target)) {
            let message =
                format!("found {name:?}, which is protocol: TCP and takes no calls, for those to {target}");
            check.fault(&path, message);
        }
    }
    let mirrored = settings.request_mirror.iter().flat_map(|mirror| {
        let is_own = |target: &&Known<'_>| target.0 == mirror.backend_ref.name;
        targets.iter().find(is_own)
    });
    for (target, _) in mirrored {
        let path = Path::default().keys("spec.traffic.requestMirror.backendRef.name");
        check.fault(
            &path,
            format!("found {target:?}, expected another backend than the target"),
        );
    }
}

/// Policies that name what is not in these files, told as faults: for a sidecar before one upstream, which knows
/// neither other backends nor routes.
pub fn named_backends(documents: &Documents) -> Vec<Diagnostic> {
    let faults = Faults::of(documents);
    for document in &documents.documents {
        let check = Check {
            document,
            faults: &faults,
        };
        let Resource::BatchPolicy(policy) = &document.resource else {
            continue;
        };
        super::targets::check_kinds(&check, &policy.spec.target_refs);
        for (path, name) in policy.spec.traffic.iter().flat_map(named) {
            let message = format!("backend {name:?} is not defined: expected a Backend in these files");
            check.fault(&path, message);
        }
    }
    faults.warnings_or_errors().err().unwrap_or_default()
}

/// The names of backends, and where they stand.
pub(crate) fn named(settings: &Traffic) -> impl Iterator<Item = (Path, &str)> {
    let path = Path::default().keys("spec.traffic");
    let refs = path.key("backendRefs");
    let shares = settings.backend_refs.iter().flatten().enumerate();
    let shares = shares.map(move |(index, one)| (refs.index(index).key("name"), one.name.as_str()));
    let mirror = settings.request_mirror.iter();
    let mirror = mirror.map(move |mirror| {
        let path = path.keys("requestMirror.backendRef.name");
        (path, mirror.backend_ref.name.as_str())
    });
    shares.chain(mirror)
}

/// As many as Gateway API takes.
const MAX_REFS: usize = 16;
/// As in Gateway API.
const MAX_WEIGHT: u32 = 1_000_000;

#[cfg(test)]
mod tests;
