//! What an object still keeps out that cannot be taken as it is, where no better version of it is known: without
//! that, a mistake in a Runtime would open to everybody what it closes as soon as the control plane starts anew.

use std::sync::Arc;

use jitney_api::{Diagnostic, Document, Documents};
use serde_json::{Map, Value, json};

/// Of a Runtime that says who may call, and what callers have to prove, as much as can be read: rules allow, so that
/// one that cannot be read allows nobody. `None`: it says nothing of either, or is another kind.
pub(super) fn of(
    name: &Arc<str>,
    document: &Value,
    check: impl Fn(&Documents) -> Vec<Diagnostic>,
) -> Option<Document> {
    let spec = document.get("spec").filter(|_| document["kind"] == "Runtime")?;
    let read = |spec: Map<String, Value>| {
        let mut document = document.clone();
        document["spec"] = spec.into();
        let documents = Documents::of_json([(Arc::clone(name), document)]);
        let is_good = !check(&documents).iter().any(Diagnostic::is_error);
        documents.documents.into_iter().next().filter(|_| is_good)
    };
    let with = |field: &str, value: Value| Map::from_iter([(field.to_owned(), value)]);
    let is_good = |field: &str, value: &Value| read(with(field, value.clone())).is_some();
    let mut kept = Map::new();
    if let Some(mtls) = spec.get("mtls") {
        let mtls = match is_good("mtls", mtls) {
            true => mtls.clone(),
            false => json!({"mode": "Strict"}),
        };
        kept.insert("mtls".to_owned(), mtls);
    }
    if let Some(access) = spec.get("authorization") {
        let access_with = |rules: Vec<&Value>| match access["mode"] == "DryRun" {
            true => json!({"mode": "DryRun", "rules": rules}),
            false => json!({"rules": rules}),
        };
        let rules = access["rules"].as_array().into_iter().flatten();
        let rules = rules.filter(|rule| is_good("authorization", &access_with(vec![rule])));
        let all = access_with(rules.collect());
        let access = is_good("authorization", &all).then_some(all);
        kept.insert(
            "authorization".to_owned(),
            access.unwrap_or_else(|| access_with(Vec::new())),
        );
    }
    (!kept.is_empty()).then(|| read(kept))?
}

#[cfg(test)]
mod tests {
    use jitney_api::{Mtls, Resource, Runtime, RuntimeSpec};

    use super::*;
    use crate::kubernetes::custom::check;

    fn cautious(kind: &str, spec: &Value) -> Option<RuntimeSpec> {
        let document = json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "users", "namespace": "shop"},
            "spec": spec,
        });
        let found = of(&"Runtime shop/users".into(), &document, check)?;
        let Resource::Runtime(Runtime { spec, .. }) = found.resource else {
            panic!("{found:?}");
        };
        Some(spec)
    }

    #[test]
    fn rules_that_cannot_be_read_allow_nobody() {
        let path = |value: &str| json!({"paths": [{"type": "RegularExpression", "value": value}]});
        let spec = json!({
            "logLevel": "such a level there is not",
            "mtls": {"mode": "Strict", "ports": [{"port": 9090, "mode": "Permissive"}]},
            "authorization": {"rules": [path("/(a"), path("/b"), {"from": ["shop/front"]}]},
        });
        let kept = cautious("Runtime", &spec).unwrap();
        let mtls = kept.mtls.unwrap();
        assert_eq!((mtls.mode, mtls.on(9090)), (Mtls::Strict, Mtls::Permissive));
        let rules = kept.authorization.unwrap().rules;
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert_eq!(rules[0].paths[0].value, "/b");
        assert_eq!(rules[1].from, ["shop/front"]);
        assert_eq!(kept.log_level, None);
    }

    #[test]
    fn what_cannot_be_read_at_all_is_closed() {
        let spec =
            json!({"mtls": {"mode": "Sometimes"}, "authorization": {"mode": "Sometimes", "rules": "none"}});
        let kept = cautious("Runtime", &spec).unwrap();
        assert_eq!(kept.mtls.unwrap().mode, Mtls::Strict);
        let access = kept.authorization.unwrap();
        assert_eq!((access.mode, access.rules), (Default::default(), Vec::new()));
    }

    #[test]
    fn what_closes_nothing_is_left_alone() {
        assert_eq!(
            cautious("Runtime", &json!({"logLevel": "such a level there is not"})),
            None
        );
        assert_eq!(cautious("BatchPolicy", &json!({"authorization": {}})), None);
    }
}
