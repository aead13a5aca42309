//! Routes of the Gateway API, whose definitions may come and go while this runs: looked for every few seconds
//! where there are none, and watched as everything else where they are.

use std::time::Duration;

use jitney_api::{MeshRoute, RouteKind};
use kube::api::ApiResource;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;

use super::index::Told;
use super::table::Scope;
use super::watch::{News, Word, api_status, tell};

/// Tells of routes of a kind in a scope until nobody listens. Who may not list them is told so whether or not
/// they are there: the API server asks that first.
pub(super) async fn watch(kind: RouteKind, client: Client, scope: Scope, to: mpsc::Sender<News>) {
    let kinds = GroupVersionKind::gvk(RouteKind::GROUP, RouteKind::VERSION, kind.kind());
    let resource = ApiResource::from_gvk_with_plural(&kinds, kind.plural());
    let api: Api<DynamicObject> = match &scope {
        Scope::All => Api::all_with(client, &resource),
        Scope::Namespace(name) => Api::namespaced_with(client, name, &resource),
    };
    let mut is_first = true;
    while !to.is_closed() {
        let events = watcher(api.clone(), watcher::Config::default());
        let (mut was_listed, mut is_served) = (false, true);
        let events = events.take_while(|event| {
            is_served = !is_unknown(event);
            was_listed |= matches!(event, Ok(watcher::Event::InitDone));
            is_served
        });
        let wrap = move |event| Told::Route(kind, event);
        tell(kind.plural(), scope.clone(), events, wrap, to.clone()).await;
        if was_listed {
            tracing::info!(%kind, "the API server serves these routes no longer: policies for them are for nobody");
        }
        if is_first || was_listed {
            let told = Ok(Word::Told(Told::Unserved(kind)));
            if to.send((scope.clone(), told)).await.is_err() {
                return;
            }
        }
        is_first = false;
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Whether the API server does not know the kind.
fn is_unknown(event: &watcher::Result<watcher::Event<DynamicObject>>) -> bool {
    event.as_ref().err().and_then(api_status) == Some(404)
}

/// What is kept of a route.
pub(super) fn row(kind: RouteKind, object: &DynamicObject) -> MeshRoute {
    let metadata = &object.metadata;
    let created = metadata.creation_timestamp.as_ref();
    let created = created.and_then(|created| serde_json::to_value(created).ok());
    let metadata = json!({"name": metadata.name, "creationTimestamp": created});
    MeshRoute::read(
        kind,
        &json!({"metadata": metadata, "spec": object.data.get("spec").cloned().unwrap_or_else(|| json!({}))}),
    )
}

/// How long it takes at most until definitions that came are noticed. Of each kind and scope one request.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
