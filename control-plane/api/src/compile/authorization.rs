//! Who may call, as the core decides it.

use jitney_core::access::{Access, Rule, Who};

use super::Check;
use super::matching::{method, path_match};
use crate::node::Path;
use crate::{AccessRule, Authorization, AuthorizationMode, SpiffeId, Workload};

/// The rules, without those that have a fault, which is told.
pub(super) fn access(check: &Check<'_>, authorization: &Authorization) -> Access {
    let path = Path::default().keys("spec.authorization.rules");
    let mut rules: Vec<Rule> = Vec::new();
    for (index, settings) in authorization.rules.iter().enumerate() {
        let path = path.index(index);
        let Some(rule) = rule(check, &path, index, settings) else {
            continue;
        };
        if rules.iter().any(|other| other.name == rule.name) {
            let message = format!("found a second rule of the name {:?}", rule.name);
            check.fault(&path.key("name"), message);
        }
        rules.push(rule);
    }
    Access {
        rules,
        is_enforced: authorization.mode == AuthorizationMode::Enforce,
    }
}

fn rule(check: &Check<'_>, path: &Path, index: usize, settings: &AccessRule) -> Option<Rule> {
    let from = settings.from.iter().enumerate();
    let from: Vec<_> = from
        .map(|(n, text)| who(check, &path.key("from").index(n), text))
        .collect();
    let methods = settings.methods.iter().enumerate();
    let methods: Vec<_> = methods
        .map(|(n, text)| method(check, &path.key("methods").index(n), text))
        .collect();
    let paths = settings.paths.iter().enumerate();
    let paths: Vec<_> = paths
        .map(|(n, one)| path_match(check, &path.key("paths").index(n), one))
        .collect();
    for (n, port) in settings.ports.iter().enumerate() {
        if *port == 0 {
            check.fault(&path.key("ports").index(n), "found 0, expected 1 to 65535");
        }
    }
    let name = settings.name.clone();
    Some(Rule {
        name: name.unwrap_or_else(|| index.to_string()).into(),
        from: from.into_iter().collect::<Option<_>>()?,
        ports: settings.ports.clone(),
        methods: methods.into_iter().collect::<Option<_>>()?,
        paths: paths.into_iter().collect::<Option<_>>()?,
    })
}

fn who(check: &Check<'_>, path: &Path, text: &str) -> Option<Who> {
    let who = match text.strip_suffix("/*") {
        _ if text == "*" => Some(Who::Anybody),
        Some(namespace) if crate::is_segment(namespace) => Some(Who::Namespace(namespace.into())),
        Some(_) => None,
        None if text.parse::<SpiffeId>().is_ok() => Some(Who::Id(text.into())),
        None => text.parse::<Workload>().ok().map(|_| Who::Workload(text.into())),
    };
    if who.is_none() {
        let expected = "expected namespace/workload, namespace/*, * or a SPIFFE ID";
        check.fault(path, format!("found {text:?}, {expected}"));
    }
    who
}
