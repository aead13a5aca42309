//! `check --source kubernetes`: one look at a cluster, and what a control plane says of what it finds there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jitney_api::push::Catalog;
use jitney_api::{Condition, ConditionType, Diagnostic, Reason, Severity, SidecarStatus, Workload};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::custom::Custom;
use super::index::{Index, Kinds, Told};
use super::served;
use super::source::{QUEUE, scopes};
use super::verdict::{Facts, RuntimeFacts, backends};
use super::watch::{self, Word};

mod attention;
mod missing;

use attention::{away, unseen};

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// What is wrong, and what is odd.
    pub found: Vec<Diagnostic>,
    /// Who runs each policy and Runtime, a line each, as its status says.
    pub running: Vec<String>,
    /// How many objects there are of each kind.
    pub counts: [(Kinds, usize); 3],
    /// Objects whose present generation no control plane has told of.
    unseen: Vec<Diagnostic>,
}

/// Lists every kind in these namespaces, or in all where none is named. While a control plane runs in its namespace,
/// `control_plane`, or one replica takes over from another, it is given a moment for what was applied just now.
///
/// # Errors
/// Why one of them cannot be listed, to be shown to people.
///
/// # Cancellation
/// Nothing is left behind.
pub async fn look(client: &Client, namespaces: &[String], control_plane: &str) -> Result<Looked, String> {
    let end = Instant::now() + MOMENT;
    loop {
        let away = away(client, control_plane).await;
        let mut looked = once(client, namespaces).await?;
        let may_pass = match &away {
            None => !looked.unseen.is_empty(),
            Some(away) => away.may_pass,
        };
        if may_pass && Instant::now() < end {
            sleep(BETWEEN_LOOKS).await;
            continue;
        }
        looked.found.append(&mut looked.unseen);
        looked.found.extend(away.map(|away| away.told));
        return Ok(looked);
    }
}

async fn once(client: &Client, namespaces: &[String]) -> Result<Looked, String> {
    let scopes = scopes(namespaces);
    let (to, mut news) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for scope in &scopes {
        watch::start(client, scope, &mut tasks, &to);
    }
    let (mut index, mut found) = (Index::new(scopes), Vec::new());
    while !index.is_synced() {
        match news.recv().await {
            Some((scope, Ok(Word::Told(told)))) => {
                index.take(&scope, told);
            }
            Some((scope, Err(complaint))) => {
                let Some((kind, warning)) = missing::unserved(client, &complaint).await else {
                    return Err(complaint.text);
                };
                index.take(&scope, Told::Unserved(kind));
                if !found.contains(&warning) {
                    found.push(warning);
                }
            }
            // Never `None`, as this holds a sender, too.
            Some((_, Ok(Word::GoesOn(_)))) | None => {}
        }
    }
    drop(tasks);
    let outdated = served::without_status(client).await.unwrap_or_default();
    let mut looked = Looked::of(&index, &outdated);
    looked.found.append(&mut found);
    let empty = namespaces.iter().filter(|namespace| index.is_empty(namespace));
    for namespace in empty {
        looked.found.extend(missing::namespace(client, namespace).await);
    }
    Ok(looked)
}

impl Looked {
    fn of(index: &Index, outdated: &BTreeSet<Kinds>) -> Self {
        let mut looked = Self {
            counts: Kinds::ALL.map(|kinds| (kinds, index.all(kinds).count())),
            found: outdated
                .iter()
                .map(|kinds| missing::status(index, *kinds))
                .collect(),
            running: Vec::new(),
            unseen: Vec::new(),
        };
        let objects = Kinds::ALL.into_iter().flat_map(|kinds| index.all(kinds));
        let namespaces: BTreeSet<&str> = objects.map(|(namespace, ..)| namespace).collect();
        for namespace in namespaces {
            looked.namespace(index, namespace);
        }
        // What nobody can tell of an object says nothing of who looks at it.
        let is_told = |one: &Diagnostic| {
            let of_kind = |kinds: &Kinds| one.file.starts_with(&format!("{} ", kinds.kind()));
            !outdated.iter().any(of_kind)
        };
        looked.unseen.retain(is_told);
        looked
    }

    fn namespace(&mut self, index: &Index, namespace: &str) {
        for kinds in Kinds::ALL {
            for (_, custom) in index.objects(kinds, namespace) {
                self.found
                    .extend(custom.faults.iter().chain(&custom.warnings).cloned());
            }
        }
        self.found.extend(index.unkept(namespace));
        let conflicts = index.resources(namespace).conflicts;
        self.found
            .extend(conflicts.iter().map(|conflict| conflict.warning.clone()));
        let (catalog, documents) = (index.catalog(namespace), index.documents(namespace));
        let backends = backends(&documents);
        for (name, custom) in index.objects(Kinds::BatchPolicies, namespace) {
            let facts = Facts {
                namespace,
                custom,
                catalog: &catalog,
                backends: &backends,
                // They are told already, as warnings.
                conflicts: Vec::new(),
                in_force: custom.good_generation,
                sidecars: custom.status.sidecars.clone().unwrap_or_default(),
                before: &custom.status,
                now: "",
            };
            let file: Arc<str> = format!("BatchPolicy {namespace}/{name}").into();
            self.found.extend(unresolved(&file, &facts));
            let conditions = custom.status.ancestors.iter().flat_map(|one| &one.conditions);
            self.unseen.extend(unseen(&file, custom, conditions.clone()));
            self.running
                .push(format!("{namespace}/{name}: {}", running(conditions)));
        }
        for (name, custom) in index.objects(Kinds::Runtimes, namespace) {
            self.runtime(&catalog, name, custom);
        }
    }

    fn runtime(&mut self, catalog: &Catalog, name: &str, custom: &Custom) {
        let sidecars = custom.runtime_status.sidecars.as_ref();
        let facts = RuntimeFacts {
            workload: Workload {
                namespace: catalog.namespace.clone(),
                account: name.to_owned(),
            },
            custom,
            catalog,
            in_force: custom.good_generation,
            sidecars: sidecars.cloned().unwrap_or_default(),
            before: &custom.runtime_status,
            now: "",
        };
        let full = format!("Runtime {}", facts.workload);
        let file: Arc<str> = full.as_str().into();
        let nobody = facts.is_for_nobody().map(|told| Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::of_file(&file, told)
        });
        self.found.extend(nobody);
        self.found.extend(rejected(&file, sidecars));
        let conditions = custom.runtime_status.conditions.iter();
        self.unseen.extend(unseen(&file, custom, conditions.clone()));
        let running = running(conditions);
        self.running.push(format!("{full}: {running}"));
    }

    /// Whether there is something that keeps an object from doing what it says.
    pub fn is_faulty(&self) -> bool {
        self.found.iter().any(Diagnostic::is_error)
    }
}

/// What a policy names and nobody has, and who does not take it.
fn unresolved(file: &Arc<str>, facts: &Facts<'_>) -> Vec<Diagnostic> {
    let fault = |field: String, message: &str| Diagnostic {
        field,
        ..Diagnostic::of_file(file, message)
    };
    let mut found = Vec::new();
    for (at, ancestor) in facts.status().ancestors.iter().enumerate() {
        let lost = ancestor.conditions.iter().filter(|one| {
            // ResolvedRefs tells of it again.
            let is_accepted = one.kind == ConditionType::Accepted.to_string();
            is_accepted && one.reason == Reason::TargetNotFound.to_string()
        });
        found.extend(lost.map(|one| fault(format!("spec.targetRefs[{at}]"), &one.message)));
    }
    let missing = facts.missing().into_iter();
    found.extend(missing.map(|told| fault(String::new(), &told)));
    found.extend(rejected(file, facts.custom.status.sidecars.as_ref()));
    found
}

/// Why a sidecar cannot run an object.
fn rejected(file: &Arc<str>, sidecars: Option<&SidecarStatus>) -> Option<Diagnostic> {
    let last = sidecars.filter(|one| one.rejected > 0)?.last_rejection.as_ref()?;
    let told = format!("sidecar {} rejected it: {}", last.sidecar, last.reason);
    Some(Diagnostic {
        field: last.field.clone(),
        ..Diagnostic::of_file(file, told)
    })
}

/// Who runs an object, as a control plane has written it.
fn running<'a>(mut conditions: impl Iterator<Item = &'a Condition>) -> String {
    let programmed = conditions.find(|one| one.kind == ConditionType::Programmed.to_string());
    programmed.map_or_else(
        || "no control plane has told who runs it".to_owned(),
        |one| one.message.clone(),
    )
}

/// Longer than a change waits for others, and its status for its turn to be written.
const MOMENT: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
