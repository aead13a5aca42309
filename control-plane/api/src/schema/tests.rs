//! The committed schemas, the reference and the chart of definitions are what the types say. `JITNEY_UPDATE=1`
//! writes them.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{custom_resource_definitions, json_schemas, to_yaml};

#[test]
fn committed_schemas_are_current() {
    for (kind, schema) in json_schemas() {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        check_file(&format!("schema/{kind}.json"), &text);
    }
}

#[test]
fn the_reference_is_current() {
    let mut text =
        "# Reference\n\nEvery field of every document. Made from the types: do not edit by hand.\n"
            .to_owned();
    for (kind, schema) in json_schemas() {
        write!(text, "\n## {kind}\n\n{}\n\n", description(&schema)).unwrap();
        text.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
        rows(&mut text, &schema, &schema, "");
    }
    check_file("REFERENCE.md", &text);
}

#[test]
fn the_chart_has_the_definitions() {
    for (kind, definition) in custom_resource_definitions() {
        let file = format!("../../charts/jitney-crds/templates/{}.yaml", kind.to_lowercase());
        check_file(&file, &template(&definition));
    }
}

#[test]
fn the_chart_names_its_version_and_kinds() {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/jitney-crds/Chart.yaml");
    let chart: Value = serde_saphyr::from_str(&std::fs::read_to_string(chart).unwrap()).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let told = chart["annotations"]["artifacthub.io/crds"].as_str().unwrap();
    let told: Vec<Value> = serde_saphyr::from_str(told).unwrap();
    let named = told
        .iter()
        .map(|one| (one["kind"].as_str(), one["name"].as_str()));
    let definitions = custom_resource_definitions();
    let defined = definitions
        .iter()
        .map(|(kind, definition)| (Some(*kind), definition["metadata"]["name"].as_str()));
    assert!(named.eq(defined), "{told:?}");
}

/// Before Kubernetes 1.34 a rule that reads such a value costs more than a definition may.
#[test]
fn no_rule_reads_what_is_a_number_or_a_text() {
    for (kind, definition) in custom_resource_definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        check_rules(kind, schema);
    }
}

fn check_rules(at: &str, schema: &Value) {
    let rules = schema["x-kubernetes-validations"].to_string();
    let is_either = |one: &Value| one["x-kubernetes-int-or-string"] == true;
    assert!(!is_either(schema) || rules == "null", "{at}: {rules}");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let is_read = rules.contains(&format!(".{name}"));
        assert!(!is_either(field) || !is_read, "{at}: {rules} reads {name}");
        check_rules(&format!("{at}.{name}"), field);
    }
    if schema["items"].is_object() {
        check_rules(at, &schema["items"]);
    }
}

/// A definition as the chart has it: kept when the chart goes, and with the chart's labels.
fn template(definition: &Value) -> String {
    let part = |name: &str| to_yaml(&json!({name: definition[name]}));
    let name = definition["metadata"]["name"].as_str().unwrap();
    let own = definition["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: String = own
        .map(|(name, value)| format!("    {name}: {value}\n"))
        .collect();
    let head = format!(
        "{{{{- /* Made from the types by the tests of jitney-api: do not edit by hand. */ -}}}}\n{}{}",
        part("apiVersion"),
        part("kind"),
    );
    let metadata = format!(
        "metadata:\n  name: {name}\n  annotations:\n    helm.sh/resource-policy: keep\n    \
         {{{{- with .Values.annotations }}}}\n    {{{{- toYaml . | nindent 4 }}}}\n    {{{{- end }}}}\n\
         \x20 labels:\n{labels}    {{{{- include \"jitney-crds.labels\" . | nindent 4 }}}}\n"
    );
    let spec = part("spec");
    assert!(!spec.contains("{{"), "helm would read it");
    head + &metadata + &spec
}

/// Compares a committed file, or writes it when asked to.
fn check_file(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("JITNEY_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is not what the types say: run the tests with JITNEY_UPDATE=1"
    );
}

/// One row per field, nested ones under their path.
fn rows(text: &mut String, root: &Value, schema: &Value, prefix: &str) {
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in fields {
        let path = format!("{prefix}{name}");
        let target = resolve(root, field);
        let items = resolve(root, &target["items"]);
        let default = match field.get("default").filter(|value| !value.is_null()) {
            _ if required.contains(&Value::String(name.clone())) => "required".to_owned(),
            // What a map holds by default stands beside its own fields.
            None | Some(Value::Object(_)) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = description(field);
        let meaning = if meaning.is_empty() {
            description(target)
        } else {
            meaning
        };
        let kind = kind(target, items).replace('|', "\\|");
        writeln!(
            text,
            "| `{path}` | {kind} | {default} | {} |",
            meaning.replace('|', "\\|")
        )
        .unwrap();
        let list = target["items"].is_object();
        rows(
            text,
            root,
            if list { items } else { target },
            &format!("{path}{}.", if list { "[]" } else { "" }),
        );
    }
}

fn description(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
}

/// Follows references and leaves out `null`, which stands for a field that may be left out.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str() {
        return resolve(root, root.pointer(name.trim_start_matches('#')).unwrap());
    }
    if let Some(one) = schema["anyOf"]
        .as_array()
        .and_then(|any| any.iter().find(|one| one["type"] != "null"))
    {
        return resolve(root, one);
    }
    schema
}

fn kind(schema: &Value, items: &Value) -> String {
    let variants = schema["oneOf"].as_array().map(|variants| {
        let words = variants.iter().filter_map(|variant| variant["const"].as_str());
        words
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    });
    if let Some(variants) = variants {
        return variants;
    }
    let names = schema["type"]
        .as_array()
        .into_iter()
        .flatten()
        .chain([&schema["type"]]);
    let name = names
        .filter_map(Value::as_str)
        .find(|name| *name != "null")
        .unwrap_or("any");
    match (name, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", kind(items, &Value::Null)),
        ("string", Some("duration")) => "duration".to_owned(),
        ("integer", _) if schema["pattern"].is_string() => "size".to_owned(),
        ("object", _) => "map".to_owned(),
        (name, _) => name.to_owned(),
    }
}
