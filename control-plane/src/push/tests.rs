//! Streams to sidecars: the real client state at the other end, without a socket between.

use std::collections::BTreeMap;

use jitney_api::push::ads::Node;
use jitney_api::push::config::Cause;
use jitney_api::push::{Change, Held, Pushed, Readers, Resources, Subscriber};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::identity::Folder;
use crate::status::Spread;

type Requests = ReceiverStream<Result<DeltaDiscoveryRequest, Status>>;

/// A sidecar that runs whatever does not begin with "bad".
struct Stub {
    subscriber: Subscriber,
    requests: Sender<Result<DeltaDiscoveryRequest, Status>>,
    responses: Responses<Requests>,
    runs: BTreeMap<String, String>,
    resources: usize,
}

struct Plane {
    push: Push<()>,
    _state: tempfile::TempDir,
}

impl std::ops::Deref for Plane {
    type Target = Push<()>;

    fn deref(&self) -> &Push<()> {
        &self.push
    }
}

fn workload(account: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        account: account.into(),
    }
}

fn policy(name: &str, content: &str, account: &str) -> Pushed {
    Pushed {
        kind: Kind::Policy,
        name: name.into(),
        held: Held::from(content.as_bytes()),
        readers: Readers::Workloads(vec![workload(account)]),
    }
}

impl Plane {
    fn new() -> Self {
        let (store, state) = (Arc::default(), tempfile::tempdir().unwrap());
        let folder = Folder::open(state.path()).unwrap();
        let push = Push {
            arrivals: Arc::default(),
            rollouts: Arc::new(Rollouts::open(&folder, &store).unwrap()),
            store,
            sidecars: Arc::default(),
            refusals: Arc::default(),
            authenticate: (),
        };
        Self { push, _state: state }
    }

    fn stub(&self, account: &str) -> Stub {
        self.node(account, &format!("{account}-1"))
    }

    fn node(&self, account: &str, node: &str) -> Stub {
        let mut subscriber = Subscriber::new(Node {
            id: node.into(),
            ..Node::default()
        });
        subscriber.open();
        subscriber.subscribe(Kind::Policy, "*");
        let (requests, received) = channel(16);
        Stub {
            subscriber,
            requests,
            responses: self.open(account, received.into()),
            runs: BTreeMap::new(),
            resources: 0,
        }
    }

    fn open(&self, account: &str, requests: Requests) -> Responses<Requests> {
        Responses::new(&self.push, workload(account).into(), requests)
    }

    /// Puts a policy in the source, of which this percentage is to take a change first.
    fn write(&self, content: &str, percent: u32) {
        let resources = Resources {
            pushed: vec![policy("shop/users", content, "users")],
            shares: [("shop/users".into(), percent)].into(),
            ..Resources::default()
        };
        self.rollouts.replace(resources, Instant::now());
    }

    fn progress(&self, policy: &str) -> (usize, usize, usize, usize) {
        let progress = self.sidecars.progress(&self.store.snapshot(), policy);
        (
            progress.selected,
            progress.acked,
            progress.rejected,
            progress.stale,
        )
    }
}

impl Stub {
    /// Says what it has to say, and takes in what has been sent, until both rest.
    async fn settle(&mut self) {
        loop {
            while let Some(request) = self.subscriber.poll() {
                self.requests.send(Ok(request)).await.unwrap();
            }
            let next = std::future::poll_fn(|cx| match Pin::new(&mut self.responses).poll_next(cx) {
                Poll::Ready(response) => Poll::Ready(response),
                Poll::Pending => Poll::Ready(None),
            });
            let Some(response) = next.await else { return };
            self.take(response.unwrap());
        }
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        self.resources += response.resources.len();
        let mut delta = self.subscriber.response(response).unwrap();
        for change in delta.changes.clone() {
            match change {
                Change::Set {
                    name,
                    version,
                    content,
                } if content.starts_with(b"bad") => {
                    delta.reject(
                        &name,
                        &version,
                        Cause::Limit,
                        "spec",
                        "too large for this sidecar",
                    );
                }
                Change::Set { name, content, .. } => {
                    self.runs
                        .insert(name, String::from_utf8(content.to_vec()).unwrap());
                }
                Change::Gone { name } => {
                    self.runs.remove(&name);
                }
            }
        }
        self.subscriber.answer(delta);
    }
}

#[tokio::test]
async fn each_sidecar_gets_its_own_and_the_status_says_who_runs_it() {
    let plane = Plane::new();
    plane.store.replace(vec![
        policy("shop/users", "1", "users"),
        policy("shop/orders", "1", "orders"),
    ]);
    let (mut users, mut orders) = (plane.stub("users"), plane.stub("orders"));
    users.settle().await;
    assert_eq!(
        plane.progress("shop/orders"),
        (1, 0, 0, 1),
        "connected, and nothing said yet"
    );
    orders.settle().await;
    assert_eq!(users.runs.keys().collect::<Vec<_>>(), ["shop/users"]);
    assert_eq!(orders.runs.keys().collect::<Vec<_>>(), ["shop/orders"]);
    assert_eq!(plane.progress("shop/users"), (1, 1, 0, 0));
    let mut nodes = Vec::new();
    plane
        .sidecars
        .each(|sidecar| nodes.push(sidecar.recipient.node.clone()));
    nodes.sort();
    assert_eq!(nodes, ["orders-1", "users-1"]);
    drop(users);
    assert_eq!(plane.progress("shop/users"), (0, 0, 0, 0));
}

#[tokio::test]
async fn who_is_connected_with_a_certificate_is_no_longer_said_to_get_none() {
    let plane = Plane::new();
    let now = std::time::SystemTime::now();
    for node in ["users-1", "users-2"] {
        let reason = "token: used before, for another key";
        plane
            .push
            .refusals
            .note(Some(&workload("users")), node, [reason, ""], now);
    }
    plane.stub("users").settle().await;
    let left = plane.push.refusals.list(now).into_iter().map(|one| one.node);
    assert_eq!(left.collect::<Vec<_>>(), ["users-2"]);
}

#[tokio::test]
async fn a_change_is_pushed_and_a_waiting_stream_is_woken() {
    let plane = Plane::new();
    plane.store.replace(vec![policy("shop/users", "1", "users")]);
    let mut users = plane.stub("users");
    users.settle().await;
    let (store, changed) = (Arc::clone(&plane.store), vec![policy("shop/users", "2", "users")]);
    let change = tokio::spawn(async move { store.replace(changed) });
    let response = users.responses.next().await.unwrap().unwrap();
    assert!(change.await.unwrap());
    users.take(response);
    users.settle().await;
    assert_eq!(users.runs["shop/users"], "2");
    assert_eq!(plane.progress("shop/users"), (1, 1, 0, 0));
}

#[tokio::test]
async fn a_rejection_is_in_the_status_until_there_is_a_better_version() {
    let plane = Plane::new();
    plane.store.replace(vec![policy("shop/users", "1", "users")]);
    let (mut users, mut other) = (plane.stub("users"), plane.stub("users"));
    users.settle().await;
    plane.store.replace(vec![policy("shop/users", "bad", "users")]);
    users.settle().await;
    other.settle().await;
    assert_eq!(users.runs["shop/users"], "1", "the last good version");
    assert_eq!(plane.progress("shop/users"), (2, 0, 2, 0));
    let progress = plane.sidecars.progress(&plane.store.snapshot(), "shop/users");
    let last = progress.last_rejection.unwrap();
    assert_eq!(
        (last.by.node.as_str(), last.nack.reason.as_str()),
        ("users-1", "too large for this sidecar")
    );
    plane.store.replace(vec![policy("shop/users", "3", "users")]);
    users.settle().await;
    assert_eq!(plane.progress("shop/users"), (2, 1, 0, 1));
}

/// Of any type; everyone may read it.
fn resource(kind: Kind, name: &str, content: &str) -> Pushed {
    Pushed {
        kind,
        readers: Readers::Everyone,
        ..policy(name, content, "users")
    }
}

#[tokio::test]
async fn a_rejection_of_whatever_type_is_counted_until_it_is_over() {
    let plane = Plane::new();
    let totals = || plane.sidecars.overview(&plane.store.snapshot()).sidecars;
    let mut users = plane.stub("users");
    for kind in [Kind::Backend, Kind::Endpoint] {
        users.subscriber.subscribe(kind, "shop/a");
        plane.store.replace(vec![resource(kind, "shop/a", "bad")]);
        users.settle().await;
        assert_eq!((totals().acked, totals().rejected), (0, 1), "{kind}");
        plane.store.replace(vec![resource(kind, "shop/a", "good")]);
        users.settle().await;
        assert_eq!((totals().acked, totals().rejected), (1, 0), "{kind}");
        let runs = plane.sidecars.on(0, |sidecar| sidecar.all_runs().count());
        assert_eq!(
            runs.unwrap_or_default(),
            0,
            "of {kind} it is not followed who has which"
        );
        for over in [vec![], vec![resource(kind, "shop/a", "bad")]] {
            plane.store.replace(vec![resource(kind, "shop/a", "bad")]);
            users.settle().await;
            assert_eq!(totals().rejected, 1, "{kind}");
            if !over.is_empty() {
                users.subscriber.unsubscribe(kind, "shop/a");
            }
            plane.store.replace(over);
            users.settle().await;
            assert_eq!(totals().rejected, 0, "{kind}");
            let mut kept = 0;
            plane
                .sidecars
                .each(|sidecar| kept += sidecar.all_rejected().count());
            assert_eq!(kept, 0, "{kind}");
        }
    }
}

#[tokio::test]
async fn a_runtime_is_followed_as_a_policy_is() {
    let plane = Plane::new();
    let runtime = |content: &str| Pushed {
        kind: Kind::Runtime,
        ..policy("shop/users", content, "users")
    };
    plane.store.replace(vec![runtime("1")]);
    let progress = || {
        let overview = plane.sidecars.overview(&plane.store.snapshot());
        let progress = overview.runtimes["shop/users"].clone();
        (
            progress.selected,
            progress.acked,
            progress.rejected,
            progress.stale,
        )
    };
    let (mut users, _orders) = (plane.stub("users"), plane.stub("orders"));
    assert_eq!(progress(), (1, 0, 0, 1));
    users.subscriber.subscribe(Kind::Runtime, "*");
    users.settle().await;
    assert_eq!(progress(), (1, 1, 0, 0));
    plane.store.replace(vec![runtime("bad")]);
    users.settle().await;
    assert_eq!(progress(), (1, 0, 1, 0));
    let overview = plane.sidecars.overview(&plane.store.snapshot());
    assert_eq!(overview.sidecars.rejected, 1);
    let text = overview.runtimes["shop/users"].text();
    assert!(
        text.ends_with("1 rejected it: users-1: runtime shop/users: spec: too large for this sidecar"),
        "{text}"
    );
}

#[tokio::test]
async fn a_sidecar_that_moves_to_another_replica_is_sent_nothing_again() {
    let (one, other) = (Plane::new(), Plane::new());
    for plane in [&one, &other] {
        plane.store.replace(vec![policy("shop/users", "1", "users")]);
    }
    let mut users = one.stub("users");
    users.settle().await;
    assert_eq!(users.resources, 1);
    let (requests, received) = channel(16);
    (users.requests, users.responses) = (requests, other.open("users", received.into()));
    users.subscriber.open();
    users.settle().await;
    assert_eq!(users.resources, 1);
    assert_eq!(
        other.progress("shop/users"),
        (1, 1, 0, 0),
        "what it came with counts"
    );
}

#[tokio::test]
async fn a_sidecar_that_claims_what_is_not_for_it_is_not_counted() {
    let plane = Plane::new();
    let orders = policy("shop/orders", "1", "orders");
    let version = orders.held.version.to_string();
    plane.store.replace(vec![orders]);
    let mut users = plane.stub("users");
    users.subscriber.hold(Kind::Policy, "shop/orders", &version);
    users.settle().await;
    assert_eq!(plane.progress("shop/orders"), (0, 0, 0, 0));
}

#[tokio::test]
async fn what_a_sidecar_asked_for_counts_until_it_wants_it_no_more() {
    let plane = Plane::new();
    let outbound = Pushed {
        readers: Readers::Everyone,
        ..policy("shop/out", "1", "users")
    };
    plane.store.replace(vec![outbound]);
    let mut users = plane.stub("users");
    users.settle().await;
    assert_eq!(plane.progress("shop/out"), (0, 0, 0, 0));
    users.subscriber.subscribe(Kind::Policy, "shop/out");
    users.settle().await;
    assert_eq!(plane.progress("shop/out"), (1, 1, 0, 0));
    users.subscriber.unsubscribe(Kind::Policy, "shop/out");
    users.settle().await;
    assert_eq!(plane.progress("shop/out"), (0, 0, 0, 0));
}

#[tokio::test]
async fn what_a_sidecar_says_is_kept_to_a_bound() {
    let plane = Plane::new();
    plane.store.replace(vec![policy("shop/users", "bad", "users")]);
    let mut users = plane.stub(&"é".repeat(1000));
    users.subscriber.subscribe(Kind::Policy, "*");
    users.settle().await;
    let mut nodes = Vec::new();
    plane
        .sidecars
        .each(|sidecar| nodes.push(sidecar.recipient.node.len()));
    assert_eq!(nodes, [252], "whole letters");
}

#[tokio::test]
async fn a_term_ends_the_stream_and_says_why() {
    let plane = Plane::new();
    for (ending, code) in [
        (Ending::Age, tonic::Code::Unavailable),
        (Ending::Drain, tonic::Code::Unavailable),
        (Ending::Apart, tonic::Code::Unavailable),
        (Ending::Certificate, tonic::Code::Unauthenticated),
    ] {
        let (end, term) = TermEnd::new();
        let (_requests, received) = channel(16);
        let admitted = Admitted {
            term,
            ..workload("users").into()
        };
        let mut responses = Responses::new(&plane, admitted, Requests::from(received));
        let waiting = tokio::spawn(async move { responses.next().await });
        tokio::task::yield_now().await;
        end.end(ending);
        let status = waiting.await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), code);
    }
    assert!(plane.sidecars.is_empty());
}

#[tokio::test]
async fn who_missed_more_than_is_remembered_catches_up() {
    let plane = Plane::new();
    let mut users = plane.stub("users");
    users.settle().await;
    for n in 0..100 {
        plane
            .store
            .replace(vec![policy("shop/users", &n.to_string(), "users")]);
    }
    users.settle().await;
    assert_eq!(users.runs["shop/users"], "99");
    assert_eq!(users.resources, 1, "a slow sidecar gets the latest only");
}

#[tokio::test]
async fn a_type_of_somebody_else_ends_the_stream() {
    let plane = Plane::new();
    let mut users = plane.stub("users");
    let request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..DeltaDiscoveryRequest::default()
    };
    users.requests.send(Ok(request)).await.unwrap();
    let status = users.responses.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("envoy.config.cluster"), "{status}");
}

/// At 30 percent the first takes a change, and the second does not.
const NODES: [&str; 2] = ["users-1", "users-2"];

#[tokio::test]
async fn a_change_goes_to_its_share_and_each_is_counted_against_its_own() {
    let plane = Plane::new();
    plane.write("1", 30);
    let [mut takes, mut keeps] = NODES.map(|node| plane.node("users", node));
    takes.settle().await;
    keeps.settle().await;
    plane.write("2", 30);
    let told = || {
        let progress = plane.sidecars.progress(&plane.store.snapshot(), "shop/users");
        (Spread::of(&progress), progress.text())
    };
    assert_eq!(
        told(),
        (
            Spread::Staged,
            "Staged: 1 of 2 sidecars take generation 2 (30 %), the others keep what was before; 1 of 2 \
             have acknowledged; 1 has not answered yet"
                .into()
        )
    );
    takes.settle().await;
    keeps.settle().await;
    assert_eq!((takes.resources, keeps.resources), (2, 1));
    assert_eq!(
        (&*takes.runs["shop/users"], &*keeps.runs["shop/users"]),
        ("2", "1")
    );
    assert_eq!(plane.progress("shop/users"), (2, 2, 0, 0));
    plane.write("2", 100);
    keeps.settle().await;
    takes.settle().await;
    assert_eq!((takes.resources, keeps.resources), (2, 2));
    assert_eq!(
        told(),
        (
            Spread::Complete,
            "Programmed: 2 of 2 sidecars run generation 2".into()
        )
    );
}

#[tokio::test]
async fn a_rejection_stops_the_stage_and_all_go_back() {
    let plane = Plane::new();
    plane.write("1", 30);
    let [mut takes, mut keeps] = NODES.map(|node| plane.node("users", node));
    takes.settle().await;
    keeps.settle().await;
    plane.write("bad", 30);
    let mut generation = plane.store.subscribe();
    generation.mark_unchanged();
    takes.settle().await;
    generation.changed().await.unwrap();
    takes.settle().await;
    keeps.settle().await;
    assert_eq!(
        (&*takes.runs["shop/users"], &*keeps.runs["shop/users"]),
        ("1", "1")
    );
    assert_eq!(keeps.resources, 1);
    let progress = plane.sidecars.progress(&plane.store.snapshot(), "shop/users");
    assert_eq!(
        progress.text(),
        "Stopped: users-1 rejected policy shop/users: spec: too large for this sidecar; 2 of 2 sidecars run \
         what was before"
    );
    assert_eq!(plane.progress("shop/users"), (2, 2, 0, 0));
    plane.write("bad", 100);
    let mut another = plane.node("users", "users-3");
    another.settle().await;
    assert_eq!(another.runs["shop/users"], "1", "it goes no further");
}

#[tokio::test]
async fn what_is_on_its_way_to_a_sidecar_is_not_taken_for_what_it_ran_before() {
    let plane = Plane::new();
    plane.write("1", 30);
    let mut takes = plane.node("users", NODES[0]);
    takes.settle().await;
    plane.write("2", 30);
    let response = takes.responses.next().await.unwrap().unwrap();
    plane.write("1", 30);
    assert_eq!(
        plane.progress("shop/users"),
        (1, 0, 0, 1),
        "it may run the second by now"
    );
    takes.take(response);
    takes.settle().await;
    assert_eq!(plane.progress("shop/users"), (1, 1, 0, 0));
    assert_eq!(takes.runs["shop/users"], "1");
}

#[tokio::test]
async fn without_a_stage_a_rejection_stops_nothing() {
    let plane = Plane::new();
    plane.write("1", 100);
    let mut users = plane.node("users", NODES[0]);
    users.settle().await;
    plane.write("bad", 100);
    users.settle().await;
    let progress = plane.sidecars.progress(&plane.store.snapshot(), "shop/users");
    assert_eq!((Spread::of(&progress), progress.rejected), (Spread::Complete, 1));
}

#[tokio::test]
async fn what_a_sidecar_is_called_is_what_it_said_first() {
    let plane = Plane::new();
    plane.write("1", 30);
    plane.write("2", 30);
    let mut keeps = plane.node("users", NODES[1]);
    keeps.settle().await;
    let renamed = DeltaDiscoveryRequest {
        node: Some(Node {
            id: NODES[0].into(),
            ..Node::default()
        }),
        type_url: Kind::Policy.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    keeps.requests.send(Ok(renamed)).await.unwrap();
    plane.write("2", 31);
    keeps.settle().await;
    assert_eq!(keeps.runs["shop/users"], "1");
}
