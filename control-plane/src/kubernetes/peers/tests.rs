//! Replicas whose admin endpoints are asked over sockets, as they are in a cluster.

use std::net::TcpListener;
use std::time::SystemTime;

use jitney_api::Workload;
use jitney_api::program::serve;
use jitney_api::push::config::Cause;
use jitney_api::push::{Answer, Held, Kind, Nack, Pushed, Readers};
use tokio::sync::oneshot;

use super::*;
use crate::admin::{Admin, router};
use crate::identity::{Alive, Folder, Trust};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::replicas::Replicas;
use crate::rollout::Rollouts;
use crate::status::{Connected, Sidecars};
use crate::store::{Recipient, Store};

/// A replica that serves its admin endpoint until this is dropped.
struct Replica {
    store: Arc<Store>,
    sidecars: Arc<Sidecars>,
    replicas: Arc<Replicas>,
    address: SocketAddr,
    _until: oneshot::Sender<()>,
    _state: tempfile::TempDir,
}

fn users() -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        account: "users".to_owned(),
    }
}

impl Replica {
    fn start(content: &'static str) -> Self {
        let (state, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let folder = Folder::open(state.path()).unwrap();
        let store = Arc::new(Store::default());
        let sidecars = Arc::<Sidecars>::default();
        let trust = Arc::new(Trust::open(&folder, "example.org", now).unwrap());
        let replicas = Arc::new(Replicas::open(&folder, &sidecars, &trust, now).unwrap());
        let admin = Admin {
            store: Arc::clone(&store),
            sidecars: Arc::clone(&sidecars),
            findings: Arc::default(),
            source: crate::source::Standings::default(),
            rollouts: Arc::new(Rollouts::open(&folder, &store).unwrap()),
            has_issuer: false,
            is_apart: true,
            alive: Arc::new(Alive::open(&folder, true, now).unwrap()),
            trust,
            refusals: Arc::default(),
            handshakes: Arc::default(),
            replicas: Arc::clone(&replicas),
            faults: Arc::default(),
            metrics: Metrics::new(),
            lifecycle: Lifecycle::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (until, ended) = oneshot::channel::<()>();
        serve(listener, router(admin), async { drop(ended.await) }).unwrap();
        let replica = Self {
            store,
            sidecars,
            replicas,
            address,
            _until: until,
            _state: state,
        };
        replica.write(content);
        replica
    }

    fn write(&self, content: &'static str) {
        self.store.replace(vec![Pushed {
            kind: Kind::Policy,
            name: POLICY.into(),
            held: Held::from(content.as_bytes()),
            readers: Readers::Workloads(vec![users()]),
        }]);
    }

    /// A sidecar comes, and says whether it can run the policy.
    fn sidecar(&self, can: bool) -> Connected {
        let connected = self.sidecars.open(&users().into(), 0);
        let snapshot = self.store.snapshot();
        let version = snapshot
            .entry(Kind::Policy, POLICY)
            .map(|entry| entry.held.version);
        let nack = Nack {
            name: POLICY.into(),
            version,
            cause: Cause::Limit,
            field: "spec".to_owned(),
            reason: "too large".to_owned(),
        };
        let (applied, rejected) = match can {
            true => (vec![(POLICY.into(), version)], vec![]),
            false => (vec![], vec![nack]),
        };
        let answer = Answer::Applied {
            kind: Kind::Policy,
            applied,
            rejected,
        };
        let recipient = Recipient {
            workload: users(),
            node: String::new(),
        };
        connected.answered(answer, &snapshot.to(&recipient));
        connected
    }

    /// Those whom this one asks.
    fn peers(&self, all: &[&Self]) -> Peers {
        let mut peers = Peers::new(self.replicas.name(), 0);
        peers.know(all.iter().map(|replica| replica.address).collect());
        peers
    }

    /// Acked, rejected and stale at all replicas, as this one knows it.
    fn counts(&self, peers: &Peers) -> [u32; 3] {
        let snapshot = self.store.snapshot();
        let progress = self.sidecars.progress(&snapshot, POLICY);
        let own = Count::of(&snapshot, Kind::Policy, POLICY, Some(&progress));
        let sum = merged(own, Kind::Policy, POLICY, &peers.tallies());
        [sum.acked, sum.rejected, sum.stale]
    }
}

#[tokio::test]
async fn sidecars_of_every_replica_are_counted_once() {
    let (leader, other) = (Replica::start("1"), Replica::start("1"));
    let _at_leader = leader.sidecar(true);
    let _at_other = other.sidecar(true);
    let mut peers = leader.peers(&[&leader, &other]);
    assert_eq!(leader.counts(&peers), [1, 0, 0], "nobody was asked");
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [2, 0, 0]);
    assert!(peers.heard[&leader.address].is_own);
    let before = peers.tallies();
    peers.ask().await;
    let after = peers.tallies();
    assert!(Arc::ptr_eq(&before[0], &after[0]), "nothing was said again");
    let _rejects = other.sidecar(false);
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [2, 1, 0]);
    assert_ne!(peers.tallies()[0].revision, before[0].revision);
}

#[tokio::test]
async fn a_replica_that_is_behind_says_nothing_of_what_is_new() {
    let (leader, other) = (Replica::start("2"), Replica::start("1"));
    let _at_leader = leader.sidecar(true);
    let first = other.sidecar(true);
    let mut peers = leader.peers(&[&leader, &other]);
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [1, 0, 1]);
    other.write("2");
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [1, 0, 1], "it is pushed, and not answered");
    let _second = other.sidecar(true);
    drop(first);
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [2, 0, 0]);
}

#[tokio::test]
async fn a_replica_that_is_gone_is_left_out() {
    let (leader, other) = (Replica::start("1"), Replica::start("1"));
    let _at_other = other.sidecar(true);
    let mut peers = leader.peers(&[&leader, &other]);
    peers.ask().await;
    assert_eq!(leader.counts(&peers), [1, 0, 0]);
    drop(other);
    let now = Instant::now();
    // While it ends it may be asked still, and break off.
    let is_gone = |fault: String| fault.contains("cannot connect");
    let until_gone = async {
        while !peers.fault(now + 2 * SILENT).is_err_and(is_gone) {
            peers.ask().await;
        }
    };
    timeout(Duration::from_secs(10), until_gone).await.unwrap();
    assert_eq!(leader.counts(&peers), [0, 0, 0]);
    assert_eq!(peers.fault(now), Ok(()), "it may be back");
    peers.know([leader.address].into());
    assert_eq!(peers.fault(now + 2 * SILENT), Ok(()));
}

#[tokio::test]
async fn who_is_no_replica_is_left_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        "HTTP/1.1 304 X\r\n\r\n",
        "SSH-2.0\r\n",
    ]
    .into_iter();
    let answering = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for answer in answers.by_ref() {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let asking = async {
        let mut told = Vec::new();
        for _ in 0..3 {
            told.push(fetch(address, None).await.unwrap_err().to_string());
        }
        told
    };
    let ((), told) = tokio::join!(answering, asking);
    for (told, expected) in told
        .iter()
        .zip(["said what is no tally", "answered 304", "gave no answer"])
    {
        assert!(told.starts_with(expected), "{told}");
    }
}

const POLICY: &str = "shop/users";
