//! `inject`: manifests with the pods in them given their sidecars, for those who keep manifests in Git.
//!
//! A document without a pod that is changed is passed on as it was written. Others are written anew: what they
//! mean stays, their comments do not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::policy::policies;
use super::settings::namespace;
use super::webhook::configuration;
use super::{Asked, Decision, Left, Pod, Refused, SettingsArgs};

/// What to inject into.
#[derive(Debug, Args)]
pub struct InjectArgs {
    /// Files of manifests, YAML or JSON; - is the standard input.
    #[arg(
        short,
        long,
        env = "JITNEY_MANIFESTS",
        value_name = "FILE",
        value_delimiter = ',',
        required_unless_present = "print"
    )]
    pub filename: Vec<PathBuf>,

    /// Print what has the API server inject by itself, instead: the webhook's configuration, or, for
    /// Kubernetes 1.36, policies that need no webhook.
    #[arg(long, env = "JITNEY_PRINT", value_name = "WHAT", conflicts_with = "filename")]
    pub print: Option<Printed>,

    /// The namespace of manifests that name none.
    #[arg(short, long, env = "JITNEY_NAMESPACE", value_name = "NAME", default_value = "default", value_parser = namespace)]
    pub namespace: String,

    /// What is injected.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What has the API server inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Printed {
    /// A `MutatingWebhookConfiguration`.
    Webhook,
    /// A `MutatingAdmissionPolicy`, a `ValidatingAdmissionPolicy` and their bindings.
    Policy,
}

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The manifests cannot be written.
    #[error("cannot write the manifests: {0}")]
    Output(#[from] io::Error),
    /// Faults, one a line.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
}

/// Prints manifests with the pods in them injected, and tells on the error stream what was left alone.
///
/// # Errors
/// When something of them cannot be read, or a pod not be given its sidecar: nothing is printed then.
pub fn inject(args: &InjectArgs) -> Result<ExitCode, ManifestError> {
    let mut all = Manifests::new(&args.namespace, &args.settings);
    match args.print {
        Some(Printed::Webhook) => all.write("the configuration", &configuration(&args.settings)),
        Some(Printed::Policy) => {
            for policy in policies(&args.settings) {
                all.write("a policy", &policy);
            }
        }
        None => {}
    }
    for path in &args.filename {
        let text = read(path).map_err(|error| ManifestError::Input {
            path: path.clone(),
            error,
        })?;
        all.add(&path.display().to_string(), &text);
    }
    if !all.faults.is_empty() {
        return Err(ManifestError::Faults(all.faults));
    }
    for note in &all.notes {
        writeln!(io::stderr(), "{note}")?;
    }
    io::stdout().write_all(all.out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    source.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        let told = format!("found more than {} MiB of manifests", BYTES_MAX >> 20);
        return Err(io::Error::other(told));
    }
    Ok(text)
}

/// Manifests as they come out.
struct Manifests<'s> {
    namespace: &'s str,
    settings: &'s SettingsArgs,
    out: String,
    notes: Vec<String>,
    faults: Vec<String>,
}

impl<'s> Manifests<'s> {
    const fn new(namespace: &'s str, settings: &'s SettingsArgs) -> Self {
        Self {
            namespace,
            settings,
            out: String::new(),
            notes: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Takes the documents of a file.
    fn add(&mut self, file: &str, text: &str) {
        for (line, text) in documents(text) {
            let place = format!("{file}:{line}");
            match parsed(text) {
                Ok(mut document) => {
                    if self.is_changed(&place, &mut document) {
                        self.write(&place, &document);
                    } else if !document.is_null() {
                        self.pass_on(text);
                    }
                }
                Err(error) => self.faults.push(format!("{place}: {error}")),
            }
        }
    }

    /// Injects into all pods of a document; tells whether there are any.
    fn is_changed(&mut self, place: &str, document: &mut Value) -> bool {
        let mut is_changed = false;
        for item in items(document, LISTS_MAX) {
            is_changed |= self.is_injected(place, item);
        }
        is_changed
    }

    fn is_injected(&mut self, place: &str, object: &mut Value) -> bool {
        let Some(pointer) = pod(object) else {
            return false;
        };
        let text = |of: &Value| of.as_str().map(str::to_owned);
        let namespace = text(&object["metadata"]["namespace"]).unwrap_or_else(|| self.namespace.to_owned());
        let name = text(&object["metadata"]["name"]).unwrap_or_else(|| "?".to_owned());
        let kind = text(&object["kind"]).unwrap_or_default();
        let called = format!("{place}: {kind} {namespace}/{name}");
        let Some(template) = object.pointer_mut(pointer) else {
            let field = pointer[1..].replace('/', ".");
            self.faults
                .push(format!("{called}: {field}: expected a pod's template"));
            return false;
        };
        let pod = Pod {
            called: &called,
            metadata: &template["metadata"],
            spec: &template["spec"],
            namespace: &namespace,
        };
        match changed(pod, template, self.settings) {
            Ok(Changed::Pod(pod, warnings)) => {
                *template = pod;
                self.notes.extend(warnings);
                true
            }
            Ok(Changed::Nothing(left)) => {
                self.notes.push(format!("{called}: left as it is: {left}"));
                false
            }
            Err(refused) => {
                self.faults.push(refused.to_string());
                false
            }
        }
    }

    fn write(&mut self, place: &str, document: &Value) {
        match serde_saphyr::to_string(document) {
            Ok(text) => self.pass_on(&text),
            Err(error) => self.faults.push(format!("{place}: cannot be written: {error}")),
        }
    }

    fn pass_on(&mut self, text: &str) {
        self.out.push_str("---\n");
        self.out.push_str(text);
        if !text.ends_with('\n') {
            self.out.push('\n');
        }
    }
}

/// What became of a pod.
enum Changed {
    /// It has a sidecar, and this should be known.
    Pod(Value, Vec<String>),
    /// Nothing, and why.
    Nothing(Left),
}

fn changed(pod: Pod<'_>, template: &Value, settings: &SettingsArgs) -> Result<Changed, Refused> {
    // Whoever runs the command has asked for it.
    match super::inject(pod, Asked::ForAll, settings)? {
        Decision::Leave(left) => Ok(Changed::Nothing(left)),
        Decision::Inject(injection) => {
            let mut changed = template.clone();
            let patched = serde_json::from_value::<json_patch::Patch>(injection.patch.into())
                .map_err(|error| error.to_string())
                .and_then(|patch| json_patch::patch(&mut changed, &patch).map_err(|error| error.to_string()));
            // Invariant: a patch is made for the very pod that it is applied to.
            debug_assert_eq!(patched, Ok(()));
            Ok(Changed::Pod(changed, injection.warnings))
        }
    }
}

/// Where an object has its pod; `None` when it is none of those that have one.
fn pod(object: &Value) -> Option<&'static str> {
    let group = object["apiVersion"].as_str()?;
    match (group, object["kind"].as_str()?) {
        ("v1", "Pod") => Some(""),
        ("v1", "ReplicationController")
        | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch/v1", "Job") => Some("/spec/template"),
        ("batch/v1", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The objects of a document: itself, or those that are listed in it.
fn items(document: &mut Value, depth: usize) -> Vec<&mut Value> {
    let is_list = document["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if !is_list || depth == 0 {
        return vec![document];
    }
    let items = document.get_mut("items").and_then(Value::as_array_mut);
    let items = items.into_iter().flatten();
    items.flat_map(|item| self::items(item, depth - 1)).collect()
}

/// The documents of a text, each with the number of its first line. No line inside a document begins with the
/// mark between them (YAML 1.2.2, section 9.1.2).
fn documents(text: &str) -> Vec<(usize, &str)> {
    let (mut documents, mut start, mut first, mut at) = (Vec::new(), 0, 1, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let end = at + content.len();
        let rest = content.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            documents.push((first, &text[start..at]));
            // What follows on the same line belongs to the document.
            (start, first) = (at + "---".len(), line + 1);
        }
        at = end;
    }
    documents.push((first, &text[start..]));
    let empty = |text: &str| text.trim().is_empty();
    let mut kept: Vec<_> = documents.into_iter().filter(|(_, text)| !empty(text)).collect();
    for (first, text) in &mut kept {
        let blank = text.len() - text.trim_start_matches(['\n', '\r']).len();
        *first += text[..blank].matches('\n').count();
        *text = &text[blank..];
    }
    kept
}

/// A document as `kubectl` reads it: by YAML 1.1, in which `yes` is true and 0644 is octal.
fn parsed(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        strict_booleans: false,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Option<Value>>(text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| error.without_snippet().to_string())
}

/// More than the API server takes of a single object, several times.
const BYTES_MAX: u64 = 64 << 20;
/// Lists in lists that are looked into.
const LISTS_MAX: usize = 4;

#[cfg(test)]
mod tests;
