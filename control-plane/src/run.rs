//! `run`: the control plane from its start to its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jitney_api::program::serve;
use jitney_api::{Sources, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

mod watched;

use watched::{Found, Watched};

use crate::admin::{self, Admin};
use crate::certificates::Signer;
use crate::config::{RunArgs, SourcesError};
use crate::faults::{Doing, Faults};
use crate::files::FilesError;
use crate::identity::{
    Alive, AliveError, Attest, FORGET_EVERY, Folder, FolderError, Tokens, TokensError, Trust, TrustError,
    Used,
};
use crate::issuer::{Issuer, IssuerError};
use crate::kubernetes::{KeysError, SourceError};
use crate::lifecycle::Lifecycle;
use crate::log::Log;
use crate::metrics::{Counts, Metrics};
use crate::push::{Admission, Arrivals, Places, Push};
use crate::replicas::{Replicas, TELL_EVERY};
use crate::reports::Reporter;
use crate::rollout::{KeptError, Rollouts};
use crate::serve::{Gate, Port, Routes, Tls, TlsError};
use crate::source::Standings;
use crate::status::{Findings, Handshakes, Refusals, Sidecars};
use crate::store::{Part, Store};

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no source; its faults, one a line.
    #[error(transparent)]
    Source(#[from] FilesError),
    /// There is no cluster.
    #[error(transparent)]
    Cluster(#[from] SourceError),
    /// The cluster does not have the keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// There is no one source.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The state folder does not let us.
    #[error(transparent)]
    State(#[from] FolderError),
    /// It is not known what every sidecar is to run.
    #[error("rollouts: {0}")]
    Rollouts(#[from] KeptError),
    /// There is nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Somebody else is to sign, and cannot.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// It is not known what is signed.
    #[error(transparent)]
    Alive(#[from] AliveError),
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
    if args.stream_age < SHORT_AGE {
        let told = "sidecars stay away longer and longer from who ends their streams so soon";
        tracing::warn!(stream_age = ?args.stream_age, expected = ?SHORT_AGE, "--stream-age: {told}");
    }
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| RunError::System("start threads", error))?;
    let ended = {
        let _in_runtime = runtime.enter();
        let process = runtime.block_on(Process::start(args));
        process.map(|process| runtime.block_on(process.until_ended()))
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
    replicas: Arc<Replicas>,
    background: JoinSet<()>,
    webhook: Option<JoinHandle<()>>,
    signals: (Signal, Signal),
    source: Watched,
    _watches: Vec<Watch>,
}

/// What is kept in the state folder.
#[derive(Clone)]
struct State {
    folder: Folder,
    rollouts: Arc<Rollouts>,
    alive: Arc<Alive>,
    trust: Arc<Trust>,
    /// Where somebody else signs.
    issuer: Option<Arc<Issuer>>,
    tokens: Arc<Tokens>,
    used: Arc<Used>,
    refusals: Arc<Refusals>,
    replicas: Arc<Replicas>,
    faults: Arc<Faults>,
}

impl Process {
    async fn start(args: &RunArgs) -> Result<Self, RunError> {
        let signals = signals()?;
        let (store, lifecycle, metrics) = (Arc::new(Store::default()), Lifecycle::default(), Metrics::new());
        // Nothing is made for what does not start.
        let found = Found::of(args).await?;
        let sidecars = Arc::new(Sidecars::new(metrics.counts.clone()));
        let state = State::open(args, &store, &sidecars)?;
        let standing = Standings::default();
        let mut source = found.watch(&state, &standing, &metrics).await?;
        source.write_status(args, &state, &store, &sidecars, &standing, &metrics.counts);
        let tls = Arc::new(Tls::new(&state.trust, SystemTime::now())?);
        store.replace_part(Part::Trust, vec![state.trust.pushed()], Instant::now());
        let (findings, handshakes) = (Arc::new(Findings::default()), Arc::<Handshakes>::default());
        let admin = Admin {
            store: Arc::clone(&store),
            sidecars: Arc::clone(&sidecars),
            findings: Arc::clone(&findings),
            source: standing,
            rollouts: Arc::clone(&state.rollouts),
            trust: Arc::clone(&state.trust),
            has_issuer: state.issuer.is_some(),
            is_apart: matches!(source, Watched::Cluster(_)),
            alive: Arc::clone(&state.alive),
            refusals: Arc::clone(&state.refusals),
            handshakes: Arc::clone(&handshakes),
            replicas: Arc::clone(&state.replicas),
            faults: Arc::clone(&state.faults),
            metrics: metrics.clone(),
            lifecycle: lifecycle.clone(),
        };
        serve_admin(args.admin, admin)?;
        let listener = listen(args.listen)?;
        let webhook = args
            .webhook
            .start(args.owner.clone(), &metrics.counts, &state.faults, &lifecycle);
        let webhook = webhook.map_err(|(address, error)| RunError::Listen(address, error))?;
        let watches = watches(&state).map_err(|error| RunError::System("watch the state", error))?;
        let mut background = background(&state, &store, &tls, &lifecycle);
        let arrivals = watch_over(&mut background, &sidecars, &state.rollouts);
        let reporter = Reporter {
            trust: Arc::clone(&state.trust),
            store,
            sidecars,
            rollouts: Arc::clone(&state.rollouts),
            findings,
        };
        let port = Port {
            tls,
            trust: Arc::clone(&state.trust),
            routes: state.routes(args, reporter, arrivals, &metrics.counts, source.attest(&state)),
            age: args.stream_age,
            places: Places::new(args.max_sidecars.get().saturating_add(COMING_BACK)),
            counts: metrics.counts,
            handshakes,
            draining: lifecycle.draining(),
            apart: lifecycle.apart(),
        };
        Ok(Self {
            port,
            listener,
            lifecycle,
            replicas: state.replicas,
            background,
            webhook,
            signals,
            source,
            _watches: watches,
        })
    }

    async fn until_ended(mut self) {
        let (source, lifecycle) = (self.source, self.lifecycle.clone());
        let serving = tokio::spawn(async move {
            // What is pushed before everything is known would take from sidecars what is not.
            source.synced().await;
            // Whoever is told so may come at once.
            lifecycle.synced();
            self.port.serve(self.listener).await;
            drop(source);
        });
        let asked = tokio::select! {
            _ = self.signals.0.recv() => "SIGTERM",
            _ = self.signals.1.recv() => "SIGINT",
        };
        tracing::info!(asked, "draining");
        if self.lifecycle.ready().is_err() {
            // Nobody is served who has to be waited for.
            serving.abort();
        }
        self.lifecycle.drain();
        // A panic in there was logged.
        drop(serving.await);
        if let Some(webhook) = self.webhook {
            drop(webhook.await);
        }
        self.background.shutdown().await;
        self.replicas.leave();
        tracing::info!("drained");
    }
}

impl State {
    fn open(args: &RunArgs, store: &Arc<Store>, sidecars: &Arc<Sidecars>) -> Result<Self, RunError> {
        let (now, trust_domain) = (SystemTime::now(), &args.mesh.trust_domain);
        let read = |folder: &PathBuf| Ok((folder.clone(), Issuer::read(folder, trust_domain, now)?));
        let offer = args.issuer.as_ref().map(read).transpose();
        let offer = offer.map_err(RunError::Issuer)?;
        let folder = Folder::open(&args.mesh.state)?;
        let rollouts = Arc::new(Rollouts::open(&folder, store)?);
        // First, so that what the first root signs is known from the beginning.
        let is_beginning = !Trust::is_kept(&folder)?;
        let alive = Arc::new(Alive::open(&folder, is_beginning, now)?);
        if let Some((_, offer)) = offer.as_ref().filter(|_| is_beginning) {
            Trust::begin(&folder, trust_domain, offer, now)?;
        }
        let trust = Arc::new(Trust::open(&folder, trust_domain, now)?);
        if let Some(told) = Tokens::lost(&folder)? {
            tracing::warn!("{told}");
        }
        let faults = Arc::default();
        let issuer = offer.map(|(folder, offer)| Issuer::new(&folder, offer, &trust, &alive, &faults, now));
        if let (None, Some(signer)) = (&issuer, trust.roots().issuing().authority.signer()) {
            tracing::warn!(
                signer,
                "signs still, although there is no --issuer: nobody renews it here"
            );
        }
        Ok(Self {
            issuer: issuer.map(Arc::new),
            tokens: Arc::new(Tokens::open(&folder, trust_domain)?),
            used: Arc::new(Used::open(&folder, now)?),
            refusals: Arc::default(),
            replicas: Arc::new(Replicas::open(&folder, sidecars, &trust, now)?),
            faults,
            rollouts,
            alive,
            trust,
            folder,
        })
    }

    /// What can be called.
    fn routes(
        &self,
        args: &RunArgs,
        reporter: Reporter,
        arrivals: Arc<Arrivals>,
        counts: &Counts,
        attest: Arc<dyn Attest>,
    ) -> Routes {
        let gate = Gate::new(
            Arc::clone(&self.trust),
            Arc::clone(&self.alive),
            Places::new(args.max_sidecars.get()),
            Admission::new(args.max_streams_per_second.get(), Instant::now()),
            counts.clone(),
        );
        let push = Push {
            store: Arc::clone(&reporter.store),
            sidecars: Arc::clone(&reporter.sidecars),
            rollouts: Arc::clone(&self.rollouts),
            arrivals,
            refusals: Arc::clone(&self.refusals),
            authenticate: gate,
        };
        let signer = Signer {
            trust: Arc::clone(&self.trust),
            attest,
            alive: Arc::clone(&self.alive),
            refusals: Arc::clone(&self.refusals),
            faults: Arc::clone(&self.faults),
            counts: counts.clone(),
        };
        Routes::new(push, signer, reporter)
    }

    /// Tells the other replicas what is known here, and hears what is known there. Blocks.
    fn exchange(&self, now: SystemTime) {
        let note = |doing, done: Result<(), String>| self.faults.note(doing, done);
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let roots = self.trust.reload().map(drop);
        note(Doing::Roots, roots.map_err(|error| told(&error)));
        if let Some(issuer) = &self.issuer {
            issuer.turn(now);
        }
        let said = self.replicas.tell(now);
        note(Doing::Telling, said.map_err(|error| told(&error)));
        // Whoever is silent is known by being listened to.
        let heard = self.replicas.others(Instant::now()).map(drop);
        note(Doing::Hearing, heard.map_err(|error| told(&error)));
        let known = self
            .alive
            .look()
            .and_then(|()| self.replicas.note_trust(&self.alive, now));
        note(Doing::Certificates, known.map_err(|error| told(&error)));
    }

    /// Rids it of what nobody needs any more. Blocks.
    fn tidy(&self, now: SystemTime) {
        self.used.forget_expired(now);
        self.alive.forget_expired(now);
        for swept in [
            self.folder.sweep(now),
            self.alive.sweep(now),
            self.rollouts.sweep(now),
            self.replicas.sweep(now),
        ] {
            if let Err(error) = swept {
                tracing::warn!(%error, "what a crash may have left in the state stays");
            }
        }
    }
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
    serve(listener, admin::router(admin), std::future::pending())
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
fn watches(state: &State) -> io::Result<Vec<Watch>> {
    let (trust, rollouts) = (Arc::clone(&state.trust), Arc::clone(&state.rollouts));
    let (of_trust, of_rollouts, faults) = (
        Arc::clone(&trust),
        Arc::clone(&rollouts),
        Arc::clone(&state.faults),
    );
    // What is read at first differs from nothing, and so is looked at once more: that does no harm.
    let watch = |file, changed: Box<dyn Fn() + Send>| {
        Watch::start(vec![file], Sources::default(), move |_| changed())
    };
    let reload_trust = move || {
        let reloaded = of_trust.reload();
        if matches!(reloaded, Ok(true)) {
            tracing::info!("another replica has changed the roots");
        }
        faults.note(Doing::Roots, reloaded.map(drop));
    };
    let mut watches = vec![
        watch(trust.file(), Box::new(reload_trust))?,
        watch(rollouts.file(), Box::new(move || of_rollouts.reload()))?,
    ];
    watches.extend(state.issuer.as_ref().map(Issuer::watch).transpose()?);
    Ok(watches)
}

/// What goes on beside the serving.
fn background(state: &State, store: &Arc<Store>, tls: &Arc<Tls>, lifecycle: &Lifecycle) -> JoinSet<()> {
    let mut background = JoinSet::new();
    let (to, of, with) = (Arc::clone(store), Arc::clone(&state.trust), Arc::clone(tls));
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
    let kept = state.clone();
    background.spawn(every(FORGET_EVERY, move || kept.tidy(SystemTime::now())));
    let (kept, lifecycle) = (state.clone(), lifecycle.clone());
    background.spawn(every(TELL_EVERY, move || {
        kept.exchange(SystemTime::now());
        lifecycle.set_apart(kept.replicas.is_unheard(Instant::now()));
    }));
    background
}

/// Does something now and then that blocks.
async fn every(time: Duration, work: impl Fn() + Send + Sync + 'static) {
    let (work, mut every) = (Arc::new(work), interval(time));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let work = Arc::clone(&work);
        // A panic in there was logged, and the next turn may do better.
        drop(tokio::task::spawn_blocking(move || work()).await);
    }
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
    background.spawn(every(KEEP_EVERY, move || rollouts.keep_again()));
    arrivals
}

/// Twice what a stream has to last for a sidecar to think well of it.
const SHORT_AGE: Duration = Duration::from_secs(10);

/// A disk that was full has room again some time.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Connections beyond the streams': of who has its certificate renewed, and of who comes back before it
/// is noticed that it left.
const COMING_BACK: usize = 1024;

/// Connections that wait to be accepted: after a restart all sidecars come at once.
const BACKLOG: u32 = 4096;
