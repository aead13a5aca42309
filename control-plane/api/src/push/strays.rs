//! Names that lead nowhere: documents that are good, and that no sidecar is sent anything of.
//!
//! They are no faults, for a sidecar may have a name that no document knows: whoever has a token of that
//! name. A lone sidecar asks for none of this: there, names are looked for in all namespaces.

use std::collections::BTreeSet;

use super::resources::{full_name, namespace};
use crate::compile::named;
use crate::diagnostic::nearest;
use crate::node::Path;
use crate::{
    BatchPolicy, Diagnostic, Document, Documents, Listener, Metadata, Placement, Resource, Runtime, Workload,
};

/// A document, or a part of one, that is for nobody whom the documents know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Whose sidecar it would be for; `None` where no name would help.
    pub workload: Option<Workload>,
    /// What is odd, and where.
    pub warning: Diagnostic,
}

/// The workloads that these documents know: those that serve a Backend, and those whose sidecars listen.
pub fn known_workloads(documents: &Documents) -> BTreeSet<Workload> {
    let all = documents.documents.iter();
    let known = all.filter_map(|document| match &document.resource {
        Resource::Backend(backend) => Some(workload(&backend.metadata, &backend.metadata.name)),
        Resource::Listener(listener) => {
            let account = listener
                .spec
                .workload
                .as_ref()
                .or(listener.spec.backend.as_ref())?;
            Some(workload(&listener.metadata, account))
        }
        Resource::BatchPolicy(_) | Resource::Runtime(_) => None,
    });
    known.collect()
}

/// What is for nobody, in the order of the documents; 100 at most.
pub fn strays(documents: &Documents) -> Vec<Stray> {
    let known = Known::of(documents);
    let mut strays = Vec::new();
    for document in &documents.documents {
        match &document.resource {
            Resource::Runtime(runtime) => {
                strays.extend(known.runtime(document, &runtime.metadata));
                strays.extend(known.callers(document, runtime));
            }
            Resource::BatchPolicy(policy) => strays.extend(known.policy(document, policy)),
            Resource::Listener(listener) => strays.extend(known.listener(document, listener)),
            Resource::Backend(_) => {}
        }
    }
    strays.truncate(MOST_STRAYS);
    strays
}

/// The name among the known ones that this one was most likely meant to be, to be put behind a message.
pub fn meant(found: &Workload, known: &BTreeSet<Workload>) -> String {
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    let near = nearest(&found.to_string(), names.iter().map(String::as_str));
    near.map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

struct Known {
    workloads: BTreeSet<Workload>,
    /// Full names.
    backends: BTreeSet<String>,
}

impl Known {
    fn of(documents: &Documents) -> Self {
        let all = documents.documents.iter();
        let backends = all.filter_map(|document| match &document.resource {
            Resource::Backend(backend) => Some(full_name(&backend.metadata)),
            Resource::BatchPolicy(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        });
        Self {
            workloads: known_workloads(documents),
            backends: backends.collect(),
        }
    }

    fn runtime(&self, document: &Document, metadata: &Metadata) -> Option<Stray> {
        let workload = workload(metadata, &metadata.name);
        if self.workloads.contains(&workload) {
            return None;
        }
        let message = format!(
            "for nobody: {} of these documents knows the workload {workload}{}",
            self.nobody(&workload.namespace, "no Backend and no Listener"),
            meant(&workload, &self.workloads)
        );
        Some(Stray {
            warning: document.warning(&Path::default().keys("metadata.name"), message),
            workload: Some(workload),
        })
    }

    /// Callers need no document; one whose name is nearly that of somebody known is more likely a mistake.
    fn callers(&self, document: &Document, runtime: &Runtime) -> Vec<Stray> {
        let rules = runtime
            .spec
            .authorization
            .iter()
            .flat_map(|authorization| &authorization.rules);
        let path = Path::default().keys("spec.authorization.rules");
        let from = rules.enumerate().flat_map(|(rule, settings)| {
            let path = path.index(rule).key("from");
            let from = settings.from.iter().enumerate();
            from.map(move |(index, text)| (path.index(index), text))
        });
        let stray = |(path, text): (Path, &String)| {
            let caller: Workload = text.parse().ok()?;
            let meant = meant(&caller, &self.workloads);
            let is_mistake = !self.workloads.contains(&caller) && !meant.is_empty();
            is_mistake.then(|| Stray {
                warning: document.warning(
                    &path,
                    format!("lets nobody in: no document knows the workload {caller}{meant}"),
                ),
                workload: Some(caller),
            })
        };
        from.filter_map(stray).collect()
    }

    fn policy(&self, document: &Document, policy: &BatchPolicy) -> Vec<Stray> {
        let metadata = &policy.metadata;
        let stray = |path: &Path, name: &str| {
            let message = self.no_backend(metadata, name)?;
            // Callers' sidecars look a backend up, and there is none.
            let is_inbound = policy.spec.placement == Placement::Inbound;
            Some(Stray {
                warning: document.warning(path, format!("for nobody: {message}")),
                workload: is_inbound.then(|| workload(metadata, name)),
            })
        };
        let targets = policy.spec.target_refs.iter().enumerate();
        let path = Path::default().keys("spec.targetRefs");
        let strays =
            targets.filter_map(|(index, target)| stray(&path.index(index).key("name"), &target.name));
        let mut strays: Vec<Stray> = strays.collect();
        let named = policy.spec.traffic.iter().flat_map(named);
        strays.extend(named.filter_map(|(path, name)| {
            let message = self.no_backend(metadata, name)?;
            Some(Stray {
                warning: document.warning(&path, format!("no call is sent there: {message}")),
                workload: None,
            })
        }));
        // Without a target it is for the only Backend, which may be in another namespace.
        let only = self
            .backends
            .first()
            .filter(|_| policy.spec.target_refs.is_empty());
        if let Some((_, name)) = only.and_then(|only| only.split_once('/')) {
            strays.extend(stray(&Path::default().key("metadata"), name));
        }
        strays
    }

    fn listener(&self, document: &Document, listener: &Listener) -> Option<Stray> {
        let message = self.no_backend(&listener.metadata, listener.spec.backend.as_ref()?)?;
        let message = format!("nothing can be reached here: {message}");
        Some(Stray {
            warning: document.warning(&Path::default().keys("spec.backend"), message),
            workload: None,
        })
    }

    /// What is wrong with the name of a backend, looked for in the namespace of who names it.
    fn no_backend(&self, by: &Metadata, name: &str) -> Option<String> {
        let namespace = namespace(by);
        if self.backends.contains(&format!("{namespace}/{name}")) {
            return None;
        }
        let mut elsewhere = self.backends.iter().filter_map(|backend| backend.split_once('/'));
        let elsewhere = elsewhere.find(|(_, other)| *other == name);
        let hint = elsewhere.map_or_else(String::new, |(other, _)| format!(", but in namespace {other}"));
        let nobody = self.nobody(namespace, "no Backend");
        Some(format!(
            "{nobody} of these documents is {name:?} in namespace {namespace}{hint}"
        ))
    }

    /// Who is not there; with a word on the namespace if nobody at all is in it.
    fn nobody(&self, namespace: &str, who: &str) -> String {
        if self.workloads.iter().any(|known| known.namespace == namespace) {
            who.to_owned()
        } else {
            format!("nobody is in namespace {namespace}, and {who}")
        }
    }
}

fn workload(metadata: &Metadata, account: &str) -> Workload {
    Workload {
        namespace: namespace(metadata).to_owned(),
        account: account.to_owned(),
    }
}

/// More say nothing more.
const MOST_STRAYS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;

    const KNOWN: &str = "kind: Backend\nmetadata: {name: users, namespace: shop}\nspec: {endpoints: ['10.0.0.1:80']}\n---\n\
         kind: Listener\nmetadata: {name: out, namespace: shop}\nspec: {address: '127.0.0.1:1', backend: users, workload: web}\n---\n";

    fn told(text: &str) -> Vec<(String, Option<String>)> {
        let documents = Documents::read(&Sources::inline("p.yaml", &format!("{KNOWN}{text}")));
        assert!(documents.faults.is_empty(), "{:?}", documents.faults);
        let strays = strays(&documents).into_iter();
        strays
            .map(|stray| {
                let workload = stray.workload.map(|workload| workload.to_string());
                (stray.warning.to_string(), workload)
            })
            .collect()
    }

    fn policy(metadata: &str, spec: &str) -> Vec<(String, Option<String>)> {
        told(&format!(
            "kind: BatchPolicy\nmetadata: {{name: p, {metadata}}}\nspec: {{{spec}, routes: [{{codec: {{jsonRpc: {{}}}}}}]}}\n"
        ))
    }

    #[test]
    fn a_runtime_is_for_whom_a_document_knows() {
        let runtime = |metadata: &str| told(&format!("kind: Runtime\nmetadata: {{{metadata}}}\n"));
        for good in ["name: users, namespace: shop", "name: web, namespace: shop"] {
            assert_eq!(runtime(good), [], "{good}");
        }
        assert_eq!(
            runtime("name: usres, namespace: shop"),
            [(
                "p.yaml:10:18: warning: metadata.name: for nobody: no Backend and no Listener of these documents \
                 knows the workload shop/usres (did you mean shop/users?)"
                    .to_owned(),
                Some("shop/usres".to_owned())
            )]
        );
        let (elsewhere, _) = runtime("name: users").remove(0);
        assert!(
            elsewhere.contains("nobody is in namespace default, and no Backend"),
            "{elsewhere}"
        );
    }

    #[test]
    fn a_caller_may_be_unknown_but_not_misspelt() {
        let from = |names: &str| {
            told(&format!(
                "kind: Runtime\nmetadata: {{name: users, namespace: shop}}\nspec: {{authorization: {{rules: [{{from: \
                 [{names}]}}]}}}}\n"
            ))
        };
        assert_eq!(from("shop/web, far/away, 'shop/*', '*'"), []);
        assert_eq!(
            from("shop/web, shop/uesrs"),
            [(
                "p.yaml:11:50: warning: spec.authorization.rules[0].from[1]: lets nobody in: no document knows the \
                 workload shop/uesrs (did you mean shop/users?)"
                    .to_owned(),
                Some("shop/uesrs".to_owned())
            )]
        );
    }

    #[test]
    fn a_policy_is_for_backends_of_its_namespace() {
        let users = "targetRefs: [{kind: Backend, name: users}]";
        assert_eq!(policy("namespace: shop", users), []);
        assert_eq!(policy("namespace: shop", "mode: Active"), [], "the only one");
        for spec in [users, "mode: Active"] {
            let (warning, workload) = policy("namespace: shpo", spec).remove(0);
            let expected = "for nobody: nobody is in namespace shpo, and no Backend of these documents is \"users\" in \
                            namespace shpo, but in namespace shop";
            assert!(warning.ends_with(expected), "{warning}");
            assert_eq!(workload.unwrap(), "shpo/users");
        }
        let outbound =
            "placement: Outbound, targetRefs: [{kind: Service, name: users}, {kind: Service, name: bank}]";
        let [(warning, None)] = &policy("namespace: shop", outbound)[..] else {
            panic!("no sidecar's name makes it be for somebody");
        };
        assert!(warning.contains("spec.targetRefs[1].name"), "{warning}");
    }

    #[test]
    fn warnings_are_bounded() {
        let many = "---\nkind: Runtime\nmetadata: {name: nobody}\n".repeat(200);
        assert_eq!(told(&many).len(), MOST_STRAYS);
    }
}
