//! Caps on every policy.

use jitney_core::access::Access;

use super::authorization::access;
use super::batching::{MAX_SIZE, MAX_WAIT, check_window};
use super::{Check, Faults};
use crate::node::Path;
use crate::{Documents, LogLevel, Resource, RuntimeSpec};

/// The first Runtime of the documents, all of which are checked, and who may call by it.
pub(super) fn first(documents: &Documents, faults: &Faults) -> (RuntimeSpec, Option<Access>) {
    let mut all = documents.documents.iter().filter_map(|document| {
        let Resource::Runtime(runtime) = &document.resource else {
            return None;
        };
        let check = Check { document, faults };
        check_caps(&check, &runtime.spec);
        let authorization = runtime.spec.authorization.as_ref();
        let access = authorization.map(|authorization| access(&check, authorization));
        Some((runtime.spec.clone(), access))
    });
    let first = all.next().unwrap_or_default();
    all.for_each(drop);
    first
}

fn check_caps(check: &Check<'_>, spec: &RuntimeSpec) {
    let path = Path::default().key("spec");
    if let Some(level) = &spec.log_level {
        drop(check.ok(&path.key("logLevel"), level, level.parse::<LogLevel>()));
    }
    if let Some(size) = spec.max_size.filter(|size| !(1..=MAX_SIZE).contains(size)) {
        check.fault(
            &path.key("maxSize"),
            format!("found {size}, expected 1 to {MAX_SIZE}"),
        );
    }
    if let Some(timeout) = spec.timeout.filter(|timeout| timeout.0 > MAX_WAIT) {
        check.fault(
            &path.key("timeout"),
            format!("found {timeout}, expected at most 1h"),
        );
    }
    if let Some(asked) = &spec.mtls {
        super::mtls::check(check, asked);
    }
    if let Some(bounds) = spec.window {
        check_window(check, &path, bounds);
    }
}

#[cfg(test)]
mod tests {
    use jitney_core::batch::Window;

    use crate::{Diagnostic, Documents, Sources, check, compile, compile_for_upstream};

    fn read(text: &str) -> Documents {
        Documents::read(&Sources::inline("p.yaml", text))
    }

    fn told(text: &str) -> Vec<String> {
        check(&read(text)).iter().map(Diagnostic::to_string).collect()
    }

    #[test]
    fn bad_caps_are_told_by_place_and_field() {
        let runtime = |spec: &str| {
            told(&format!(
                "kind: Runtime\nmetadata: {{name: users}}\nspec: {{{spec}}}\n"
            ))
        };
        assert_eq!(runtime("logLevel: 'info,hyper=warn', maxSize: 1"), [""; 0]);
        let level = runtime("logLevel: loud");
        assert!(
            level[0].starts_with("p.yaml:3:18: spec.logLevel: found \"loud\""),
            "{level:?}"
        );
        assert_eq!(
            runtime("maxSize: 0"),
            ["p.yaml:3:17: spec.maxSize: found 0, expected 1 to 65536"]
        );
        assert_eq!(
            runtime("window: {min: 9, max: 4}"),
            ["p.yaml:3:16: spec.window: found min 9, max 4, expected 1 <= min <= max <= 256"]
        );
        assert_eq!(
            runtime("timeout: 2h"),
            ["p.yaml:3:17: spec.timeout: found 2h, expected at most 1h"]
        );
    }

    #[test]
    fn a_route_has_bounds_of_its_own() {
        let policy = "kind: BatchPolicy\nmetadata: {name: rpc}\nspec:\n  routes:\n  - codec: {jsonRpc: {}}\n    \
             batch: {window: {min: 2, max: 8}}\n";
        let compiled = compile_for_upstream(&read(policy)).unwrap();
        let bounds = Window::Within { min: 2, max: 8 };
        assert_eq!(compiled.policy.routes()[0].limits.window, bounds);
        let bad = told(&policy.replace("min: 2", "min: 0"));
        assert!(
            bad[0].contains("spec.routes[0].batch.window: found min 0"),
            "{bad:?}"
        );
    }

    #[test]
    fn listeners_of_two_workloads_may_have_the_same_address() {
        let two = |workload: &str| {
            format!(
                "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['10.0.0.1:80']}}\n---\n\
                 kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '0.0.0.0:80', local: '127.0.0.1:9000'}}\n---\n\
                 kind: Listener\nmetadata: {{name: out}}\nspec: {{address: '0.0.0.0:80', workload: {workload}}}\n"
            )
        };
        let compiled = compile(&read(&two("orders"))).unwrap();
        let told_of: Vec<(&str, bool)> = compiled
            .listeners
            .iter()
            .map(|one| (&*one.workload, one.local.is_some()))
            .collect();
        assert_eq!(told_of, [("users", true), ("orders", false)]);
        let same = told(&two("users"));
        assert!(
            same[0].contains("spec.address: found \"0.0.0.0:80\" a second time"),
            "{same:?}"
        );
        let bad = told(&two("orders").replace("127.0.0.1:9000", "nowhere"));
        assert!(bad[0].contains("spec.local: found \"nowhere\""), "{bad:?}");
    }
}
