//! The mesh as processes, in the order in which one would start it by hand: the services, the control
//! plane with its documents, then a sidecar beside each service, which gets its certificate for a token.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jitney_examples::client::get;
use jitney_examples::process::{CONTROL_PLANE, Process, SIDECAR, output};
use jitney_examples::shop;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::documents;

/// Everything that runs; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// A shop that calls orders and users without Jitney.
    pub(crate) direct: SocketAddr,
    pub(crate) shop: Member,
    pub(crate) orders: Member,
    pub(crate) users: Member,
    pub(crate) plane: Plane,
    /// Where the documents of this run are.
    pub(crate) documents: PathBuf,
    _direct: Process,
    // Dropped last: the others write to it.
    _folder: TempDir,
}

/// A service and its sidecar.
#[derive(Debug)]
pub(crate) struct Member {
    /// The service itself.
    pub(crate) service: SocketAddr,
    /// Where its sidecar takes calls for it.
    pub(crate) sidecar: SocketAddr,
    /// The sidecar's admin endpoint.
    pub(crate) admin: SocketAddr,
    processes: [Process; 2],
}

/// The control plane.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) admin: SocketAddr,
    listen: SocketAddr,
    folder: PathBuf,
    process: Option<Process>,
}

impl Mesh {
    /// Starts everything, and returns when each sidecar runs what it is to run.
    ///
    /// # Errors
    /// When something does not start; what it said is in the message.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("jitney-mesh-").tempdir()?;
        let (path, database) = (folder.path(), folder.path().join("shop.db"));
        shop::create(&database)?;
        let [listen, admin, shop_in, orders_in, users_in, to_orders, to_users] = free_addresses()?;
        let database = database.display().to_string();
        let (orders, orders_at) = service(["table", "orders", &database])?;
        let (users, users_at) = service(["table", "users", &database])?;
        let (direct, direct_at) = service(["shop", &orders_at.to_string(), &users_at.to_string()])?;
        let (shop, shop_at) = service(["shop", &to_orders.to_string(), &to_users.to_string()])?;

        let documents = path.join("documents");
        let addresses = [
            ("127.0.0.1:7000", shop_at),
            ("127.0.0.1:7001", orders_at),
            ("127.0.0.1:7002", users_at),
            ("127.0.0.1:8000", shop_in),
            ("127.0.0.1:8001", orders_in),
            ("127.0.0.1:8002", users_in),
            ("127.0.0.1:9001", to_orders),
            ("127.0.0.1:9002", to_users),
        ];
        documents::copy(&documents, &addresses)?;
        let state = path.join("state").display().to_string();
        let roots = output(CONTROL_PLANE, ["trust", "roots", "--state", &state])?;
        fs::write(path.join("roots.pem"), roots)?;
        let mut plane = Plane {
            admin,
            listen,
            folder: path.to_owned(),
            process: None,
        };
        plane.start().await?;
        let member = |name, process, service, sidecar| Member::start(name, &plane, process, service, sidecar);
        let mesh = Self {
            direct: direct_at,
            shop: member("shop", shop, shop_at, shop_in)?,
            orders: member("orders", orders, orders_at, orders_in)?,
            users: member("users", users, users_at, users_in)?,
            plane,
            documents,
            _direct: direct,
            _folder: folder,
        };
        mesh.ready().await.with_context(|| mesh.said())?;
        Ok(mesh)
    }

    /// Waits until each sidecar serves and runs every policy that is for it.
    async fn ready(&self) -> anyhow::Result<()> {
        for member in self.members() {
            until("a sidecar is ready", async || {
                Ok(get(member.admin, "/ready").await?.status == 200)
            })
            .await?;
        }
        self.programmed().await?;
        until("the shop shows a page", async || {
            Ok(get(self.shop.sidecar, "/pages/0").await?.status == 200)
        })
        .await
    }

    /// Waits until the control plane knows that every sidecar is there and every policy runs.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn programmed(&self) -> anyhow::Result<()> {
        until("every policy is programmed everywhere", async || {
            let status = self.plane.status().await?;
            let policies = status["policies"].as_array().context("policies")?;
            let are_all = status["sidecars"]["connected"] == self.members().len();
            Ok(are_all && policies.iter().all(is_programmed))
        })
        .await
    }

    /// Every service, with its sidecar.
    pub(crate) const fn members(&self) -> [&Member; 3] {
        [&self.shop, &self.orders, &self.users]
    }

    /// Who runs a policy of this name.
    pub(crate) fn member(&self, policy: &str) -> &Member {
        match policy {
            "shop/orders" => &self.orders,
            "shop/users" => &self.users,
            _ => &self.shop,
        }
    }

    fn said(&self) -> String {
        let processes = self.members().into_iter().flat_map(|member| &member.processes);
        let processes = processes.chain(&self.plane.process);
        processes.map(Process::said).collect()
    }
}

/// Whether every sidecar that is to run a policy has said that it does.
pub(crate) fn is_programmed(policy: &Value) -> bool {
    let sidecars = &policy["sidecars"];
    sidecars["selected"].as_u64() > Some(0) && sidecars["acked"] == sidecars["selected"]
}

impl Member {
    /// Starts the sidecar of a service.
    fn start(
        name: &str,
        plane: &Plane,
        process: Process,
        service: SocketAddr,
        sidecar: SocketAddr,
    ) -> anyhow::Result<Self> {
        let path = |name: &str| plane.folder.join(name).display().to_string();
        let workload = format!("shop/{name}");
        let token = output(CONTROL_PLANE, ["token", &workload, "--state", &path("state")])?;
        let token_file = path(&format!("{name}.token"));
        fs::write(&token_file, token)?;
        let beside = Process::role(
            SIDECAR,
            [
                "run",
                "--control-plane",
                &format!("https://{}", plane.listen),
                "--trust-bundle",
                &path("roots.pem"),
                "--token-file",
                &token_file,
                "--snapshot",
                &path(&format!("{name}.snapshot")),
                "--node",
                &format!("{name}-1"),
                "--admin",
                "127.0.0.1:0",
            ],
        )?;
        let admin = loop {
            let (address, line) = beside.listening()?;
            if line.contains("admin") {
                break address;
            }
        };
        Ok(Self {
            service,
            sidecar,
            admin,
            processes: [process, beside],
        })
    }
}

impl Plane {
    /// Starts it, or starts it again, always at the same addresses.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let process = Process::role(
            CONTROL_PLANE,
            [
                "run",
                "--source",
                &format!("files:{}", path("documents")),
                "--state",
                &path("state"),
                "--listen",
                &self.listen.to_string(),
                "--admin",
                &self.admin.to_string(),
            ],
        )?;
        // It says so twice: where sidecars come, and where its admin endpoint is.
        process.listening()?;
        process.listening()?;
        let is_ready = async || Ok(get(self.admin, "/ready").await?.status == 200);
        until("the control plane is ready", is_ready)
            .await
            .with_context(|| process.said())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// What it knows about who runs what.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        json(self.admin, "/status").await
    }

    /// How many resources it has sent since it was started.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn resources_sent(&self) -> anyhow::Result<u64> {
        let metrics = get(self.admin, "/metrics").await?;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let samples = metrics.lines();
        let samples = samples.filter(|line| line.starts_with("jitney_xds_resources_total"));
        let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum())
    }
}

/// A page of an admin endpoint or of a service.
///
/// # Errors
/// When it is not there, or not JSON of this type.
pub(crate) async fn json<T: serde::de::DeserializeOwned>(at: SocketAddr, path: &str) -> anyhow::Result<T> {
    let reply = get(at, path).await?;
    serde_json::from_slice(&reply.body).with_context(|| format!("http://{at}{path}: {}", reply.status))
}

/// Asks again and again until something is so. That there is no answer counts as no.
///
/// # Errors
/// When it is not so within [`PATIENCE`].
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = is_so().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}: {what} ({answer:?})");
        }
        sleep(AGAIN).await;
    }
}

/// Starts a service, which finds a free port itself.
fn service<const N: usize>(arguments: [&str; N]) -> anyhow::Result<(Process, SocketAddr)> {
    let process = Process::role(arguments[0], &arguments[1..])?;
    let (address, _) = process.listening()?;
    Ok((process, address))
}

/// Addresses on which nobody listens at the moment. Their ports are below those that the system
/// gives to connections, so that none is taken before somebody listens there.
fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let begin = 20_000 + std::process::id() % 1_000 * 10;
    let addresses = (begin..32_768).filter_map(|port| {
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?));
        TcpListener::bind(address).ok().map(|_| address)
    });
    let found: Vec<SocketAddr> = addresses.take(N).collect();
    found.try_into().ok().context("no free ports")
}

/// How long anything may take; a sidecar that finds no control plane tries again after 30 s at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions: short beside what is measured with them.
const AGAIN: Duration = Duration::from_millis(5);
