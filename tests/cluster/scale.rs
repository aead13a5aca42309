//! A thousand sidecars that are told of every change, or a hundred: pods and nodes that run nothing, a real API
//! server and controllers that make the EndpointSlices, the real control plane, and for each pod the code by which
//! a sidecar listens to it.
//!
//! `CLUSTER_SCALE=full` is the size that is measured, and `tests/cluster/run --scale` does that. What is asserted is
//! the same of both, and is never how long something takes.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jitney_tests::fleet::{Common, Fleet, Seen};
use jitney_tests::usage::Usage;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::api::chart::installed;
use crate::gateway::Definitions;
use crate::kubectl::{apply, get};

mod plane;
mod requests;
mod table;
mod world;

use plane::Plane;
use requests::{Audit, Requests, Served};
use table::Table;
use world::{Addresses, FIRST_SIZE, Service, Size, addresses};

/// What was done, and what that took.
#[derive(Debug)]
struct Phase {
    name: &'static str,
    /// Changes, in the order in which they were made.
    changes: Vec<Change>,
    /// Sidecars that each of them concerns.
    concerned: usize,
    lasted: Duration,
    before: (Usage, Served),
    after: (Usage, Served),
    requests: Requests,
}

/// How long after its command was started something was so.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// The command has ended.
    made: Duration,
    /// The first sidecar that it concerns runs it.
    first: Duration,
    /// The last one does.
    last: Duration,
}

/// All that takes part.
struct Scale {
    size: Size,
    services: Vec<Service>,
    plane: Plane,
    audit: Audit,
    fleet: Fleet,
}

#[tokio::test]
async fn every_sidecar_is_told_of_each_change_and_of_nothing_else() {
    let size = Size::wanted();
    allow_many_files();
    installed().await;
    // Else they are looked for every few seconds, which is no list of anything.
    let _definitions = Definitions::applied();
    size.make().await;
    let (mut scale, began, connected) = Scale::start(size).await;
    let mut phases = vec![scale.phase("start", 0, began, Vec::new()).await];
    if let Some(time) = size.idle {
        let began = scale.begin();
        sleep(time).await;
        phases.push(scale.phase("nothing", 0, began, Vec::new()).await);
    }
    let (own, all) = (size.pods, size.sidecars());
    let began = scale.begin();
    let changes = scale.change_policies(false, own);
    phases.push(scale.phase("policy of a Service", own, began, changes).await);
    let began = scale.begin();
    let changes = scale.change_policies(true, all);
    phases.push(scale.phase("policy of all callers", all, began, changes).await);
    let began = scale.begin();
    let changes = scale.change_endpoints();
    phases.push(scale.phase("a pod comes or goes", all, began, changes).await);
    scale.everything_is_known();

    let table = Table {
        size,
        connected,
        phases: &phases,
        audit: &scale.audit,
    };
    std::io::stdout().write_all(table.to_string().as_bytes()).unwrap();
    for phase in &phases[1..] {
        assert_eq!(
            phase.requests.of("list"),
            0,
            "{}: {:?}",
            phase.name,
            phase.requests
        );
        // That nobody runs it yet, that some do, that all do.
        let most = 3 * phase.changes.len();
        let written = phase.requests.statuses();
        assert!(written <= most, "{}: {written} statuses", phase.name);
    }
    // A watch that ends after its five minutes has one successor.
    let expected = WATCHED.map(|(what, count)| (what.to_owned(), count));
    assert_eq!(scale.audit.watches, expected.into(), "{}", scale.plane.log());
    let agent = concat!("jitney-control-plane/", env!("CARGO_PKG_VERSION"));
    assert!(scale.audit.agents.iter().eq([agent]), "{:?}", scale.audit.agents);
}

impl Scale {
    /// Starts the control plane and the sidecars; gives the beginning and how long it took until all of them had what
    /// is theirs.
    async fn start(size: Size) -> (Self, Began, Duration) {
        let plane = Plane::start().await;
        let folder = tempfile::tempdir().unwrap();
        let members = size.members(folder.path());
        let services = size.services();
        let began = (Instant::now(), plane.usage(), Served::now());
        let common = Common {
            control_plane: plane.url(),
            roots: plane.roots(),
            any_backend: true,
        };
        let callers: Vec<String> = for_callers(&services).map(Service::backend).collect();
        let fleet = Fleet::start(&common, &members, move |seen| {
            let all = callers
                .iter()
                .all(|backend| outbound(seen, backend) == Some(FIRST_SIZE));
            // A Service whose callers run its policy has none of its own.
            let own = callers.contains(&seen.workload.to_string()) || inbound(seen) == Some(FIRST_SIZE);
            own && all
        });
        let fleet = fleet.unwrap();
        let connected = fleet.met(size.sidecars(), began.0);
        let connected = connected.unwrap_or_else(|error| panic!("{error:#}\n{}", plane.log()));
        let scale = Self {
            size,
            services,
            audit: Audit::open(),
            plane,
            fleet,
        };
        (scale, began, connected.last().copied().unwrap_or_default())
    }

    fn begin(&self) -> Began {
        (Instant::now(), self.plane.usage(), Served::now())
    }

    /// Ends what has begun, once every policy says that all of its sidecars run it.
    async fn phase(
        &mut self,
        name: &'static str,
        concerned: usize,
        (at, usage, served): Began,
        changes: Vec<Change>,
    ) -> Phase {
        until("every policy says that all run it", || {
            let policies = get(&["batchpolicies", "--all-namespaces"]);
            let policies = policies["items"].as_array().unwrap();
            policies.len() == self.services.len() && policies.iter().all(|policy| self.is_told(policy))
        })
        .await;
        Phase {
            name,
            changes,
            concerned,
            lasted: at.elapsed(),
            before: (usage, served),
            after: (self.plane.usage(), Served::now()),
            requests: self.audit.next(),
        }
    }

    /// Whether a policy's status is about its present generation, and has all of its sidecars run it.
    fn is_told(&self, policy: &Value) -> bool {
        let conditions = policy["status"]["ancestors"][0]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let programmed = conditions.find(|condition| condition["type"] == "Programmed");
        let is_of_callers = policy["spec"]["placement"] == "Outbound";
        let count = if is_of_callers {
            self.size.sidecars()
        } else {
            self.size.pods
        };
        programmed.is_some_and(|programmed| {
            programmed["status"] == "True"
                && programmed["observedGeneration"] == policy["metadata"]["generation"]
                && policy["status"]["sidecars"]["summary"] == format!("{count}/{count}")
        })
    }

    /// Changes policies, each by a command of its own, and waits for those that it concerns.
    fn change_policies(&self, of_callers: bool, concerned: usize) -> Vec<Change> {
        let services = self.services.iter();
        let some: Vec<&Service> = services.filter(|one| one.is_for_callers == of_callers).collect();
        let change = |number: usize| {
            let service = some[number * STRIDE % some.len()];
            let (size, backend) = (FIRST_SIZE + 1 + number, service.backend());
            self.fleet.expect(move |seen| match of_callers {
                true => outbound(seen, &backend) == Some(size),
                false => seen.workload.to_string() == backend && inbound(seen) == Some(size),
            });
            self.change(concerned, || apply(&service.policy(size)))
        };
        (0..self.size.changes).map(change).collect()
    }

    /// Adds and removes pods, by turns.
    fn change_endpoints(&self) -> Vec<Change> {
        let change = |number: usize| {
            let service = &self.services[number / 2 * STRIDE % self.services.len()];
            let (backend, comes) = (service.backend(), number.is_multiple_of(2));
            let count = self.size.pods + usize::from(comes);
            self.fleet
                .expect(move |seen| known(seen, &backend).len() == count);
            self.change(self.size.sidecars(), || match comes {
                true => service.add_pod("more"),
                false => service.remove_pod("more"),
            })
        };
        // What came goes again.
        (0..self.size.changes.next_multiple_of(2)).map(change).collect()
    }

    fn change(&self, concerned: usize, make: impl FnOnce()) -> Change {
        let since = Instant::now();
        make();
        let made = since.elapsed();
        let took = self.fleet.met(concerned, since);
        let took = took.unwrap_or_else(|error| panic!("{error:#}\n{}", self.plane.log()));
        Change {
            made,
            first: took[0],
            last: took[took.len() - 1],
        }
    }

    /// With one more change, each sidecar has all policies of callers and all addresses, and no others.
    fn everything_is_known(&self) {
        let all: Arc<Addresses> = addresses().into();
        let (first, size) = (for_callers(&self.services).next().unwrap(), LAST_SIZE);
        let backend = first.backend();
        self.fleet.expect(move |seen| {
            let known_of = |backend: &String| (backend.clone(), known(seen, backend));
            outbound(seen, &backend) == Some(size) && all.keys().map(known_of).eq(all.iter().map(clone))
        });
        self.change(self.size.sidecars(), || apply(&first.policy(size)));
    }
}

/// When something began, and what had been used until then.
type Began = (Instant, Usage, Served);

fn clone<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

fn for_callers(services: &[Service]) -> impl Iterator<Item = &Service> {
    services.iter().filter(|service| service.is_for_callers)
}

/// The most items of a batch of the calls that come to a sidecar.
fn inbound(seen: &Seen<'_>) -> Option<usize> {
    let mut ports = seen.pushed.inbound_by_port(seen.workload);
    let policy = ports.find(|port| port.number == 8080)?.compiled.policy;
    policy.routes().first().map(|route| route.limits.max_size)
}

/// The most items of a batch of the calls that a sidecar sends to a backend.
fn outbound(seen: &Seen<'_>, backend: &str) -> Option<usize> {
    let (_, compiled) = seen.pushed.outbound(backend)?;
    compiled
        .policy
        .routes()
        .first()
        .map(|route| route.limits.max_size)
}

/// The addresses of a backend, as a sidecar knows them.
fn known(seen: &Seen<'_>, backend: &str) -> std::collections::BTreeSet<(String, String, String)> {
    let destination = seen.pushed.outbound(backend).map(|(destination, _)| destination);
    let endpoints = destination
        .into_iter()
        .flat_map(|destination| destination.endpoints);
    let row = |reached: jitney_api::push::Reached| {
        let workload = reached.workload.map(|workload| workload.to_string());
        (
            reached.endpoint.to_string(),
            reached.zone.as_deref().unwrap_or_default().to_owned(),
            workload.unwrap_or_default(),
        )
    };
    endpoints.map(row).collect()
}

/// Polls until something is so, which takes a while where there is much of it.
#[track_caller]
fn until(what: &str, mut fact: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let what = what.to_owned();
    async move {
        let end = Instant::now() + Duration::from_secs(180);
        while !fact() {
            assert!(Instant::now() < end, "waited in vain until {what}");
            sleep(Duration::from_millis(250)).await;
        }
    }
}

/// Each connection is a file.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// What the control plane watches, each once.
const WATCHED: [(&str, i64); 11] = [
    ("backends", 1),
    ("batchpolicies", 1),
    // By the name of those with the roots.
    ("configmaps", 1),
    // Of all, and of its own namespace, where the replicas are.
    ("endpointslices", 2),
    ("grpcroutes", 1),
    ("httproutes", 1),
    // Where roots are to be; and, as pods without a sidecar are, whether they should have one.
    ("namespaces", 2),
    ("pods", 2),
    ("runtimes", 1),
    ("secrets", 1),
    ("services", 1),
];
/// So that changes are of all namespaces by turns: prime to the number of Services of any size.
const STRIDE: usize = 7;
/// Another one than any change has.
const LAST_SIZE: usize = 1000;
