//! Codecs and presets, and whether a rule's match suits them.

use jitney_core::codec as core;
use jitney_core::codec::{AnyCodec, CodecError, JsonArray, JsonRpc, KeyedGet, PRESETS, Preset};
use jitney_core::policy::Replay;
use jitney_core::route::Template;

use super::Check;
use crate::diagnostic::nearest;
use crate::node::Path;
use crate::{JsonArraySettings, KeyedGetSettings, Missing, PathMatchType, RouteRule};

/// The codec of a rule, and what it makes the default of `onFailure.replay`.
pub(super) fn codec(check: &Check<'_>, path: &Path, rule: &RouteRule) -> Option<(AnyCodec, Replay)> {
    let at = path.key("codec");
    let settings = &rule.codec;
    match (
        &settings.preset,
        &settings.json_array,
        &settings.json_rpc,
        &settings.keyed_get,
    ) {
        (Some(name), None, None, None) => {
            needs_body(check, path, rule);
            preset(check, &at.key("preset"), name)
        }
        (None, Some(array), None, None) => {
            needs_body(check, path, rule);
            let built = JsonArray::new(&json_array(array)).map(AnyCodec::JsonArray);
            built
                .map_err(|error| tell(check, &at.key("jsonArray"), &error))
                .ok()
                .map(idempotent)
        }
        (None, None, Some(_), None) => {
            needs_body(check, path, rule);
            Some(idempotent(AnyCodec::JsonRpc(JsonRpc)))
        }
        (None, None, None, Some(keyed)) => keyed_get(check, path, rule, keyed).map(idempotent),
        (None, None, None, None) => {
            check.fault(
                &at,
                "found no codec, expected one of preset, jsonArray, jsonRpc, keyedGet",
            );
            None
        }
        _ => {
            check.fault(&at, "found several codecs, expected exactly one");
            None
        }
    }
}

const fn idempotent(codec: AnyCodec) -> (AnyCodec, Replay) {
    (codec, Replay::Idempotent)
}

fn preset(check: &Check<'_>, path: &Path, name: &str) -> Option<(AnyCodec, Replay)> {
    let Some(preset) = Preset::find(name) else {
        let known = PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>();
        let meant = nearest(name, known.iter().copied()).map(|near| format!(" (did you mean {near}?)"));
        let message = format!(
            "found {name:?}, expected one of {}{}",
            known.join(", "),
            meant.unwrap_or_default()
        );
        check.fault(path, message);
        return None;
    };
    let replay = if preset.declares_replay() {
        Replay::Declared
    } else {
        Replay::Idempotent
    };
    preset
        .codec()
        .map_err(|error| tell(check, path, &error))
        .ok()
        .map(|codec| (codec, replay))
}

fn json_array(settings: &JsonArraySettings) -> core::JsonArraySettings {
    core::JsonArraySettings {
        items: settings.items.clone(),
        results: settings.results.clone(),
        index: settings.index.clone(),
        invariants: settings.invariants.clone(),
        scalar: settings.scalar,
        usage: settings.usage.clone(),
    }
}

fn keyed_get(
    check: &Check<'_>,
    path: &Path,
    rule: &RouteRule,
    settings: &KeyedGetSettings,
) -> Option<AnyCodec> {
    if let Some(method) = rule.matches.method.as_deref().filter(|method| *method != "GET") {
        check.fault(
            &path.keys("match.method"),
            format!("found {method:?}, expected GET: keyedGet merges nothing else"),
        );
    }
    let at = path.keys("match.path");
    let example =
        "a template with a variable, such as {type: Template, value: \"/users/{id}\"}, for keyedGet";
    if rule.matches.path.kind != PathMatchType::Template {
        check.fault(
            &at,
            format!("found type {:?}, expected {example}", rule.matches.path.kind),
        );
        return None;
    }
    // What is wrong with the template itself is told with the match.
    let template = Template::parse(&rule.matches.path.value).ok()?;
    if template.variables().len() == 0 {
        check.fault(
            &at.key("value"),
            format!("found {:?}, expected {example}", rule.matches.path.value),
        );
        return None;
    }
    let built = KeyedGet::new(&core::KeyedGetSettings {
        variables: template.variables().map(str::to_owned).collect(),
        item: settings.item.clone(),
        batch_path: settings.batch_path.clone(),
        elements: settings.elements.clone(),
        key: settings.key.clone(),
        missing: match settings.missing {
            Missing::AskAlone => core::Missing::AskAlone,
            Missing::NotFound => core::Missing::NotFound,
        },
    });
    let at = path.keys("codec.keyedGet");
    built
        .map(AnyCodec::KeyedGet)
        .map_err(|error| tell(check, &at, &error))
        .ok()
}

/// Codecs of bodies on a method that has none would let every call go alone.
fn needs_body(check: &Check<'_>, path: &Path, rule: &RouteRule) {
    let method = rule.matches.method.as_deref();
    if let Some(method) = method.filter(|method| matches!(*method, "GET" | "HEAD" | "OPTIONS" | "TRACE")) {
        let message =
            format!("found {method:?}, expected a method with a body, such as POST, for this codec");
        check.fault(&path.keys("match.method"), message);
    }
}

fn tell(check: &Check<'_>, path: &Path, error: &CodecError) {
    check.fault(
        &path.keys(error.field),
        format!("found {:?}, expected {}", error.value, error.expected),
    );
}
