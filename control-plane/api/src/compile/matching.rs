//! Matches: paths, fields and parameters are checked and expressions compiled.

use http::{HeaderName, Method};
use jitney_core::route as core;
use jitney_core::route::{Template, ValueMatch, full_match};

use super::{Check, Faults};
use crate::node::Path;
use crate::{Diagnostic, Documents, FieldMatch, FieldMatchType, PathMatch, PathMatchType, RouteMatch};

/// A match that stands in no document.
///
/// # Errors
/// The first of its faults, with the field.
pub(crate) fn lone_match(settings: &RouteMatch) -> Result<core::RouteMatch, Diagnostic> {
    let bare = serde_json::json!({"kind": "BatchPolicy", "metadata": {"name": "match"}, "spec": {}});
    let documents = Documents::of_json([("match".into(), bare)]);
    let faults = Faults::of(&documents);
    let mut bare = documents.documents.iter();
    let found = bare.find_map(|document| {
        let check = Check {
            document,
            faults: &faults,
        };
        matches(&check, &Path::default(), settings)
    });
    let mut told = faults.found.into_inner().into_iter();
    match told.find(Diagnostic::is_error) {
        Some(fault) => Err(fault),
        None => found.ok_or_else(|| Diagnostic::of_file(&"match".into(), "expected a match")),
    }
}

pub(super) fn matches(check: &Check<'_>, path: &Path, settings: &RouteMatch) -> Option<core::RouteMatch> {
    let method = settings
        .method
        .as_deref()
        .map(|text| method(check, &path.key("method"), text));
    let path_match = path_match(check, &path.key("path"), &settings.path);
    let headers = settings.headers.iter().enumerate().map(|(index, field)| {
        let path = path.key("headers").index(index);
        let (name, value) = (
            header(check, &path.key("name"), &field.name),
            value(check, &path, field),
        );
        Some(core::HeaderMatch {
            name: name?,
            value: value?,
        })
    });
    let headers = headers.collect::<Vec<_>>();
    let query = settings.query_params.iter().enumerate().map(|(index, field)| {
        let path = path.key("queryParams").index(index);
        let value = value(check, &path, field);
        if field.name.is_empty() || field.name.contains(['&', '=', '#']) {
            check.fault(
                &path.key("name"),
                format!("found {:?}, expected a parameter's raw name", field.name),
            );
            return None;
        }
        Some(core::QueryMatch {
            name: field.name.as_str().into(),
            value: value?,
        })
    });
    let query = query.collect::<Vec<_>>();
    Some(core::RouteMatch {
        method: match method {
            Some(method) => Some(method?),
            None => None,
        },
        path: path_match?,
        headers: headers.into_iter().collect::<Option<_>>()?,
        query: query.into_iter().collect::<Option<_>>()?,
    })
}

pub(super) fn method(check: &Check<'_>, path: &Path, text: &str) -> Option<Method> {
    let method = text
        .parse::<Method>()
        .ok()
        .filter(|_| !text.bytes().any(|byte| byte.is_ascii_lowercase()));
    if method.is_none() {
        check.fault(
            path,
            format!("found {text:?}, expected a method in capitals, such as GET or POST"),
        );
    }
    method
}

pub(super) fn path_match(check: &Check<'_>, path: &Path, settings: &PathMatch) -> Option<core::PathMatch> {
    let at = path.key("value");
    let text = settings.value.as_str();
    match settings.kind {
        PathMatchType::Exact => literal(check, &at, text).map(|text| core::PathMatch::Exact(text.into())),
        PathMatchType::PathPrefix => literal(check, &at, text).map(core::PathMatch::prefix),
        PathMatchType::Template => check
            .ok(&at, text, Template::parse(text))
            .map(core::PathMatch::Template),
        PathMatchType::RegularExpression => {
            expression(check, &at, text).map(core::PathMatch::RegularExpression)
        }
    }
}

/// A raw path as a call can have it.
fn literal<'t>(check: &Check<'_>, path: &Path, text: &'t str) -> Option<&'t str> {
    let fault = if !text.starts_with('/') {
        "expected a path that begins with a slash"
    } else if text.contains(['?', '#']) {
        "expected a path without query and fragment; parameters go to queryParams"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "expected a raw path, in which spaces and letters beyond ASCII are percent-encoded"
    } else if text.contains(['{', '}']) {
        "expected a path without braces; variables need type: Template"
    } else {
        return Some(text);
    };
    check.fault(path, format!("found {text:?}, {fault}"));
    None
}

fn expression(check: &Check<'_>, path: &Path, text: &str) -> Option<regex::Regex> {
    let result = full_match(text).map_err(|error| {
        // The expression's own report draws a picture; its last line says what is wrong.
        let report = error.to_string();
        let last = report.lines().rfind(|line| line.starts_with("error: "));
        let reason = last
            .and_then(|line| line.strip_prefix("error: "))
            .unwrap_or(&report)
            .to_owned();
        format!("{reason}; expected a regular expression")
    });
    check.ok(path, text, result)
}

fn value(check: &Check<'_>, path: &Path, field: &FieldMatch) -> Option<ValueMatch> {
    let at = path.key("value");
    match (field.kind, field.value.as_deref()) {
        (FieldMatchType::Present, None) => Some(ValueMatch::Present),
        (FieldMatchType::Present, Some(text)) => {
            check.fault(
                &at,
                format!("found {text:?}, expected no value with type: Present"),
            );
            None
        }
        (FieldMatchType::Exact | FieldMatchType::RegularExpression, None) => {
            check.fault(&at, "found nothing, expected a value, or type: Present");
            None
        }
        (FieldMatchType::Exact, Some(text)) => Some(ValueMatch::Exact(text.into())),
        (FieldMatchType::RegularExpression, Some(text)) => {
            expression(check, &at, text).map(ValueMatch::RegularExpression)
        }
    }
}

/// The name of a header field, in any case of letters.
pub(super) fn header(check: &Check<'_>, path: &Path, text: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        check.fault(
            path,
            format!("found {text:?}, expected the name of a header field"),
        );
    }
    name
}
