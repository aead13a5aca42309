//! Rules of HTTPRoutes. Their matches are written as those of a policy are.

use serde::Deserialize;
use serde_json::Value;

use super::{MeshMatch, MeshRule, Precision, part};
use crate::compile::lone_match;
use crate::{FieldMatch, FieldMatchType, PathMatchType, RouteMatch};

#[derive(Deserialize)]
struct Rule {
    name: Option<String>,
    #[serde(default)]
    matches: Vec<Value>,
}

pub(super) fn rule(rule: &Value) -> MeshRule {
    match part::<Rule>(rule) {
        Ok(Rule { name, matches }) => MeshRule::of(name, self::matches(matches)),
        Err(fault) => MeshRule::of(None, Err(fault)),
    }
}

/// The alternatives of a rule; without any, it is for every call.
pub(super) fn matches(mut matches: Vec<Value>) -> Result<Vec<MeshMatch>, String> {
    if matches.is_empty() {
        matches.push(Value::Object(serde_json::Map::new()));
    }
    let alternatives = matches.iter().enumerate();
    let alternatives = alternatives.map(|(index, one)| {
        let read = part::<RouteMatch>(one).and_then(alternative);
        read.map_err(|fault| format!("matches[{index}]: {fault}"))
    });
    alternatives.collect()
}

fn alternative(mut calls: RouteMatch) -> Result<MeshMatch, String> {
    if calls.path.kind == PathMatchType::Template {
        return Err("path.type: found \"Template\", expected Exact, PathPrefix or RegularExpression".into());
    }
    calls.headers = fields("headers", calls.headers, str::eq_ignore_ascii_case)?;
    calls.query_params = fields("queryParams", calls.query_params, |one, other| one == other)?;
    let RouteMatch {
        method,
        path,
        headers,
        query_params,
    } = &calls;
    let precision = Precision::http(path, method.as_deref(), headers, query_params);
    checked(calls, precision)
}

/// Fields as the Gateway API has them: of those of one name the first counts.
pub(super) fn fields(
    part: &str,
    fields: Vec<FieldMatch>,
    is_same: impl Fn(&str, &str) -> bool,
) -> Result<Vec<FieldMatch>, String> {
    let mut kept = Vec::<FieldMatch>::with_capacity(fields.len());
    for field in fields {
        if field.kind == FieldMatchType::Present {
            return Err(format!(
                "{part}: found type \"Present\", expected Exact or RegularExpression"
            ));
        }
        if !kept.iter().any(|known| is_same(&known.name, &field.name)) {
            kept.push(field);
        }
    }
    Ok(kept)
}

/// A match that a sidecar can look for.
pub(super) fn checked(calls: RouteMatch, precision: Precision) -> Result<MeshMatch, String> {
    match lone_match(&calls) {
        Ok(_) => Ok(MeshMatch { calls, precision }),
        Err(fault) => Err(format!("{}: {}", fault.field, fault.message)),
    }
}
