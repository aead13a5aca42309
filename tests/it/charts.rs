//! What the charts say of themselves without a cluster: every value is documented in one voice, and what is
//! told to Prometheus and Grafana names metrics that exist. `JITNEY_UPDATE=1` writes what is made of it: the table of
//! the README, and the policies.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use jitney_control_plane::identity::Life;
use jitney_control_plane::inject::policy::policies;
use jitney_control_plane::inject::{ResourceArgs, SettingsArgs};
use jitney_control_plane::metrics::{Levels, Metrics as Pushing};
use jitney_proxy::metrics::Metrics as Serving;
use jitney_tests::programs::root;
use serde_json::Value;

/// One value of a chart, as `values.yaml` has it.
#[derive(Debug)]
struct Documented {
    path: String,
    default: String,
    meaning: String,
}

#[test]
fn readme_lists_every_value() {
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table = "\n| value | default | meaning |\n|---|---|---|\n".to_owned();
    for value in values() {
        let Documented {
            path,
            default,
            meaning,
        } = value;
        let default = default.replace('|', "\\|");
        table += &format!("| `{path}` | `{default}` | {meaning} |\n");
    }
    check_file("README.md", &[before, BEGIN, &table, END, after].concat());
}

#[test]
fn schema_describes_every_value_and_no_other() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut described = BTreeSet::new();
    for value in values() {
        let pointer = value.path.replace('.', "/properties/");
        let found = &schema.pointer(&format!("/properties/{pointer}"));
        let found = found.unwrap_or_else(|| panic!("{} is not in the schema", value.path));
        assert_eq!(found["description"], *value.meaning, "{}", value.path);
        let mut parent = String::new();
        for part in value.path.split('.') {
            parent += part;
            described.insert(parent.clone());
            parent.push('.');
        }
    }
    walk(&schema, "", &mut |path, field| {
        assert!(described.contains(path), "{path} is in the schema only");
        let description = field["description"].as_str();
        assert!(
            description.is_some_and(|text| text.ends_with('.')),
            "{path} is not described"
        );
        let is_closed = field.get("properties").is_none() || field["additionalProperties"] == false;
        assert!(is_closed || path == "global", "{path} takes whatever it is given");
    });
    assert_eq!(schema["additionalProperties"], false);
}

/// The policies are the program's own, with words in the place of what values say.
#[test]
fn policies_are_those_of_the_program() {
    let settings = SettingsArgs {
        proxy_image: "PROXY_IMAGE".to_owned(),
        redirect_image: "REDIRECT_IMAGE".to_owned(),
        control_plane_namespace: "RELEASE_NAMESPACE".to_owned(),
        resources: ResourceArgs {
            cpu_request: "CPU".to_owned(),
            memory_request: "MEMORY".to_owned(),
            cpu_limit: None,
            memory_limit: None,
        },
    };
    let policies = serde_json::to_string_pretty(&policies(&settings)).unwrap() + "\n";
    let resources = r#"{\"requests\": dyn({\"cpu\": dyn(\"CPU\"), \"memory\": dyn(\"MEMORY\")})}"#;
    assert!(policies.contains(resources), "{policies}");
    check_file("policies.json", &policies.replace(resources, "RESOURCES"));
}

#[test]
fn charts_are_of_the_version_of_the_programs() {
    let version = env!("CARGO_PKG_VERSION");
    for chart in ["jitney", "jitney-crds"] {
        let about = fs::read_to_string(root().join("charts").join(chart).join("Chart.yaml")).unwrap();
        for line in ["version", "appVersion"] {
            assert!(
                about.contains(&format!("\n{line}: {version}\n")),
                "{chart}: {line}"
            );
        }
        let images = about.lines().filter(|line| line.contains("image: \""));
        for image in images {
            assert!(image.contains(&format!(":{version}\"")), "{chart}: {image}");
        }
    }
}

#[test]
fn alerts_and_dashboards_name_metrics_that_exist() {
    let exist = series();
    let alerts = ("alerts.yaml".to_owned(), read("alerts.yaml"));
    for (name, text) in dashboards().into_iter().chain([alerts]) {
        let named = named(&text);
        assert!(named.len() >= 5, "{name}: {named:?}");
        for metric in named {
            assert!(exist.contains(metric), "{name}: nobody says {metric}");
        }
    }
}

#[test]
fn dashboards_are_ones_that_grafana_reads() {
    let mut seen = BTreeSet::new();
    for (name, text) in dashboards() {
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let uid = dashboard["uid"].as_str().unwrap().to_owned();
        assert!(uid.len() <= 40 && seen.insert(uid), "{name}");
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(
                panel["title"].is_string() && panel["gridPos"].is_object(),
                "{name}"
            );
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                let balance =
                    |open, close| expression.matches(open).count() == expression.matches(close).count();
                let is_balanced = balance('(', ')') && balance('{', '}') && balance('[', ']');
                assert!(is_balanced, "{name}: {expression}");
            }
        }
    }
    assert_eq!(seen.len(), 3);
}

/// Calls `visit` with every field that has a description, nested ones under their path.
fn walk(schema: &Value, prefix: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        visit(&path, field);
        // What Kubernetes defines has no comments of its own in the values.
        if path != "resources" {
            walk(field, &format!("{path}."), visit);
        }
    }
}

/// The values of the chart: each has a comment that begins with `# --`, or is a section of such.
fn values() -> Vec<Documented> {
    let text = read("values.yaml");
    let (mut found, mut open, mut comment) = (Vec::<Documented>::new(), Vec::<(usize, String)>::new(), None);
    let mut inside = None;
    for line in text.lines() {
        let (content, indent) = (line.trim(), line.len() - line.trim_start().len());
        if let Some(value) = found
            .last_mut()
            .filter(|_| inside.is_some_and(|outer| indent > outer))
        {
            value.default = [&*value.default, content].join(" ").trim().to_owned();
            continue;
        }
        inside = None;
        if let Some(text) = content.strip_prefix("# -- ") {
            comment = Some(text.to_owned());
            continue;
        }
        let Some((key, default)) = content.split_once(':').filter(|_| !content.starts_with('#')) else {
            continue;
        };
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, key.to_owned()));
        let path = open
            .iter()
            .map(|(_, key)| key.as_str())
            .collect::<Vec<_>>()
            .join(".");
        match comment.take() {
            Some(meaning) => {
                let default = default.trim().to_owned();
                inside = Some(indent);
                found.push(Documented {
                    path,
                    default,
                    meaning,
                });
            }
            None => assert!(default.is_empty(), "{path} has no comment"),
        }
    }
    assert!(!found.is_empty());
    found
}

/// What both programs say when they are scraped, as PromQL names it.
fn series() -> BTreeSet<String> {
    let serving = Serving::new();
    serving.process().control_plane.begin();
    // There is always somebody who signs.
    let life = Life {
        from: UNIX_EPOCH,
        until: UNIX_EPOCH,
    };
    let levels = Levels {
        signers: vec![("a".to_owned(), life)],
        ..Levels::default()
    };
    let texts = [Pushing::new().render(&levels), serving.render()];
    let types = texts.iter().flat_map(|text| text.lines());
    let types = types.filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let ends = |kind| match kind {
        "counter" => ["_total"].as_slice(),
        "histogram" => &["_bucket", "_count", "_sum"],
        _ => &[""],
    };
    types
        .flat_map(|(name, kind)| ends(kind).iter().map(move |end| format!("{name}{end}")))
        .collect()
}

/// Words that look like the name of a metric of ours.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let ours = words.filter(|word| word.starts_with("jitney_") || word.starts_with("process_"));
    ours.collect()
}

fn dashboards() -> Vec<(String, String)> {
    let files = fs::read_dir(chart().join("dashboards")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .map(|file| (file.display().to_string(), fs::read_to_string(file).unwrap()))
        .collect()
}

/// Compares a committed file of the chart, or writes it when asked to.
#[track_caller]
fn check_file(name: &str, expected: &str) {
    let path = chart().join(name);
    if std::env::var_os("JITNEY_UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is not what it is made of: run with JITNEY_UPDATE=1"
    );
}

fn read(name: &str) -> String {
    fs::read_to_string(chart().join(name)).unwrap()
}

fn chart() -> PathBuf {
    root().join("charts/jitney")
}

const BEGIN: &str = "<!-- values: made of values.yaml by the tests -->\n";
const END: &str = "\n<!-- end of values -->";
