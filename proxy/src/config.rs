//! The command line. Every flag has an environment variable; a flag wins over its variable.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method, Uri};
use jitney_api::Ports;
use jitney_api::push::OwnLimits;
use serde::Serialize;

mod headers;
mod redirect;

pub use headers::HeaderArgs;
pub use redirect::{RedirectArgs, RedirectCommand};

use crate::admin::Probes;
use crate::control::{self, ControlPlaneUrl, SharedPapers};
use crate::families;
use crate::log::{Format, Level};
use crate::send::{Address, Speaks};

/// Gathers calls that can travel together into batch calls that the upstream already understands.
#[derive(Debug, Parser)]
#[command(name = "jitney-proxy", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar.
    Run(Box<RunArgs>),
    /// Check policy files: prints each fault as file:line:column, ends with 1 if there is any.
    Check(CheckArgs),
    /// Tell what would happen to a call: its route, codec and key, or why it would go alone.
    Explain(ExplainArgs),
    /// Have the kernel hand the connections of this network namespace to the sidecar, or no more.
    #[command(subcommand)]
    Redirect(RedirectCommand),
}

/// How to run.
#[derive(Clone, Debug, Args)]
#[command(override_usage = RUN_USAGE)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true).args(["upstream", "config", "control_plane", "inbound", "outbound"]))]
pub struct RunArgs {
    /// Where to take calls; port 0 is any free one.
    #[arg(long, env = "JITNEY_LISTEN", value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = address,
          conflicts_with = "config", requires = "upstream")]
    pub listen: Vec<SocketAddr>,

    /// Where to send them: host:port. Several are endpoints of one upstream.
    #[arg(long, env = "JITNEY_UPSTREAM", value_name = "ADDR", value_delimiter = ',', num_args = 1..,
          conflicts_with = "config", requires = "listen")]
    pub upstream: Vec<Address>,

    /// Where the kernel hands over connections that come in (see redirect); each goes on to where it was meant
    /// to go, and --policy is for all of them.
    #[arg(long, env = "JITNEY_INBOUND", value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = address)]
    pub inbound: Vec<SocketAddr>,

    /// Where the kernel hands over connections that leave; each goes on to where it was meant to go, by the policy
    /// of the backend that has that as an endpoint; one to a Service's address to the Service's endpoints.
    #[arg(long, env = "JITNEY_OUTBOUND", value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = address)]
    pub outbound: Vec<SocketAddr>,

    /// Ports, of what the kernel hands over, on which nobody looks at what is spoken: their servers speak first,
    /// or their protocols only look like HTTP.
    #[arg(
        long,
        env = "JITNEY_OPAQUE_PORTS",
        value_name = "PORTS",
        default_value = "25,587,3306,4444,5432,6379,9300,11211"
    )]
    pub opaque_ports: Ports,

    /// What the upstream speaks.
    #[arg(
        long,
        env = "JITNEY_UPSTREAM_PROTOCOL",
        value_name = "PROTOCOL",
        default_value = "auto",
        conflicts_with = "config"
    )]
    pub upstream_protocol: UpstreamProtocol,

    /// A policy file, or a folder of them; watched while running.
    #[arg(
        long,
        env = "JITNEY_POLICY",
        value_name = "PATH",
        value_delimiter = ',',
        conflicts_with = "config"
    )]
    pub policy: Vec<PathBuf>,

    /// A file or folder of Listener, Backend and BatchPolicy documents; watched while running.
    #[arg(long, env = "JITNEY_CONFIG", value_name = "PATH", value_delimiter = ',')]
    pub config: Vec<PathBuf>,

    /// Take listeners, backends and policies from a control plane: https://host:port. Of several, one at a time.
    #[arg(long, env = "JITNEY_CONTROL_PLANE", value_name = "URL", value_delimiter = ',', num_args = 1..,
          conflicts_with_all = ["config", "policy"])]
    pub control_plane: Vec<ControlPlaneUrl>,

    /// Roots that the control plane's certificate is checked against, PEM. Roots that it pushes take their
    /// place; a file that is changed after that is read where they do not know who answers.
    #[arg(
        long,
        env = "JITNEY_TRUST_BUNDLE",
        value_name = "FILE",
        default_value = "/var/run/secrets/jitney.dev/roots.pem",
        requires = "control_plane"
    )]
    pub trust_bundle: PathBuf,

    /// A token that shows whose sidecar this is; read whenever a first certificate is needed.
    #[arg(
        long,
        env = "JITNEY_TOKEN_FILE",
        value_name = "FILE",
        default_value = "/var/run/secrets/jitney.dev/token",
        requires = "control_plane"
    )]
    pub token_file: PathBuf,

    /// Where to keep what the control plane said last, and this sidecar's private key and certificate (identity.pem),
    /// for a start while it is away. The folder is to be this user's alone (mode 0700, as it is made when it is not
    /// there): in one that others may enter no key is kept, nor used.
    #[arg(
        long,
        env = "JITNEY_SNAPSHOT",
        value_name = "DIR",
        requires = "control_plane",
        conflicts_with = "config"
    )]
    pub snapshot: Option<PathBuf>,

    /// What this sidecar calls itself; by default the host's name and the first address of --listen.
    #[arg(
        long,
        env = "JITNEY_NODE",
        value_name = "NAME",
        requires = "control_plane",
        conflicts_with = "config"
    )]
    pub node: Option<String>,

    /// The zone that this sidecar is in: endpoints that are said to be in it come first where a policy has
    /// trafficDistribution: PreferSameZone. Empty where it is not known, as on nodes that have no label of it.
    #[arg(long, env = "JITNEY_ZONE", value_name = "NAME")]
    zone: Option<String>,

    /// The most bytes that may wait for one batch key, whatever a policy of the control plane says: one that
    /// asks for more is rejected.
    #[arg(long, env = "JITNEY_MAX_QUEUE_BYTES", value_name = "SIZE", value_parser = bytes, requires = "control_plane", conflicts_with = "config")]
    pub max_queue_bytes: Option<usize>,

    /// The most items that a batch may have, likewise.
    #[arg(
        long,
        env = "JITNEY_MAX_BATCH_SIZE",
        value_name = "COUNT",
        requires = "control_plane"
    )]
    pub max_batch_size: Option<NonZeroUsize>,

    /// Where to serve the admin endpoint; not served unless given.
    #[arg(long, env = "JITNEY_ADMIN", value_name = "ADDR", value_parser = address)]
    pub admin: Option<SocketAddr>,

    /// What may be asked of the service at /probes/CONTAINER/PROBE of the admin endpoint, as JSON:
    /// {"users/liveness": {"port": 8080, "path": "/live", "headers": [{"name": "x", "value": "y"}],
    /// "timeoutSeconds": 1}}. Each is asked on the loopback.
    #[arg(long, env = "JITNEY_PROBES", value_name = "JSON", requires = "admin")]
    pub probes: Option<Probes>,

    /// Worker threads; by default as many as the CPU limit allows.
    #[arg(long, env = "JITNEY_THREADS", value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,

    /// The longest that a drain may take.
    #[arg(long, env = "JITNEY_DRAIN_TIME", value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub drain_time: Duration,

    /// A Unix socket over which this process takes the place of the one that was started with the same path, and
    /// is relieved in its turn: without a lost call.
    #[arg(long, env = "JITNEY_HAND_OVER", value_name = "PATH")]
    pub hand_over: Option<PathBuf>,

    /// The most open connections of callers on one listener; more wait to be accepted.
    #[arg(
        long,
        env = "JITNEY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value = "16384"
    )]
    pub max_connections: NonZeroUsize,

    /// How old an HTTP connection of a caller may become, give or take a tenth, before it finishes its calls and
    /// ends; as old as it likes unless given.
    #[arg(long, env = "JITNEY_MAX_CONNECTION_AGE", value_name = "TIME", value_parser = positive)]
    pub max_connection_age: Option<Duration>,

    /// Where control groups are mounted, for how much memory is left.
    #[arg(
        long,
        env = "JITNEY_CGROUP_ROOT",
        value_name = "DIR",
        default_value = "/sys/fs/cgroup",
        hide = true
    )]
    pub cgroup_root: PathBuf,

    /// What becomes of the heads of requests.
    #[command(flatten)]
    pub headers: HeaderArgs,

    /// What to log: a level, or levels by target as in info,jitney_proxy=debug.
    #[arg(long, env = "JITNEY_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,

    /// How to log.
    #[arg(
        long,
        env = "JITNEY_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: Format,

    /// Log one line for each call.
    #[arg(long, env = "JITNEY_ACCESS_LOG")]
    pub access_log: bool,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// What the caller spoke, as far as the upstream speaks it.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// What to explain.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A policy file, or a folder of them.
    #[arg(
        long,
        env = "JITNEY_POLICY",
        value_name = "PATH",
        value_delimiter = ',',
        required_unless_present = "admin"
    )]
    pub policy: Vec<PathBuf>,

    /// The admin endpoint of a sidecar that runs, whose policies are asked instead: its own, or the near end of
    /// kubectl port-forward.
    #[arg(
        long,
        env = "JITNEY_EXPLAIN_ADMIN",
        value_name = "ADDR",
        conflicts_with = "policy"
    )]
    pub admin: Option<Address>,

    /// Of which backend of that sidecar; all of them if none is named.
    #[arg(
        long,
        env = "JITNEY_EXPLAIN_BACKEND",
        value_name = "NAME",
        requires = "admin",
        conflicts_with = "policy"
    )]
    pub backend: Option<String>,

    /// The call's method.
    pub method: Method,

    /// The call's URL, or only its path and query.
    pub url: Uri,

    /// A header field.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,

    /// The body, or @FILE to read it from.
    #[arg(short = 'd', long = "data", value_name = "BODY")]
    pub body: Option<String>,
}

impl From<UpstreamProtocol> for Speaks {
    fn from(protocol: UpstreamProtocol) -> Self {
        match protocol {
            UpstreamProtocol::Auto => Self::Auto,
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
        }
    }
}

impl RunArgs {
    /// The level and what the access log adds to it.
    pub fn level(&self) -> Level {
        self.log_level.clone().with_access_log(self.access_log)
    }

    /// With those addresses of the kernel and of the admin endpoint that this machine can have.
    #[must_use]
    pub fn here(mut self) -> Self {
        for addresses in [&mut self.inbound, &mut self.outbound] {
            *addresses = families::here(addresses);
        }
        let admin = self.admin.map(|address| families::here(&[address]));
        self.admin = admin.and_then(|addresses| addresses.first().copied());
        self
    }

    /// The files that are watched.
    pub fn paths(&self) -> &[PathBuf] {
        if self.config.is_empty() {
            &self.policy
        } else {
            &self.config
        }
    }

    /// The zone that this sidecar is in, if it knows.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref().filter(|zone| !zone.is_empty())
    }

    /// Where the control plane is, and who asks; `None` without one.
    pub fn control(&self) -> Option<control::Settings> {
        let all = OwnLimits::default();
        (!self.control_plane.is_empty()).then(|| control::Settings {
            urls: self.control_plane.clone(),
            node: self.node(),
            zone: self.zone().map(str::to_owned),
            token_file: self.token_file.clone(),
            trust_bundle: self.trust_bundle.clone(),
            snapshot: self.snapshot.clone(),
            any_backend: !self.outbound.is_empty(),
            papers: SharedPapers::default(),
            limits: OwnLimits {
                max_queue_bytes: self.max_queue_bytes.unwrap_or(all.max_queue_bytes),
                max_size: self.max_batch_size.map_or(all.max_size, NonZeroUsize::get),
            },
        })
    }

    fn node(&self) -> String {
        let host = || {
            let name = nix::unistd::gethostname().unwrap_or_default();
            let name = name.to_string_lossy();
            match self.listen.first() {
                Some(address) => format!("{name}/{address}"),
                None => name.into_owned(),
            }
        };
        self.node.clone().unwrap_or_else(host)
    }

    /// What `/config` shows of the flags.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "listen": self.listen,
            "inbound": self.inbound,
            "outbound": self.outbound,
            "upstream": self.upstream.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "upstreamProtocol": self.upstream_protocol,
            "policy": self.policy,
            "config": self.config,
            "controlPlane": self.control_plane.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "snapshot": self.snapshot,
            "zone": self.zone(),
            "node": (!self.control_plane.is_empty()).then(|| self.node()),
            "admin": self.admin,
            "threads": self.threads,
            "drainTime": format!("{:?}", self.drain_time),
            "handOver": self.hand_over,
            "maxConnectionAge": self.max_connection_age.map(|age| format!("{age:?}")),
            "maxConnections": self.max_connections,
            "headers": self.headers.rules(),
            "accessLog": self.access_log,
        })
    }
}

/// Which flags go together.
const RUN_USAGE: &str = "\
jitney-proxy run --listen <ADDR>... --upstream <ADDR>... [--policy <PATH>...] [OPTIONS]
       jitney-proxy run --config <PATH>... [OPTIONS]
       jitney-proxy run --control-plane <URL>... [--listen <ADDR>... --upstream <ADDR>...] [OPTIONS]
       jitney-proxy run [--inbound <ADDR>...] [--outbound <ADDR>...] [--policy <PATH>... | --config <PATH>...] [OPTIONS]";

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ip:port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jitney_api::Duration>()
        .map(|time| time.0)
        .map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time >= Duration::from_secs(1) => Ok(time),
        time => Err(format!("found {time:?}, expected 1s or more")),
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let size: jitney_api::ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    usize::try_from(size.0).map_err(|error| error.to_string())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("{name:?} is no field name"))?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests;
