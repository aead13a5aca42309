//! A sidecar's duty against the control plane's end of a stream, without a socket between.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use jitney_api::push::{Answer, Feed, Held, Nack, Pushed, Readers, View, resources};
use jitney_api::{Documents, Sources};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::control::SharedPapers;
use crate::listeners::{ListenerView, Pending, Place};

mod cost;
mod properties;

/// What a sidecar does, as far as its duty can tell.
#[derive(Default)]
struct World {
    /// Addresses that somebody else has.
    taken: BTreeSet<SocketAddr>,
    /// Why nothing can be in force.
    broken: Option<&'static str>,
    applied: usize,
    refused: usize,
    planned: Vec<ListenerView>,
    shown: watch::Sender<Arc<[ListenerView]>>,
}

#[derive(Clone, Default)]
struct Stub(Arc<Mutex<World>>);

impl World {
    fn show(&self) {
        let views = self.planned.iter().cloned().map(|mut view| {
            let is_taken = self.taken.contains(&view.address);
            view.pending = view.pending.filter(|_| is_taken);
            view
        });
        let views: Arc<[ListenerView]> = views.collect();
        self.shown.send_if_modified(|shown| {
            let is_news = *shown != views;
            *shown = views;
            is_news
        });
    }
}

impl Force for Stub {
    fn apply(&mut self, pushed: &Assembly, _: &Workload) -> Result<(), String> {
        let mut world = self.0.lock();
        if let Some(reason) = world.broken {
            world.refused += 1;
            return Err(reason.into());
        }
        let known = pushed
            .listeners()
            .filter(|one| pushed.outbound(&one.backend).is_some());
        let views = known.map(|one| ListenerView {
            name: one.name.as_str().into(),
            address: one.address,
            backend: one.backend.as_str().into(),
            pending: Some(Pending {
                place: Place {
                    runtime: one.runtime.clone(),
                    field: format!("{}.spec.address", one.field()),
                },
                reason: format!("cannot listen on {}", one.address),
            }),
        });
        world.planned = views.collect();
        world.applied += 1;
        world.show();
        Ok(())
    }

    fn listeners(&self) -> Listeners {
        self.0.lock().shown.subscribe()
    }
}

/// The control plane's documents.
#[derive(Default)]
struct Source(Vec<Pushed>);

impl Source {
    fn of(text: &str) -> Self {
        let documents = Documents::read(&Sources::inline("mesh.yaml", text));
        jitney_api::compile(&documents).expect("a good file");
        Self(resources(&documents).pushed)
    }

    fn is_own(&self, one: &Pushed) -> bool {
        matches!(&one.readers, Readers::Workloads(all) if all.contains(&users()))
    }
}

impl View for Source {
    fn get(&self, kind: Kind, name: &str) -> Option<Held> {
        let mut all = self.0.iter();
        let found = all.find(|one| one.kind == kind && *one.name == *name)?;
        let is_readable = found.readers == Readers::Everyone || self.is_own(found);
        is_readable.then(|| found.held.clone())
    }

    fn below(&self, kind: Kind, prefix: &str) -> Vec<Arc<str>> {
        let all = self.0.iter().filter(|one| one.kind == kind);
        let below = all.filter(|one| one.name.starts_with(prefix));
        below.map(|one| Arc::clone(&one.name)).collect()
    }

    fn own(&self, kind: Kind) -> Vec<Arc<str>> {
        // Whoever asks for everything is to have what everyone may read of these.
        let is_for_all =
            |one: &Pushed| one.readers == Readers::Everyone && matches!(kind, Kind::Backend | Kind::Endpoint);
        let is_own = |one: &&Pushed| one.kind == kind && (self.is_own(one) || is_for_all(one));
        let all = self.0.iter().filter(is_own);
        all.map(|one| Arc::clone(&one.name)).collect()
    }

    fn is_own(&self, kind: Kind, name: &str) -> bool {
        self.own(kind).iter().any(|own| **own == *name)
    }
}

/// A sidecar and a stream.
struct Mesh {
    world: Arc<Mutex<World>>,
    duty: Duty,
    trust: Trust,
    feed: Feed,
    source: Source,
    /// Of every answer since it was read last.
    nacks: Vec<Nack>,
    /// Resources that were sent since it was read last.
    sent: Vec<String>,
    folder: tempfile::TempDir,
}

fn users() -> Workload {
    Workload {
        namespace: "shop".into(),
        account: "users".into(),
    }
}

impl Mesh {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (duty, world, trust) = sidecar(folder.path(), false);
        let mut mesh = Self {
            world,
            duty,
            trust,
            feed: Feed::new(),
            source: Source::of(text),
            nacks: Vec::new(),
            sent: Vec::new(),
            folder,
        };
        mesh.duty.open(&users());
        mesh
    }

    /// Another stream of the same sidecar.
    fn reconnect(&mut self) {
        self.feed = Feed::new();
        self.duty.open(&users());
        self.settle();
    }

    /// Another process, with what the last one left on disk.
    fn restart(&mut self, taken: &[&str]) {
        let disk = Disk::new(self.folder.path().join("snapshot"));
        self.duty.save(&disk);
        (self.duty, self.world, self.trust) = sidecar(self.folder.path(), false);
        self.take(taken);
        self.duty.restore(&disk, &self.trust);
        self.duty.begin(None);
    }

    /// These addresses are somebody else's from now on, and no others.
    fn take(&self, addresses: &[&str]) {
        let mut world = self.world.lock();
        world.taken = addresses.iter().map(|one| one.parse().unwrap()).collect();
        world.show();
    }

    fn write(&mut self, text: &str) {
        self.source = Source::of(text);
        self.feed.look_again(&self.source);
        self.settle();
    }

    /// Says and answers until both ends rest.
    fn settle(&mut self) {
        self.duty.complain();
        // A loop that does not end is a fault, too.
        for _ in 0..1000 {
            if let Some(request) = self.duty.say() {
                let answer = self.feed.request(&request, &self.source).unwrap();
                if let Answer::Applied { rejected, .. } = answer {
                    self.nacks.extend(rejected);
                }
            } else if let Some(response) = self.feed.poll(&self.source) {
                let names = response.resources.iter().map(|one| one.name.clone());
                self.sent.extend(names.chain(response.removed_resources.clone()));
                self.duty.take(response, &self.trust);
            } else {
                return;
            }
        }
        panic!("they never rest: {:?}", self.sent);
    }

    fn told(&mut self) -> Vec<String> {
        let nacks = std::mem::take(&mut self.nacks).into_iter();
        nacks
            .map(|nack| format!("{} {}: {}", nack.name, nack.field, nack.reason))
            .collect()
    }

    fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    fn held(&self, kind: Kind) -> Vec<String> {
        let held = self.duty.held.keys().filter(|(of, _)| *of == kind);
        held.map(|(_, name)| name.clone()).collect()
    }
}

fn sidecar(folder: &std::path::Path, any_backend: bool) -> (Duty, Arc<Mutex<World>>, Trust) {
    let roots = folder.join("roots.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(&roots, root.pem()).unwrap();
    let settings = Settings {
        urls: Vec::new(),
        node: "users-1".into(),
        zone: None,
        token_file: folder.join("token"),
        trust_bundle: roots.clone(),
        snapshot: None,
        any_backend,
        papers: SharedPapers::default(),
        limits: limits(),
    };
    let force = Stub::default();
    let world = Arc::clone(&force.0);
    let duty = Duty::new(&settings, Box::new(force), Shared::default(), Metrics::new());
    (duty, world, Trust::read(&roots).unwrap())
}

fn limits() -> jitney_api::push::OwnLimits {
    jitney_api::push::OwnLimits {
        max_size: MOST,
        ..jitney_api::push::OwnLimits::default()
    }
}

/// Items in a batch.
const MOST: usize = 64;

const IN: &str = "127.0.0.1:7001";
const OUT: &str = "127.0.0.1:7002";

fn mesh(more: &str) -> String {
    format!(
        "kind: Backend\nmetadata: {{name: users, namespace: shop}}\nspec: {{endpoints: ['10.0.0.1:80']}}\n---\n\
         kind: Backend\nmetadata: {{name: orders, namespace: shop}}\nspec: {{endpoints: ['10.0.0.2:80', '10.0.0.3:80']}}\n---\n\
         kind: BatchPolicy\nmetadata: {{name: out, namespace: shop}}\nspec:\n  targetRefs: [{{kind: Backend, name: orders}}]\n  \
         placement: Outbound\n  routes: [{{name: rpc, codec: {{jsonRpc: {{}}}}}}]\n---\n\
         kind: Listener\nmetadata: {{name: in, namespace: shop}}\nspec: {{address: '{IN}', backend: users, local: '127.0.0.1:9'}}\n{more}"
    )
}

fn to_orders(address: &str) -> String {
    format!(
        "---\nkind: Listener\nmetadata: {{name: out, namespace: shop}}\n\
         spec: {{address: '{address}', backend: orders, workload: users}}\n"
    )
}

const TAKEN: &str = "shop/users listeners[1].spec.address: cannot listen on 127.0.0.1:7002; everything else is in \
                     force and it is tried again";

#[test]
fn a_listener_without_an_address_is_told_and_so_is_that_it_has_one() {
    let mut mesh = Mesh::new(&mesh(&to_orders(OUT)));
    mesh.take(&[OUT]);
    mesh.settle();
    assert_eq!(mesh.told(), [TAKEN]);
    assert_eq!(
        mesh.held(Kind::Runtime),
        ["shop/users"],
        "it is in force otherwise"
    );
    mesh.sent();
    mesh.settle();
    assert_eq!(mesh.sent(), [""; 0], "nothing is sent while nothing changes");
    mesh.take(&[]);
    mesh.settle();
    assert_eq!(
        (mesh.told(), mesh.sent()),
        (vec![], vec!["shop/users".to_owned()])
    );
    mesh.take(&[IN, OUT]);
    // Whoever has it lets nothing go that is bound; a push that moves it finds out.
    mesh.settle();
    let told = mesh.told();
    assert!(
        told[0].contains("7001; cannot listen on 127.0.0.1:7002"),
        "{told:?}"
    );
}

#[test]
fn what_is_pending_is_told_on_the_next_stream_and_what_is_no_more_is_not() {
    let mut mesh = Mesh::new(&mesh(&to_orders(OUT)));
    mesh.take(&[OUT]);
    mesh.settle();
    mesh.told();
    mesh.sent();
    mesh.reconnect();
    assert_eq!(mesh.told(), [TAKEN]);
    assert_eq!(mesh.sent(), ["shop/users"], "and nothing else");
    mesh.take(&[]);
    mesh.reconnect();
    assert_eq!(mesh.told(), [""; 0]);
    mesh.sent();
    mesh.reconnect();
    assert_eq!(mesh.sent(), [""; 0], "all is as it was");
}

#[test]
fn a_sidecar_restarts_from_disk_with_a_listener_that_waits() {
    let mut mesh = Mesh::new(&mesh(&to_orders(OUT)));
    mesh.take(&[OUT]);
    mesh.settle();
    mesh.restart(&[OUT]);
    assert_eq!(mesh.world.lock().applied, 1);
    assert_eq!(mesh.held(Kind::Runtime), ["shop/users"]);
    mesh.told();
    mesh.sent();
    mesh.reconnect();
    assert_eq!(
        (mesh.told(), mesh.sent()),
        (vec![TAKEN.to_owned()], vec!["shop/users".to_owned()])
    );
}

#[test]
fn what_is_wrong_with_a_listener_spoils_nothing_that_came_later() {
    let mut mesh = Mesh::new(&mesh(""));
    mesh.settle();
    mesh.take(&[OUT]);
    let disabled = "---\nkind: Runtime\nmetadata: {name: users, namespace: shop}\nspec: {mode: Disabled}\n";
    mesh.write(&self::mesh(&format!("{}{disabled}", to_orders(OUT))));
    assert_eq!(mesh.told(), [TAKEN]);
    assert_eq!(
        mesh.duty.assembly.runtime().mode,
        Some(jitney_api::Mode::Disabled)
    );
    assert_eq!(mesh.held(Kind::Backend), ["shop/orders", "shop/users"]);
    mesh.write(&self::mesh(""));
    assert_eq!(mesh.told(), [""; 0]);
    assert_eq!(mesh.duty.assembly.runtime().mode, None);
}

#[test]
fn what_cannot_be_in_force_at_all_goes_back_and_ends_no_rest() {
    let mut mesh = Mesh::new(&mesh(&to_orders(OUT)));
    mesh.take(&[OUT]);
    mesh.settle();
    mesh.told();
    mesh.world.lock().broken = Some("no more files");
    mesh.write(&self::mesh(&to_orders("127.0.0.1:7003")));
    assert_eq!(mesh.told(), ["shop/users : no more files"]);
    // The Runtime is gone where it came from, and cannot go here.
    mesh.write("");
    assert_eq!(mesh.held(Kind::Runtime), ["shop/users"]);
    mesh.world.lock().broken = None;
    mesh.duty.retry();
    mesh.settle();
    assert_eq!(mesh.held(Kind::Runtime), [""; 0]);
    assert_eq!(mesh.world.lock().planned, [], "it does not listen there any more");
    assert_eq!(mesh.told(), [""; 0]);
    mesh.world.lock().broken = Some("no more files");
    mesh.write(&self::mesh(&to_orders(OUT)));
    mesh.write("");
    mesh.world.lock().broken = None;
    mesh.reconnect();
    assert_eq!(mesh.held(Kind::Runtime), [""; 0]);
}

#[test]
fn what_is_rejected_is_shown_until_it_is_mended() {
    let with = |size: usize| {
        let batch = format!("codec: {{jsonRpc: {{}}}}, batch: {{maxSize: {size}}}");
        mesh(&to_orders(OUT)).replace("codec: {jsonRpc: {}}", &batch)
    };
    let mut mesh = Mesh::new(&with(MOST));
    mesh.settle();
    let shown = |mesh: &Mesh| {
        let rejected = mesh.duty.standing.lock().rejected.clone().into_iter();
        let shown = rejected.map(|one| format!("{} {}: {}", one.kind, one.name, one.reason));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(shown(&mesh), [""; 0]);
    let route = ["route shop/out/rpc: found 65, this sidecar takes at most 64"];
    mesh.write(&with(MOST + 1));
    assert_eq!(shown(&mesh), route);
    mesh.reconnect();
    assert_eq!(shown(&mesh), route);
    // To a version that it holds.
    mesh.write(&with(MOST));
    assert_eq!(shown(&mesh), [""; 0]);
    mesh.write(&with(MOST + 1));
    assert_eq!(shown(&mesh), route);
    mesh.write(&self::mesh(""));
    assert_eq!(shown(&mesh), [""; 0], "it is wanted no more");
}

#[test]
fn what_no_listener_needs_any_more_is_forgotten() {
    let mut mesh = Mesh::new(&mesh(""));
    mesh.settle();
    let asked = |mesh: &Mesh| mesh.duty.asked.names().cloned().collect::<Vec<_>>();
    let (alone, before) = (mesh.duty.held.len(), asked(&mesh));
    for _ in 0..3 {
        mesh.write(&self::mesh(&to_orders(OUT)));
        assert_eq!(mesh.held(Kind::Endpoint).len(), 2);
        assert_eq!(mesh.held(Kind::Policy), ["shop/out"]);
        assert_eq!(mesh.held(Kind::Route), ["shop/out/rpc"]);
        assert!(mesh.duty.assembly.outbound("shop/orders").is_some());
        mesh.write(&self::mesh(""));
        assert_eq!((mesh.duty.held.len(), asked(&mesh)), (alone, before.clone()));
        assert!(mesh.duty.known.keys().eq(["shop/users"]));
        assert!(mesh.duty.assembly.outbound("shop/orders").is_none());
        assert_eq!(mesh.duty.assembly.documents().documents.len(), 0);
    }
    mesh.sent();
    mesh.reconnect();
    assert_eq!(mesh.sent(), [""; 0]);
}

#[test]
fn what_was_wanted_by_other_flags_is_not_brought_back() {
    let mut mesh = Mesh::new(&mesh(""));
    (mesh.duty, mesh.world, mesh.trust) = sidecar(mesh.folder.path(), true);
    mesh.duty.open(&users());
    mesh.settle();
    assert_eq!(mesh.held(Kind::Endpoint).len(), 3);
    mesh.restart(&[]);
    assert_eq!(mesh.held(Kind::Backend), ["shop/users"]);
    assert_eq!(mesh.held(Kind::Endpoint), [""; 0]);
    assert!(mesh.duty.known.keys().eq(["shop/users"]));
    assert!(mesh.duty.is_in_force());
}
