//! Rules of GRPCRoutes: a call of gRPC is a POST whose path is made of a service and a method.

use serde::Deserialize;
use serde_json::Value;

use super::{MeshMatch, MeshRule, Precision, http, part};
use crate::{FieldMatch, FieldMatchType, PathMatch, PathMatchType, RouteMatch};

#[derive(Deserialize)]
struct Rule {
    name: Option<String>,
    #[serde(default)]
    matches: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: Vec<FieldMatch>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    #[serde(default, rename = "type")]
    kind: Kind,
    service: Option<String>,
    method: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum Kind {
    #[default]
    Exact,
    RegularExpression,
}

pub(super) fn rule(rule: &Value) -> MeshRule {
    match part::<Rule>(rule) {
        Ok(Rule { name, matches }) => MeshRule::of(name, self::matches(&matches)),
        Err(fault) => MeshRule::of(None, Err(fault)),
    }
}

/// The alternatives of a rule; without any, it is for every call of gRPC.
fn matches(matches: &[Value]) -> Result<Vec<MeshMatch>, String> {
    if matches.is_empty() {
        return alternative(Match::default()).map(|any| vec![any]);
    }
    let alternatives = matches.iter().enumerate();
    let alternatives = alternatives.map(|(index, one)| {
        let read = part::<Match>(one).and_then(alternative);
        read.map_err(|fault| format!("matches[{index}]: {fault}"))
    });
    alternatives.collect()
}

fn alternative(one: Match) -> Result<MeshMatch, String> {
    let mut headers = http::fields("headers", one.headers, str::eq_ignore_ascii_case)?;
    let characters = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    let precision = Precision::Grpc {
        service: characters(&one.method.service),
        method: characters(&one.method.method),
        headers: headers.len(),
    };
    headers.push(FieldMatch {
        kind: FieldMatchType::RegularExpression,
        name: "content-type".to_owned(),
        value: Some(CONTENT_TYPE.to_owned()),
    });
    let calls = RouteMatch {
        method: Some("POST".to_owned()),
        path: path(&one.method)?,
        headers,
        query_params: Vec::new(),
    };
    http::checked(calls, precision)
}

fn path(of: &Method) -> Result<PathMatch, String> {
    let text = |part: &Option<String>| part.clone().filter(|text| !text.is_empty());
    let (kind, value) = match (of.kind, text(&of.service), text(&of.method)) {
        (_, None, None) => return Ok(PathMatch::default()),
        (Kind::Exact, Some(service), Some(method)) => (PathMatchType::Exact, format!("/{service}/{method}")),
        (Kind::Exact, Some(service), None) => (PathMatchType::PathPrefix, format!("/{service}")),
        (Kind::Exact, None, Some(method)) => (
            PathMatchType::RegularExpression,
            format!("/{ANY}/{}", regex::escape(&method)),
        ),
        (Kind::RegularExpression, service, method) => {
            let [service, method] = [("service", service), ("method", method)].map(expression);
            let value = format!("/{}/{}", service?, method?);
            (PathMatchType::RegularExpression, value)
        }
    };
    Ok(PathMatch { kind, value })
}

/// An expression that stays one within another.
fn expression((field, text): (&str, Option<String>)) -> Result<String, String> {
    let Some(text) = text else {
        return Ok(ANY.to_owned());
    };
    match jitney_core::route::full_match(&text) {
        Ok(_) => Ok(format!("(?:{text})")),
        Err(_) => Err(format!(
            "method.{field}: found {text:?}, expected a regular expression"
        )),
    }
}

/// Any service or method.
const ANY: &str = "[^/]+";

/// What calls of gRPC carry, whatever codes their messages.
const CONTENT_TYPE: &str = "application/grpc([+;].*)?";
