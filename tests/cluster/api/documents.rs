//! Documents of all kinds: what our own check refuses for itself, the API server refuses too, and neither
//! refuses what the other takes.

use std::collections::BTreeMap;
use std::process::Output;

use jitney_api::{Documents, Resource, check};
use jitney_tests::programs::root;
use serde_json::{Value, json};

use super::chart::installed;
use crate::kubectl::{succeeded, told};

#[tokio::test]
async fn both_refuse_what_is_at_fault_on_its_own() {
    installed().await;
    let (mut documents, mut expected) = (Vec::new(), Vec::new());
    for (kind, rows) in serde_saphyr::from_str::<BTreeMap<String, Vec<(String, Value)>>>(BAD).unwrap() {
        for (field, spec) in rows {
            documents.push(named(&kind, &format!("bad-{}", documents.len()), &spec));
            expected.push(field);
        }
    }
    let refused = refused(&documents);
    let mut faults = Vec::new();
    for (field, document) in expected.iter().zip(&documents) {
        let (ours, spec) = (fields(document), &document["spec"]);
        if !ours
            .iter()
            .any(|ours| ours.starts_with(field) || field.starts_with(ours))
        {
            faults.push(format!("{spec}: check names {ours:?}, not {field}"));
        }
        let said = document["metadata"]["name"]
            .as_str()
            .and_then(|name| refused.get(name));
        if said.is_none_or(|said| !said.contains(&format!("{field}: "))) {
            faults.push(format!("{spec}: the server says {said:?}, not {field}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn both_take_what_is_good() {
    installed().await;
    let documents = good();
    let at_fault: Vec<_> = documents
        .iter()
        .filter(|document| !fields(document).is_empty())
        .collect();
    assert_eq!(at_fault, [&Value::Null; 0]);
    assert_eq!(refused(&documents), BTreeMap::new());
}

/// The defaults that the server writes into an object are those of a document that lacks the fields.
#[tokio::test]
async fn what_the_server_makes_of_a_document_means_the_same() {
    installed().await;
    let documents = good();
    let output = succeeded(created(&documents, &["--output", "json"]));
    let objects = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
    let objects: Vec<Value> = objects.collect::<Result<_, _>>().unwrap();
    assert_eq!(objects.len(), documents.len());
    assert!(
        objects.iter().any(|object| object["spec"]["mode"] == "Active"),
        "defaults are written"
    );
    for (document, object) in documents.iter().zip(&objects) {
        assert_eq!(meaning(object), meaning(document), "{object}");
    }
}

/// The spec as it is read, with all of its defaults.
fn meaning(document: &Value) -> Value {
    let documents = Documents::of_json([("it".into(), document.clone())]).documents;
    let [document] = &documents[..] else {
        panic!("{document} is not read")
    };
    match &document.resource {
        Resource::BatchPolicy(policy) => json!(policy.spec),
        Resource::Backend(backend) => json!(backend.spec),
        Resource::Listener(listener) => json!(listener.spec),
        Resource::Runtime(runtime) => json!(runtime.spec),
    }
}

/// The rows of the table, and what the repository has.
fn good() -> Vec<Value> {
    let mut documents = Vec::new();
    for (kind, specs) in serde_saphyr::from_str::<BTreeMap<String, Vec<Value>>>(GOOD).unwrap() {
        let named = |(spec, n): (Value, u32)| named(&kind, &format!("good-{n}"), &spec);
        documents.extend(specs.into_iter().zip(0..).map(named));
    }
    let rows = documents.len();
    documents.extend(ours());
    assert!(documents.len() > rows + 8, "the repository has documents");
    documents
}

/// The fields that our own check names, where there is a Backend of the name `a`.
fn fields(document: &Value) -> Vec<String> {
    let backend = named("Backend", "a", &json!({"endpoints": ["a:1"]}));
    let documents = [("it".into(), document.clone()), ("other".into(), backend)];
    let faults = check(&Documents::of_json(documents)).into_iter();
    let faults = faults.filter(|fault| fault.is_error() && *fault.file == *"it");
    // A policy of a README names backends that are in another document, or routes, which are in none of ours.
    let elsewhere = [
        "is not defined",
        "are known to a control plane in Kubernetes alone",
    ];
    let alone = faults.filter(|fault| !elsewhere.iter().any(|words| fault.message.contains(words)));
    alone.map(|fault| fault.field).collect()
}

/// What the server makes of documents. Nothing is kept, and `kubectl` is not to look for itself.
fn created(documents: &[Value], flags: &[&str]) -> Output {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    let create = [
        "create",
        "--dry-run=server",
        "--validate=false",
        "--filename",
        "-",
    ];
    told(&[&create[..], flags].concat(), &list.to_string())
}

/// What the server says of those that it refuses, by their names.
fn refused(documents: &[Value]) -> BTreeMap<String, String> {
    let output = created(documents, &[]);
    let (taken, said) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let mut refused = BTreeMap::<String, String>::new();
    let mut name = None;
    for line in said.lines() {
        if let Some((object, _)) = line.split_once("\" is invalid: ") {
            name = object.rsplit('"').next();
        }
        let name = name.unwrap_or_else(|| panic!("{line}"));
        *refused.entry(name.to_owned()).or_default() += &format!("{line}\n");
    }
    assert_eq!(taken.lines().count() + refused.len(), documents.len(), "{said}");
    refused
}

/// Documents of the README and the examples, but for Listeners.
fn ours() -> Vec<Value> {
    let mut texts = Vec::new();
    for file in ["README.md", "examples/mesh/README.md"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let mut parts = text.split("```");
        // What is fenced is every second part.
        while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
            texts.extend(block.strip_prefix("yaml\n").map(outdented));
        }
    }
    let examples = std::fs::read_dir(root().join("examples")).unwrap();
    let folders = examples
        .map(|entry| entry.unwrap().path())
        .chain([root().join("examples/mesh/documents")]);
    for file in folders
        .filter(|path| path.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
    {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(file).unwrap());
        }
    }
    let documents = texts
        .iter()
        .flat_map(|text| serde_saphyr::from_multiple::<Value>(text).unwrap());
    let is_ours = |document: &Value| {
        let version = document["apiVersion"].as_str();
        version.is_none_or(|version| version.starts_with("jitney.dev/")) && document["kind"] != "Listener"
    };
    documents.filter(is_ours).map(object).collect()
}

/// A block as it is without what indents it in a list.
fn outdented(block: &str) -> String {
    let indent = block.len() - block.trim_start_matches(' ').len();
    block
        .lines()
        .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
        .collect()
}

fn named(kind: &str, name: &str, spec: &Value) -> Value {
    object(json!({"kind": kind, "metadata": {"name": name}, "spec": spec}))
}

/// A document as an object: a file may leave out the version, and the namespaces of files are not there.
fn object(mut document: Value) -> Value {
    document["apiVersion"] = "jitney.dev/v1alpha1".into();
    document["metadata"]["namespace"] = "default".into();
    document
}

const BAD: &str = include_str!("bad.yaml");
const GOOD: &str = include_str!("good.yaml");
