//! How long a change takes from the file to the last sidecar that runs it, over real connections:
//! `cargo run --release --example push [SIDECARS…]`, by default 100 and 1,000.
//!
//! Control plane and sidecars are in this one process, each sidecar with a connection of its own and
//! the real state of its end. The time is from the write of the file to the moment at which a sidecar
//! has applied the change and its acknowledgement is on its way; the pause in which the watch waits
//! for the file to be quiet is in it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use jitney_api::Workload;
use jitney_api::push::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use jitney_api::push::ads::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use jitney_api::push::ads::{DeltaDiscoveryRequest, Node};
use jitney_api::push::{Assembly, Kind, Subscriber};
use jitney_control_plane::files::Files;
use jitney_control_plane::push::{Authenticate, Push};
use jitney_control_plane::status::Sidecars;
use jitney_control_plane::store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Status, Streaming};

/// Every connection of this process is of one workload: who it is is not what is measured.
#[derive(Debug)]
struct OneWorkload;

impl Authenticate for OneWorkload {
    fn workload(&self, _: &Request<Streaming<DeltaDiscoveryRequest>>) -> Result<Workload, Status> {
        Ok(Workload {
            namespace: "shop".into(),
            account: "users".into(),
        })
    }
}

/// The files of a shop: `max_size` is what changes.
fn shop(max_size: usize) -> String {
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["10.0.0.1:80"]}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    batch: {{maxSize: {max_size}}}
"#
    )
}

/// A sidecar: applies what it is sent, and tells when it has.
struct Sidecar {
    subscriber: Subscriber,
    assembly: Assembly,
    applied: mpsc::Sender<Instant>,
}

impl Sidecar {
    fn new(number: usize, applied: mpsc::Sender<Instant>) -> Self {
        let mut subscriber = Subscriber::new(Node {
            id: format!("users-{number}"),
            ..Node::default()
        });
        subscriber.subscribe(Kind::Policy, "*");
        subscriber.subscribe(Kind::Route, "*");
        Self {
            subscriber,
            assembly: Assembly::default(),
            applied,
        }
    }

    /// Streams one after another: of a thousand that come at once, some are reset.
    async fn run(mut self, address: String) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.stream(address.clone()).await {
                Err(error) if tries == TRIES => return Err(error),
                Ok(()) | Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(100 * tries)).await;
        }
    }

    async fn stream(&mut self, address: String) -> anyhow::Result<()> {
        let channel = Endpoint::from_shared(address)?.connect().await?;
        let (requests, sent) = mpsc::channel(16);
        self.subscriber.open();
        self.speak(&requests).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(sent))
            .await?;
        let mut responses = responses.into_inner();
        while let Some(response) = responses.message().await? {
            let Some(mut delta) = self.subscriber.response(response) else {
                continue;
            };
            let taken = self.assembly.take(&mut delta);
            ensure!(delta.rejected.is_empty(), "rejected: {:?}", delta.rejected);
            self.subscriber.answer(delta);
            self.speak(&requests).await?;
            if taken.changed {
                self.applied.send(Instant::now()).await?;
            }
        }
        Ok(())
    }

    async fn speak(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) -> anyhow::Result<()> {
        while let Some(request) = self.subscriber.poll() {
            requests.send(request).await?;
        }
        Ok(())
    }
}

/// The sidecars, and when they applied what.
struct Fleet {
    count: usize,
    running: JoinSet<anyhow::Result<()>>,
    applied: mpsc::Receiver<Instant>,
}

impl Fleet {
    /// Waits until each has applied a change; gives the times they took.
    async fn all(&mut self, since: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(self.count);
        while took.len() < self.count {
            tokio::select! {
                Some(at) = self.applied.recv() => took.push(at - since),
                Some(ended) = self.running.join_next() => ended?.context("a sidecar has ended")?,
                () = tokio::time::sleep(PATIENCE) => {
                    bail!("{} of {} sidecars applied the change", took.len(), self.count);
                }
            }
        }
        took.sort_unstable();
        Ok(took)
    }
}

async fn run(count: usize, file: &Path) -> anyhow::Result<()> {
    fs::write(file, shop(1))?;
    let (store, sidecars) = (Arc::new(Store::default()), Arc::new(Sidecars::default()));
    let _files = Files::start(vec![file.to_owned()], &store)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let push = AggregatedDiscoveryServiceServer::new(Push {
        store,
        sidecars: Arc::clone(&sidecars),
        authenticate: OneWorkload,
    });
    let server = Server::builder()
        .add_service(push)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let (applied, times) = mpsc::channel(count);
    let begin = Instant::now();
    let mut fleet = Fleet {
        count,
        running: JoinSet::new(),
        applied: times,
    };
    for number in 0..count {
        let sidecar = Sidecar::new(number, applied.clone());
        fleet.running.spawn(sidecar.run(address.clone()));
    }
    let connected = fleet.all(begin).await?;
    let mut took = Vec::new();
    for max_size in 2..2 + CHANGES {
        let since = Instant::now();
        fs::write(file, shop(max_size))?;
        took.extend(fleet.all(since).await?);
    }
    took.sort_unstable();
    let percentile = |share: usize| took[(took.len() - 1) * share / 100].as_millis();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| {count} | {} | {} | {} | {} | {} |",
        connected[count - 1].as_millis(),
        percentile(50),
        percentile(99),
        percentile(100),
        resident()? >> 20,
    )?;
    server.abort();
    Ok(())
}

/// Bytes of this process in memory.
fn resident() -> anyhow::Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages
        .split(' ')
        .nth(1)
        .context("statm has a second number")?
        .parse()?;
    Ok(pages * 4096)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let counts: Vec<usize> = std::env::args()
        .skip(1)
        .map(|count| {
            count
                .parse()
                .with_context(|| format!("{count:?} is no number of sidecars"))
        })
        .collect::<Result<_, _>>()?;
    let counts = if counts.is_empty() {
        vec![100, 1000]
    } else {
        counts
    };
    let folder = tempfile::tempdir()?;
    let header = "| sidecars | all connected, ms | p50 ms | p99 ms | worst ms | both sides, MiB |\n|---|---:|---:|---:|---:|---:|\n";
    std::io::stdout().write_all(header.as_bytes())?;
    for count in counts {
        run(count, &folder.path().join("shop.yaml")).await?;
    }
    Ok(())
}

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Streams that may fail before a sidecar gives up.
const TRIES: u64 = 10;
/// Changes per count.
const CHANGES: usize = 10;
