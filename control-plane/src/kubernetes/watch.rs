//! A watch of each kind, which goes on for as long as anybody listens.

use std::fmt::Debug;
use std::time::Duration;

use jitney_api::RouteKind;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ApiResource;
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};

use super::index::{Kinds, Told};
use super::routes;
use super::table::{Event, Scope};

/// What one watch tells, or why it tells nothing.
pub(super) type News = (Scope, Result<Word, Complaint>);

/// What a watch tells that comes about.
#[derive(Debug)]
pub(super) enum Word {
    /// Something is another than before.
    Told(Told),
    /// It failed, and goes on: of this kind nothing has changed.
    GoesOn(&'static str),
}

/// A watch that does not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// What is watched.
    pub(super) kind: &'static str,
    /// What to do, and what was said.
    pub(super) text: String,
    /// Whether this account may not: the API server asks that before it looks whether there is such a kind.
    pub(super) is_forbidden: bool,
}

/// Watches every kind in a scope.
pub(super) fn start(client: &Client, scope: &Scope, tasks: &mut JoinSet<()>, to: &mpsc::Sender<News>) {
    let all = watcher::Config::default;
    let with_sidecar = all().labels(INJECTED);
    let watching = Watching { client, scope, to };
    tasks.spawn(watching.each::<Service>("services", all(), Told::Service));
    tasks.spawn(watching.each::<EndpointSlice>("endpointslices", all(), Told::Slice));
    tasks.spawn(watching.each::<Pod>("pods", with_sidecar, Told::Pod));
    for kinds in Kinds::ALL {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("jitney.dev", "v1alpha1", kinds.kind()),
            kinds.plural(),
        );
        let api = match scope {
            Scope::All => Api::all_with(client.clone(), &resource),
            Scope::Namespace(name) => Api::namespaced_with(client.clone(), name, &resource),
        };
        let wrap = move |event| Told::Custom(kinds, event);
        let events = watcher(api, all());
        tasks.spawn(tell(kinds.plural(), scope.clone(), events, wrap, to.clone()));
    }
    for kind in RouteKind::ALL {
        tasks.spawn(routes::watch(kind, client.clone(), scope.clone(), to.clone()));
    }
}

struct Watching<'a> {
    client: &'a Client,
    scope: &'a Scope,
    to: &'a mpsc::Sender<News>,
}

impl Watching<'_> {
    fn each<K>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        wrap: fn(Box<Event<K>>) -> Told,
    ) -> impl Future<Output = ()> + use<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = match self.scope {
            Scope::All => Api::all(self.client.clone()),
            Scope::Namespace(name) => Api::namespaced(self.client.clone(), name),
        };
        tell(
            kind,
            self.scope.clone(),
            watcher(api, config),
            wrap,
            self.to.clone(),
        )
    }
}

/// Tells what a watch says until it ends, or nobody listens. A watch that fails begins again, later and later.
pub(super) async fn tell<K>(
    kind: &'static str,
    scope: Scope,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    wrap: impl Fn(Box<Event<K>>) -> Told,
    to: mpsc::Sender<News>,
) {
    let mut events = std::pin::pin!(events.default_backoff());
    let (mut has_all, mut has_failed) = (false, false);
    loop {
        // One that goes on from where it was says nothing.
        let wait = if has_all && has_failed {
            LONGEST_BACKOFF
        } else {
            FOREVER
        };
        let told = match timeout(wait, events.next()).await {
            Ok(Some(Ok(event))) => {
                has_failed = false;
                match &event {
                    Event::Init => has_all = false,
                    Event::InitDone => has_all = true,
                    Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
                }
                Ok(Word::Told(wrap(Box::new(event))))
            }
            Ok(Some(Err(error))) => {
                has_failed = true;
                Err(complaint(kind, &error))
            }
            Ok(None) => return,
            Err(_) => {
                has_failed = false;
                Ok(Word::GoesOn(kind))
            }
        };
        if to.send((scope.clone(), told)).await.is_err() {
            return;
        }
    }
}

/// In words that say what to do about it.
fn complaint(kind: &'static str, error: &watcher::Error) -> Complaint {
    let status = api_status(error);
    let text = match status {
        Some(404) => format!("the API server does not know {kind}.jitney.dev: install the chart jitney-crds"),
        Some(403) => format!("this account may not list and watch {kind}: {}", chain(error)),
        _ => format!("{kind} are not watched: {}", chain(error)),
    };
    Complaint {
        kind,
        text,
        is_forbidden: status == Some(403),
    }
}

/// The status with which the API server has answered.
pub(super) fn api_status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    // Most errors repeat their cause.
    texts.dedup_by(|later, earlier| earlier.contains(later.as_str()));
    texts.join(": ")
}

/// The label of pods that have a sidecar.
const INJECTED: &str = "jitney.dev/injected=true";

/// More than passes from one failure of a watch to the next: kube's back-off grows to 30 s, and varies.
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Longer than any process runs.
const FOREVER: Duration = Duration::from_secs(1 << 32);

#[cfg(test)]
mod tests {
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// What was said: of what is told nothing but that, of what is not the kind.
    async fn said(news: &mut mpsc::Receiver<News>) -> Result<&'static str, &'static str> {
        let (_, said) = news.recv().await.unwrap();
        match said {
            Ok(Word::Told(_)) => Ok("told"),
            Ok(Word::GoesOn(kind)) => Ok(kind),
            Err(complaint) => Err(complaint.kind),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_goes_on_after_a_failure_says_so() {
        let ((tell_it, told), (to, mut news)) = (mpsc::channel(16), mpsc::channel(16));
        let events = ReceiverStream::new(told);
        let telling = tell::<Service>("services", Scope::All, events, Told::Service, to);
        let telling = tokio::spawn(telling);
        let failure = || Err(watcher::Error::NoResourceVersion);
        tell_it.send(failure()).await.unwrap();
        assert_eq!(said(&mut news).await, Err("services"));
        // Nothing was listed yet: that nothing is said means nothing.
        tokio::time::advance(10 * LONGEST_BACKOFF).await;
        for event in [Ok(Event::Init), Ok(Event::InitDone), failure()] {
            tell_it.send(event).await.unwrap();
        }
        for expected in [Ok("told"), Ok("told"), Err("services"), Ok("services")] {
            assert_eq!(said(&mut news).await, expected);
        }
        tell_it.send(Ok(Event::Init)).await.unwrap();
        assert_eq!(said(&mut news).await, Ok("told"));
        drop(tell_it);
        telling.await.unwrap();
    }
}
