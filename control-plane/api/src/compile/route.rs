//! One rule of a policy to one route of the core.

use std::sync::Arc;

use jitney_core::codec::Codec;
use jitney_core::policy as core;
use jitney_core::route::{Route, RouteId};

use super::{Check, batching, codec, core_mode, matching};
use crate::node::Path;
use crate::{BatchPolicy, RouteRule};

/// The routes of a policy; those at fault are left out.
pub(super) fn routes(check: &Check<'_>, policy: &BatchPolicy, name: &str, generation: u64) -> Vec<Route> {
    let top = Path::default().keys("spec.routes");
    if policy.spec.routes.len() > MAX_ROUTES {
        check.fault(
            &top,
            format!(
                "found {} routes, expected at most {MAX_ROUTES}",
                policy.spec.routes.len()
            ),
        );
        return Vec::new();
    }
    let mut names = Vec::<String>::new();
    let mut routes = Vec::new();
    let policy_name = Arc::<str>::from(name);
    for (index, rule) in policy.spec.routes.iter().enumerate() {
        let path = top.index(index);
        let rule_name = rule.name.clone().unwrap_or_else(|| index.to_string());
        if !is_label(&rule_name) {
            let expected = "expected 1 to 63 letters, digits, '-', '_' or '.'";
            check.fault(&path.key("name"), format!("found {rule_name:?}, {expected}"));
        }
        if names.contains(&rule_name) {
            let message = format!("found the name {rule_name:?} a second time, expected one of its own");
            check.fault(&path.key("name"), message);
        }
        let settings = Settings {
            policy,
            policy_name: &policy_name,
            rule_name: &rule_name,
            generation,
        };
        routes.extend(route(check, &path, rule, &settings));
        names.push(rule_name);
    }
    routes
}

/// What a route takes from its document.
struct Settings<'a> {
    policy: &'a BatchPolicy,
    policy_name: &'a Arc<str>,
    rule_name: &'a str,
    generation: u64,
}

fn route(check: &Check<'_>, path: &Path, rule: &RouteRule, settings: &Settings<'_>) -> Option<Route> {
    // All parts are looked at before the first missing one ends it, so that all faults are found.
    let matches = matching::matches(check, &path.key("match"), &rule.matches);
    let merging = codec::codec(check, path, rule);
    let batch = batching::batch(check, &path.key("batch"), &rule.batch);
    let key = batching::key(check, &path.key("key"), &rule.key);
    let (codec, default_replay) = merging?;
    let (mut limits, priority_header) = batch?;
    // Batches end at the convention's own cap, too: a target that became too long is refused.
    limits.max_bytes = codec
        .max_bytes()
        .map_or(limits.max_bytes, |most| most.min(limits.max_bytes));
    let spec = &settings.policy.spec;
    Some(Route {
        // A place among its equals comes with the backend.
        id: RouteId(0),
        name: format!("{}/{}", settings.policy_name, settings.rule_name).into(),
        policy: Arc::clone(settings.policy_name),
        generation: settings.generation,
        matches: vec![matches?],
        codec,
        mode: core_mode(spec.mode),
        limits: Arc::new(limits),
        key: key?,
        on_failure: batching::on_failure(&rule.on_failure, default_replay),
        // Those of the effective policy come with the backend.
        timeouts: core::Timeouts::default(),
        priority_header,
    })
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 63 && name.bytes().all(allowed)
}

/// Routes of one policy: each is tried in turn on every call.
const MAX_ROUTES: usize = 256;
