//! The command line. Every flag has an environment variable; a flag wins over its variable.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jitney_api::{LogLevel, Workload, is_trust_domain};

use crate::log::Format;

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
    /// Check documents: prints each fault as file:line:column, ends with 1 if there is any.
    Check(CheckArgs),
    /// Tell whom the mesh trusts.
    Trust(TrustArgs),
}

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where policies, backends and endpoints come from: files:PATH, a file or a folder of documents,
    /// which is watched. A change is in force when its files have been quiet for a tenth of a second.
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
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
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
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("files", path)) if !path.is_empty() => Ok(Self::Files(path.into())),
            _ if text == "kubernetes" || text.starts_with("kubernetes:") => {
                Err("kubernetes is not a source yet: it comes later; use files:PATH".to_owned())
            }
            _ => Err("expected files:PATH, such as files:./policies".to_owned()),
        }
    }
}

impl RunArgs {
    /// The files that are watched.
    pub fn paths(&self) -> Vec<PathBuf> {
        let path = |source: &Source| {
            let Source::Files(path) = source;
            path.clone()
        };
        self.source.iter().map(path).collect()
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ip:port, such as 127.0.0.1:15010 or [::]:15010".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
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
