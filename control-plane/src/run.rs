//! `run`: the control plane from its start to its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::program::serve;
use jitney_api::{Sources, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::admin::{self, Admin};
use crate::certificates::Signer;
use crate::config::RunArgs;
use crate::files::{Files, FilesError};
use crate::identity::{
    Bootstrap, FORGET_EVERY, Folder, FolderError, Tokens, TokensError, Trust, TrustError, Used,
};
use crate::lifecycle::Lifecycle;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::push::{Admission, Arrivals, Places, Push};
use crate::reports::Reporter;
use crate::rollout::Rollouts;
use crate::serve::{Gate, Port, Routes, Tls, TlsError};
use crate::status::{Findings, Sidecars};
use crate::store::{Part, Store};

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no source; its faults, one a line.
    #[error(transparent)]
    Source(#[from] FilesError),
    /// The state folder does not let us.
    #[error(transparent)]
    State(#[from] FolderError),
    /// There is nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There are no tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The system refused something.
    #[error("cannot {0}: {1}")]
    System(&'static str, #[source] io::Error),
}

/// Runs until a signal asks for the end.
///
/// # Errors
/// When it cannot start.
pub fn run(args: &RunArgs) -> Result<ExitCode, RunError> {
    let log = Log::start(args.log_format, &args.log_level);
    let log = log.map_err(|error| RunError::System("log", error))?;
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| RunError::System("start threads", error))?;
    let ended = {
        let _in_runtime = runtime.enter();
        Process::start(args).map(|process| runtime.block_on(process.until_ended()))
    };
    runtime.shutdown_background();
    log.flush();
    ended.map(|()| ExitCode::SUCCESS)
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
    port: Port,
    listener: tokio::net::TcpListener,
    lifecycle: Lifecycle,
    background: JoinSet<()>,
    signals: (Signal, Signal),
    _files: Arc<Files>,
    _watches: [Watch; 2],
}

impl Process {
    fn start(args: &RunArgs) -> Result<Self, RunError> {
        let signals = signals()?;
        let (store, lifecycle, metrics) = (Arc::new(Store::default()), Lifecycle::default(), Metrics::new());
        // Nothing is made for what does not start.
        let found = Files::read(args.paths())?;
        let state = Folder::open(&args.mesh.state)?;
        let rollouts = Arc::new(Rollouts::open(&state, &store)?);
        let files = Arc::new(Files::start(found, &rollouts, &state)?);
        let now = SystemTime::now();
        let trust = Arc::new(Trust::open(&state, &args.mesh.trust_domain, now)?);
        let tokens = Tokens::open(&state, &args.mesh.trust_domain)?;
        let used = Arc::new(Used::open(&state, now)?);
        let tls = Arc::new(Tls::new(&trust, now)?);
        store.replace_part(Part::Trust, vec![trust.pushed()], Instant::now());
        let sidecars = Arc::new(Sidecars::new(metrics.counts.clone()));
        let findings = Arc::new(Findings::default());
        let admin = Admin {
            store: Arc::clone(&store),
            sidecars: Arc::clone(&sidecars),
            findings: Arc::clone(&findings),
            files: Arc::clone(&files),
            rollouts: Arc::clone(&rollouts),
            trust: Arc::clone(&trust),
            metrics: metrics.clone(),
            lifecycle: lifecycle.clone(),
        };
        serve_admin(args.admin, admin)?;
        let listener = listen(args.listen)?;
        // Whoever is told so may come at once.
        lifecycle.synced();
        let watches =
            watches(&trust, &rollouts).map_err(|error| RunError::System("watch the state", error))?;
        let mut background = background(&trust, &store, &tls);
        background.spawn(tidy(state, Arc::clone(&used), Arc::clone(&rollouts)));
        let arrivals = watch_over(&mut background, &sidecars, &rollouts);
        let attest = Arc::new(Bootstrap::new(tokens, used));
        let push = Push {
            store: Arc::clone(&store),
            sidecars: Arc::clone(&sidecars),
            rollouts: Arc::clone(&rollouts),
            arrivals,
            authenticate: gate(args, &trust, &metrics),
        };
        let signer = Signer::new(Arc::clone(&trust), attest, metrics.counts.clone());
        let reporter = Reporter {
            trust: Arc::clone(&trust),
            store,
            sidecars,
            rollouts,
            findings,
        };
        let port = Port {
            tls,
            trust,
            routes: Routes::new(push, signer, reporter),
            age: args.stream_age,
            places: Places::new(args.max_sidecars.get().saturating_add(COMING_BACK)),
            counts: metrics.counts,
            draining: lifecycle.draining(),
        };
        Ok(Self {
            port,
            listener,
            lifecycle,
            background,
            signals,
            _files: files,
            _watches: watches,
        })
    }

    async fn until_ended(mut self) {
        let serving = tokio::spawn(self.port.serve(self.listener));
        let asked = tokio::select! {
            _ = self.signals.0.recv() => "SIGTERM",
            _ = self.signals.1.recv() => "SIGINT",
        };
        tracing::info!(asked, "draining");
        self.lifecycle.drain();
        // A panic in there was logged.
        drop(serving.await);
        self.background.abort_all();
        tracing::info!("drained");
    }
}

fn gate(args: &RunArgs, trust: &Arc<Trust>, metrics: &Metrics) -> Gate {
    Gate::new(
        Arc::clone(trust),
        Places::new(args.max_sidecars.get()),
        Admission::new(args.max_streams_per_second.get(), Instant::now()),
        metrics.counts.clone(),
    )
}

fn signals() -> Result<(Signal, Signal), RunError> {
    let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let failed = |error| RunError::System("listen for signals", error);
    Ok((terminate.map_err(failed)?, interrupt.map_err(failed)?))
}

fn serve_admin(address: SocketAddr, admin: Admin) -> Result<(), RunError> {
    let listener = TcpListener::bind(address).map_err(|error| RunError::Listen(address, error))?;
    let address = listener
        .local_addr()
        .map_err(|error| RunError::Listen(address, error))?;
    serve(listener, admin::router(admin))
        .map_err(|error| RunError::System("start the admin thread", error))?;
    tracing::info!(%address, "admin endpoint listening");
    Ok(())
}

fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener, RunError> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    let listener = listening.map_err(|error| RunError::Listen(address, error))?;
    let address = listener
        .local_addr()
        .map_err(|error| RunError::Listen(address, error))?;
    tracing::info!(%address, "listening");
    Ok(listener)
}

/// Takes over what another replica changes in the state.
fn watches(trust: &Arc<Trust>, rollouts: &Arc<Rollouts>) -> io::Result<[Watch; 2]> {
    let (of_trust, of_rollouts) = (Arc::clone(trust), Arc::clone(rollouts));
    // What is read at first differs from nothing, and so is looked at once more: that does no harm.
    let watch = |file, changed: Box<dyn Fn() + Send>| {
        Watch::start(vec![file], Sources::default(), move |_| changed())
    };
    let reload_trust = move || match of_trust.reload() {
        Ok(true) => tracing::info!("another replica has changed the roots"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(%error, "the roots in the state cannot be used, the last good ones stay")
        }
    };
    Ok([
        watch(trust.file(), Box::new(reload_trust))?,
        watch(rollouts.file(), Box::new(move || of_rollouts.reload()))?,
    ])
}

/// What goes on beside the serving.
fn background(trust: &Arc<Trust>, store: &Arc<Store>, tls: &Arc<Tls>) -> JoinSet<()> {
    let mut background = JoinSet::new();
    let (to, of, with) = (Arc::clone(store), Arc::clone(trust), Arc::clone(tls));
    let mut changed = of.subscribe();
    background.spawn(async move {
        while changed.changed().await.is_ok() {
            if let Err(error) = with.renew(SystemTime::now()) {
                tracing::error!(%error, "connections are not accepted with the changed roots");
            }
            to.replace_part(Part::Trust, vec![of.pushed()], Instant::now());
            tracing::info!(issuing = %of.roots().issuing().id, roots = of.roots().all().len(), "roots changed");
        }
    });
    let renewed = Arc::clone(tls);
    background.spawn(async move { renewed.keep_renewed().await });
    background
}

/// Tells who comes and goes, and tries again to keep what could not be kept.
fn watch_over(
    background: &mut JoinSet<()>,
    sidecars: &Arc<Sidecars>,
    rollouts: &Arc<Rollouts>,
) -> Arc<Arrivals> {
    let arrivals = Arc::new(Arrivals::default());
    let (told, sidecars, rollouts) = (Arc::clone(&arrivals), Arc::clone(sidecars), Arc::clone(rollouts));
    background.spawn(async move {
        let mut every = interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            told.tell(sidecars.len());
        }
    });
    background.spawn(async move {
        let mut every = interval(KEEP_EVERY);
        loop {
            every.tick().await;
            let rollouts = Arc::clone(&rollouts);
            // A panic in there was logged, and the next turn may do better.
            drop(tokio::task::spawn_blocking(move || rollouts.keep_again()).await);
        }
    });
    arrivals
}

/// A disk that was full has room again some time.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Rids the state now and then of what nobody needs any more.
async fn tidy(state: Folder, used: Arc<Used>, rollouts: Arc<Rollouts>) {
    let mut every = interval(FORGET_EVERY);
    loop {
        every.tick().await;
        let (state, used, rollouts) = (state.clone(), Arc::clone(&used), Arc::clone(&rollouts));
        let tidied = move || {
            let now = SystemTime::now();
            used.forget_expired(now);
            rollouts.sweep(now);
            if let Err(error) = state.sweep(now) {
                tracing::warn!(%error, "what a crash may have left in the state stays");
            }
        };
        // A panic in there was logged, and the next turn may do better.
        drop(tokio::task::spawn_blocking(tidied).await);
    }
}

/// Connections beyond the streams': of who has its certificate renewed, and of who comes back before it
/// is noticed that it left.
const COMING_BACK: usize = 1024;

/// Connections that wait to be accepted: after a restart all sidecars come at once.
const BACKLOG: u32 = 4096;
