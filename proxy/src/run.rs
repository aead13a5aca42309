//! `run`: the sidecar from its start to the end of its drain.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jitney_api::program::serve_for;
use jitney_api::{Reading, Sources, Watch};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

mod applier;
mod fleet;
mod following;
mod hand_over;
mod plan;
mod pushed;
mod succession;
mod to;

use crate::admin::inspect::Views;
use crate::admin::{self, Admin};
use crate::config::RunArgs;
use crate::drain::{self, Drain};
use crate::log::{LogControl, StartError, log_panics};
use crate::metrics::Metrics;
use crate::policy_status::PolicyStatus;
use crate::send::InCommon;
use applier::Applier;
use fleet::Fleet;
use following::Following;
use hand_over::{Inherited, Name};
use plan::Plan;
use succession::{Heir, Succession};
use to::Bounds;

/// Why the sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The files hold faults, one a line.
    #[error("{}", .0.join("\n"))]
    Faulty(Vec<String>),
    /// An address cannot be listened on, or a backend cannot be started.
    #[error("{0}")]
    Start(String),
    /// The system refused something.
    #[error("cannot {0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// There is no log.
    #[error("cannot log: {0}")]
    Log(#[from] StartError),
}

/// Runs until a drain is over: asked for by a signal, or on the admin endpoint.
///
/// # Errors
/// When the sidecar cannot start. Once it runs, nothing ends it but a drain.
pub fn run(args: RunArgs) -> Result<ExitCode, RunError> {
    let args = args.here();
    let sources = load(&args).map_err(RunError::Faulty)?;
    let plan = Plan::of(&args, &sources).map_err(RunError::Faulty)?;
    let log = LogControl::start(args.log_format, args.level())?;
    log_panics();
    allow_many_files();
    let runtime = runtime(&args).map_err(|error| RunError::System("start threads", error))?;
    let process = Process::start(args, plan, sources, log.clone(), &runtime);
    let ended = process.map(|process| runtime.block_on(process.until_drained()));
    drain::cut_off();
    // Each call that is under way is dropped and told of. A name that is still being looked up must not hold up the end
    // for longer.
    runtime.shutdown_timeout(DROPPING);
    log.flush();
    ended
}

/// How long the calls that are cut off may take to be dropped.
const DROPPING: Duration = Duration::from_secs(1);

fn load(args: &RunArgs) -> Result<Sources, Vec<String>> {
    Sources::load(args.paths()).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// One thread when the CPU limit is one: what arrives together is then in one batch, and nothing is
/// handed from thread to thread.
fn runtime(args: &RunArgs) -> io::Result<Runtime> {
    let allowed = std::thread::available_parallelism();
    let threads = args
        .threads
        .or_else(|| allowed.ok())
        .map_or(1, std::num::NonZeroUsize::get);
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(threads)
        .thread_name("worker")
        .enable_all()
        .build()
}

/// Each connection is a file, and many systems begin with 1,024 of them.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit on open files stays");
    }
}

/// Everything that runs.
struct Process {
    args: RunArgs,
    drain: Drain,
    metrics: Metrics,
    fleet: Arc<Fleet>,
    /// Ends with this.
    _watch: Option<Watch>,
    signals: (Signal, Signal),
    succession: Succession,
}

/// Where the admin endpoint is to answer.
struct Endpoint {
    socket: TcpListener,
    /// The process before this one answers there.
    is_inherited: bool,
}

impl Process {
    fn start(
        mut args: RunArgs,
        plan: Plan,
        sources: Sources,
        log: LogControl,
        runtime: &Runtime,
    ) -> Result<Self, RunError> {
        let _in_runtime = runtime.enter();
        let signals = signals()?;
        let in_common = in_common(&args);
        let (metrics, drain, views) = (Metrics::new(), Drain::new(), Views::default());
        let policy = Arc::new(PolicyStatus::new(metrics.clone()));
        in_common.memory.watch(args.cgroup_root.clone(), metrics.clone());
        // Bound first: an address that is taken is a mistake, and found before any call is.
        let inherited = inherit(&mut args)?;
        let open = |address| Endpoint::open(address, &inherited);
        let endpoint = args.admin.map(open).transpose()?;
        let fleet = Fleet::new(
            metrics.clone(),
            views.clone(),
            runtime.handle().clone(),
            bounds(&args),
            in_common.clone(),
            &inherited,
        );
        let fleet = Arc::new(fleet);
        let applier = Applier::new(&args, &fleet, &policy, &log);
        let following = match args.control() {
            Some(settings) => {
                let mesh = &in_common.mesh;
                Some(Following::start(
                    settings, plan, &applier, &fleet, &inherited, &metrics, mesh,
                )?)
            }
            None => {
                let applied = applier.apply(plan);
                applied.map_err(|faults| RunError::Start(faults.join("\n")))?;
                None
            }
        };
        let control = following
            .as_ref()
            .map(|following| Arc::clone(&following.standing));
        let heir = Heir {
            fleet: Arc::clone(&fleet),
            inherited,
            following,
        };
        let succession = heir.relieve(&args, endpoint.as_ref().map(|endpoint| &endpoint.socket))?;
        if let Some(endpoint) = endpoint {
            let admin = Admin {
                metrics: metrics.clone(),
                drain: drain.clone(),
                log,
                access_log: args.access_log,
                policy: Arc::clone(&policy),
                backends: views,
                listeners: fleet.listeners(),
                is_strict: fleet.is_strict(),
                mesh: in_common.mesh.clone(),
                control,
                memory: in_common.memory,
                probes: args.probes.clone().unwrap_or_default(),
                settings: args.shown(),
            };
            endpoint.serve(admin, fleet.placed().clone(), succession.handed.clone())?;
        }
        let watch = watch(&args, sources, applier)?;
        Ok(Self {
            args,
            drain,
            metrics,
            fleet,
            _watch: watch,
            signals,
            succession,
        })
    }

    async fn until_drained(mut self) -> ExitCode {
        let asked = tokio::select! {
            _ = self.signals.0.recv() => "SIGTERM",
            _ = self.signals.1.recv() => "SIGINT",
            () = self.drain.draining() => "admin endpoint",
            () = self.succession.handed.draining() => "another process",
            Ok(reason) = &mut self.succession.stranded => return stranded(&reason),
        };
        tracing::info!(asked, "draining");
        self.drain.signal();
        self.metrics.process().draining.set(1);
        // Whoever drains it first and ends it then, as Kubernetes does, has asked for the same twice.
        let mut signals = u8::from(asked.starts_with("SIG"));
        let mut over = std::pin::pin!(tokio::time::sleep(self.args.drain_time));
        let mut drained = std::pin::pin!(self.fleet.drain());
        loop {
            tokio::select! {
                () = &mut drained => {
                    tracing::info!("drained");
                    return ExitCode::SUCCESS;
                }
                () = &mut over => {
                    tracing::warn!(after = ?self.args.drain_time, "drain time is over, calls were cut off");
                    return ExitCode::SUCCESS;
                }
                _ = self.signals.0.recv() => signals += 1,
                _ = self.signals.1.recv() => signals += 1,
            }
            if signals > 1 {
                return hurried();
            }
        }
    }
}

/// To be called within a runtime.
fn signals() -> Result<(Signal, Signal), RunError> {
    let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let failed = |error| RunError::System("listen for signals", error);
    Ok((terminate.map_err(failed)?, interrupt.map_err(failed)?))
}

const fn bounds(args: &RunArgs) -> Bounds {
    Bounds {
        max_connections: args.max_connections,
        max_age: args.max_connection_age,
        bare_timeout: args.drain_time,
    }
}

/// What all backends share from the start.
fn in_common(args: &RunArgs) -> InCommon {
    InCommon {
        zone: args.zone().map(Into::into),
        ..InCommon::default()
    }
}

/// What the process before this one gives, and its name where the command line has none: what that would be by
/// default changes with `--listen`, and the sidecar stays the same one.
fn inherit(args: &mut RunArgs) -> Result<Arc<Inherited>, RunError> {
    let path = args.hand_over.as_deref();
    let inherited = path.map(Inherited::ask).transpose();
    let failed = |error| RunError::System("take over from another process", error);
    let inherited = inherited.map_err(failed)?.unwrap_or_default();
    if let (None, Some(papers)) = (&args.node, inherited.papers()) {
        args.node = Some(papers.node().to_owned());
    }
    Ok(Arc::new(inherited))
}

const fn admin_name(address: SocketAddr) -> Name {
    Name {
        listener: None,
        address,
    }
}

impl Endpoint {
    fn open(address: SocketAddr, inherited: &Inherited) -> Result<Self, RunError> {
        if let Some(socket) = inherited.take(&admin_name(address)) {
            let is_inherited = true;
            return Ok(Self { socket, is_inherited });
        }
        let socket = TcpListener::bind(address).map_err(|error| {
            RunError::Start(format!(
                "cannot listen on {address} for the admin endpoint: {error}"
            ))
        })?;
        let is_inherited = false;
        Ok(Self { socket, is_inherited })
    }

    /// Answers until another process does, and not before the one does no more that did: only one of both knows
    /// how calls are served.
    fn serve(self, admin: Admin, placed: Drain, handed: Drain) -> Result<(), RunError> {
        if !self.is_inherited {
            return self.answer(admin, handed);
        }
        tokio::spawn(async move {
            placed.draining().await;
            if let Err(error) = self.answer(admin, handed) {
                tracing::error!(%error, "there is no admin endpoint");
            }
        });
        Ok(())
    }

    fn answer(self, admin: Admin, handed: Drain) -> Result<(), RunError> {
        let address = self.socket.local_addr();
        let address = address.map_err(|error| RunError::System("serve", error))?;
        let until = async move { handed.draining().await };
        let longest = admin.probes.longest();
        serve_for(self.socket, admin::router(admin), longest, until)
            .map_err(|error| RunError::System("start the admin thread", error))?;
        tracing::info!(%address, "admin endpoint listening");
        Ok(())
    }
}

fn stranded(reason: &str) -> ExitCode {
    tracing::error!("{reason}: the process before this one serves on, and this one ends");
    ExitCode::FAILURE
}

fn hurried() -> ExitCode {
    tracing::warn!("asked to end a second time, calls were cut off");
    ExitCode::FAILURE
}

fn watch(args: &RunArgs, first: Sources, applier: Applier) -> Result<Option<Watch>, RunError> {
    if args.paths().is_empty() {
        return Ok(None);
    }
    let changed = move |reading: Reading| {
        let plan = match reading {
            Ok(sources) => Plan::of(&applier.args, &sources),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
        };
        if let Err(faults) = plan.and_then(|plan| applier.apply(plan)) {
            applier.status.refused(faults);
        }
    };
    Watch::start(args.paths().to_vec(), first, changed)
        .map(Some)
        .map_err(|error| RunError::System("start the policy watch", error))
}
