//! What is not there that a look was meant to see: namespaces, kinds, and what these should have.

use jitney_api::{Diagnostic, RouteKind, Severity};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

use crate::kubernetes::index::{Index, Kinds};
use crate::kubernetes::served;
use crate::kubernetes::watch::Complaint;

/// Of a kind of routes that this account may not list: that there is none, as the API server does not know the kind.
/// `None` where it does, or where that is not told.
pub(super) async fn unserved(client: &Client, complaint: &Complaint) -> Option<(RouteKind, Diagnostic)> {
    let kind = RouteKind::ALL
        .into_iter()
        .find(|kind| complaint.is_forbidden && kind.plural() == complaint.kind)?;
    if !matches!(served::has_routes(client, kind).await, Ok(false)) {
        return None;
    }
    let plural = kind.plural();
    let told = format!(
        "this account may not list and watch {plural}.{}, and is not asked to as long as the API server does not know them",
        RouteKind::GROUP
    );
    Some((kind, warning(plural, told)))
}

/// That a namespace is not there in which nothing was found; a warning where that is not told.
pub(super) async fn namespace(client: &Client, name: &str) -> Option<Diagnostic> {
    let file = format!("Namespace {name}");
    let namespaces = Api::<Namespace>::all(client.clone());
    match namespaces.get_metadata_opt(name).await {
        Ok(Some(_)) => None,
        Ok(None) => Some(Diagnostic::of_file(
            &file.as_str().into(),
            format!("there is no namespace {name:?}: --source kubernetes:NAMESPACE names one that is there"),
        )),
        Err(error) => Some(warning(
            &file,
            format!("nothing is in it, and whether it is there is not known: {error}"),
        )),
    }
}

/// That nobody can tell what becomes of objects of a kind; a warning where there are none.
pub(super) fn status(index: &Index, kinds: Kinds) -> Diagnostic {
    let file = format!("CustomResourceDefinition {}.jitney.dev", kinds.plural());
    let told = served::outdated(kinds);
    match index.all(kinds).next() {
        Some(_) => Diagnostic::of_file(&file.as_str().into(), told),
        None => warning(&file, told),
    }
}

fn warning(file: &str, told: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        ..Diagnostic::of_file(&file.into(), told)
    }
}
