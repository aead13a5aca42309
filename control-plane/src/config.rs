//! The command line. Every flag has an environment variable; a flag wins over its variable.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jitney_api::{LogLevel, Workload, is_trust_domain};

use crate::inject::manifests::{self, InjectArgs};
use crate::inject::webhook::WebhookArgs;
use crate::log::Format;
use crate::trial::{self, TrialArgs};
use crate::{inquire, run};

/// Tells the sidecars of a mesh what to do, and knows which of them does it.
#[derive(Debug, Parser)]
#[command(name = "jitney-control-plane", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane.
    Run(Box<RunArgs>),
    /// Print a token with which a sidecar gets its first certificate.
    Token(TokenArgs),
    /// Check documents, of files or of a cluster: prints each fault, ends with 1 if there is any.
    Check(CheckArgs),
    /// Tell whom the mesh trusts.
    Trust(TrustArgs),
    /// Print the custom resource definitions, as `kubectl apply --server-side -f -` takes them.
    Crds,
    /// Give the pods of Kubernetes manifests their sidecars: prints the manifests.
    Inject(InjectArgs),
    /// Try whether calls are batched, as `helm test` does.
    Trial(TrialArgs),
}

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where policies, backends and endpoints come from: files:PATH, a file or a folder of documents,
    /// which is watched; or kubernetes, the cluster that this runs in, or only some of its namespaces:
    /// kubernetes:shop. A change is in force when there was none for a tenth of a second.
    #[arg(
        long,
        env = "JITNEY_SOURCE",
        value_name = "SOURCE",
        value_delimiter = ',',
        required = true
    )]
    pub source: Vec<Source>,

    /// Where to serve sidecars; port 0 is any free one.
    #[arg(long, env = "JITNEY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:15010", value_parser = address)]
    pub listen: SocketAddr,

    /// Where to serve the admin endpoint.
    #[arg(long, env = "JITNEY_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:15014", value_parser = address)]
    pub admin: SocketAddr,

    /// What the state belongs to.
    #[command(flatten)]
    pub mesh: Mesh,

    /// Somebody else's authority to sign with, in place of a self-made one: a folder with tls.crt, tls.key and ca.crt,
    /// as a Secret of cert-manager's is mounted, of a Certificate with isCA: true. It is watched, and what is
    /// renewed there is in force without a restart.
    #[arg(long, env = "JITNEY_ISSUER", value_name = "DIR")]
    pub issuer: Option<PathBuf>,

    /// How long the stream to a sidecar lasts before the sidecar has to connect again, to whichever
    /// replica; by up to a fifth more or less.
    #[arg(long, env = "JITNEY_STREAM_AGE", value_name = "TIME", default_value = "30m", value_parser = duration)]
    pub stream_age: Duration,

    /// How many streams may begin in a second; twice as many may begin at once.
    #[arg(
        long,
        env = "JITNEY_MAX_STREAMS_PER_SECOND",
        value_name = "COUNT",
        default_value = "200"
    )]
    pub max_streams_per_second: NonZeroU32,

    /// The most sidecars that are connected; others are told to come back later. A sixteenth of these
    /// places is kept free of whichever workload has all the others.
    #[arg(
        long,
        env = "JITNEY_MAX_SIDECARS",
        value_name = "COUNT",
        default_value = "16384"
    )]
    pub max_sidecars: NonZeroUsize,

    /// The ClusterRole that owns what this makes in a cluster: its Secrets, and the ConfigMaps with the roots. Kubernetes
    /// deletes them with it. They stay unless it is given.
    #[arg(long, env = "JITNEY_OWNER", value_name = "NAME")]
    pub owner: Option<String>,

    /// With a cluster as the source: what this one is called in the Lease of the replica that writes statuses, as its
    /// pod; no two may be called the same. By default the host's name and a text that is made up.
    #[arg(long, env = "JITNEY_REPLICA", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub replica: Option<String>,

    /// Namespaces of a cluster whose pods never get a sidecar, beside kube-system and the control plane's own: what
    /// they lack is not told of.
    #[arg(
        long,
        env = "JITNEY_EXCLUDED_NAMESPACES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub excluded_namespaces: Vec<String>,

    /// Sidecars for pods.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// What to log: a level, or levels by target as in info,jitney_control_plane=debug.
    #[arg(long, env = "JITNEY_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// How to log.
    #[arg(
        long,
        env = "JITNEY_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: Format,
}

/// The mesh, and where its keys are.
#[derive(Clone, Debug, Args)]
pub struct Mesh {
    /// Where to keep the authority's keys, and what is remembered of tokens, certificates and rollouts. Replicas share
    /// it.
    #[arg(
        long,
        env = "JITNEY_STATE",
        value_name = "DIR",
        default_value = "jitney-state"
    )]
    pub state: PathBuf,

    /// The mesh's name, which is in the certificate of each sidecar.
    #[arg(long, env = "JITNEY_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,
}

/// For whom a token is.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Whose sidecar: in files, the account is the name of the Backend that it serves.
    #[arg(value_name = "NAMESPACE/ACCOUNT")]
    pub workload: Workload,

    /// How long the token is good for getting a certificate.
    #[arg(long, env = "JITNEY_TOKEN_LIFETIME", value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    pub lifetime: Duration,

    /// What the state belongs to.
    #[command(flatten)]
    pub mesh: Mesh,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files of documents, or folders of them.
    #[arg(
        required_unless_present = "source",
        conflicts_with = "source",
        value_name = "PATH"
    )]
    pub paths: Vec<PathBuf>,

    /// What to check instead: kubernetes, all that is applied to the cluster that KUBECONFIG names, or only some of
    /// its namespaces: kubernetes:shop.
    #[arg(
        long,
        env = "JITNEY_CHECK_SOURCE",
        value_name = "SOURCE",
        value_delimiter = ','
    )]
    pub source: Vec<Source>,

    /// The namespace of the control plane of that cluster: whether one runs is told by its Lease there.
    #[arg(
        long,
        env = "JITNEY_CONTROL_PLANE_NAMESPACE",
        value_name = "NAME",
        default_value = "jitney-system"
    )]
    pub control_plane_namespace: String,
}

/// What to tell about trust.
#[derive(Debug, Args)]
pub struct TrustArgs {
    /// What to tell.
    #[command(subcommand)]
    pub what: TrustCommand,
}

/// What to tell about trust.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Print the certificates of the roots, PEM: what a sidecar needs as its trust bundle.
    Roots(Mesh),
}

/// Where resources come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder of them.
    Files(PathBuf),
    /// A cluster: one namespace of it, or all.
    Kubernetes(Option<String>),
}

/// Sources that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// Who says what would not be known.
    #[error("--source: expected files or a cluster, and not both")]
    Mixed,
    /// One of them is in the other.
    #[error("--source: expected kubernetes, or kubernetes:NAMESPACE, and not both")]
    Whole,
}

/// Sources of one sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Files and folders.
    Files(Vec<PathBuf>),
    /// These namespaces of a cluster; none: all of them.
    Kubernetes(Vec<String>),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("files", path)) if !path.is_empty() => Ok(Self::Files(path.into())),
            Some(("kubernetes", namespace)) if !namespace.is_empty() => {
                Ok(Self::Kubernetes(Some(namespace.to_owned())))
            }
            None if text == "kubernetes" => Ok(Self::Kubernetes(None)),
            _ => Err(
                "expected files:PATH, such as files:./policies, or kubernetes, or kubernetes:NAMESPACE"
                    .to_owned(),
            ),
        }
    }
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Why it cannot, to be shown to people.
    pub fn carry_out(self) -> Result<ExitCode, String> {
        let told = |error: &dyn std::error::Error| error.to_string();
        match self {
            Self::Run(args) => run::run(&args).map_err(|error| told(&error)),
            Self::Token(args) => inquire::print_token(&args).map_err(|error| told(&error)),
            Self::Check(args) => inquire::check(&args).map_err(|error| told(&error)),
            Self::Inject(args) => manifests::inject(&args).map_err(|error| told(&error)),
            Self::Trust(args) => {
                let TrustCommand::Roots(mesh) = args.what;
                inquire::print_roots(&mesh).map_err(|error| told(&error))
            }
            Self::Trial(args) => trial::carry_out(&args).map_err(|error| told(&error)),
            Self::Crds => inquire::print_definitions().map_err(|error| told(&error)),
        }
    }
}

impl RunArgs {
    /// What is watched.
    ///
    /// # Errors
    /// When that is files and a cluster, or all of a cluster and a part of it.
    pub fn sources(&self) -> Result<Sources, SourcesError> {
        Sources::of(&self.source)
    }
}

impl CheckArgs {
    /// What is checked.
    ///
    /// # Errors
    /// As [`RunArgs::sources`].
    pub fn sources(&self) -> Result<Sources, SourcesError> {
        match &self.source[..] {
            [] => Ok(Sources::Files(self.paths.clone())),
            some => Sources::of(some),
        }
    }
}

impl Sources {
    fn of(sources: &[Source]) -> Result<Self, SourcesError> {
        let (mut paths, mut namespaces, mut is_whole) = (Vec::new(), Vec::new(), false);
        for source in sources {
            match source {
                Source::Files(path) => paths.push(path.clone()),
                Source::Kubernetes(Some(namespace)) => namespaces.push(namespace.clone()),
                Source::Kubernetes(None) => is_whole = true,
            }
        }
        match (is_whole, paths.is_empty(), namespaces.is_empty()) {
            (false, false, true) => Ok(Self::Files(paths)),
            (true, true, false) => Err(SourcesError::Whole),
            (_, true, _) => Ok(Self::Kubernetes(namespaces)),
            (_, false, _) => Err(SourcesError::Mixed),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ip:port, such as 127.0.0.1:15010 or [::]:15010".to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = text
        .parse::<jitney_api::Duration>()
        .map_err(|error| error.to_string())?;
    if time.0.is_zero() {
        return Err("expected more than nothing".to_owned());
    }
    Ok(time.0)
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > LONGEST_LIFETIME {
        return Err("expected at most 168h: a token is a secret that lies around".to_owned());
    }
    Ok(time)
}

fn trust_domain(text: &str) -> Result<String, String> {
    is_trust_domain(text)
        .then(|| text.to_owned())
        .ok_or_else(|| "expected lower-case letters, digits, '.', '-' and '_'".to_owned())
}

/// A week.
const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests;
