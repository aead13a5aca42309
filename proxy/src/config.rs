//! The command line. Every flag has an environment variable; a flag wins over its variable.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

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
}

/// How to run.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true).args(["upstream", "config"]))]
pub struct RunArgs {
    /// Where to take calls; port 0 is any free one.
    #[arg(long, env = "JITNEY_LISTEN", value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = address,
          required_unless_present = "config", conflicts_with = "config")]
    pub listen: Vec<SocketAddr>,

    /// Where to send them: host:port. Several are endpoints of one upstream.
    #[arg(long, env = "JITNEY_UPSTREAM", value_name = "ADDR", value_delimiter = ',', num_args = 1..,
          conflicts_with = "config")]
    pub upstream: Vec<Address>,

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

    /// Where to serve the admin endpoint; not served unless given.
    #[arg(long, env = "JITNEY_ADMIN", value_name = "ADDR", value_parser = address)]
    pub admin: Option<SocketAddr>,

    /// Worker threads; by default as many as the CPU limit allows.
    #[arg(long, env = "JITNEY_THREADS", value_name = "COUNT")]
    pub threads: Option<NonZeroUsize>,

    /// The longest that a drain may take.
    #[arg(long, env = "JITNEY_DRAIN_TIME", value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub drain_time: Duration,

    /// The most open connections of callers on one listener; more wait to be accepted.
    #[arg(
        long,
        env = "JITNEY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value = "16384"
    )]
    pub max_connections: NonZeroUsize,

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
        required = true
    )]
    pub policy: Vec<PathBuf>,

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
        let level = self.log_level.clone();
        if self.access_log {
            level.with_access_log()
        } else {
            level
        }
    }

    /// The files that are watched.
    pub fn paths(&self) -> &[PathBuf] {
        if self.config.is_empty() {
            &self.policy
        } else {
            &self.config
        }
    }

    /// What `/config` shows of the flags.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "listen": self.listen,
            "upstream": self.upstream.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "upstreamProtocol": self.upstream_protocol,
            "policy": self.policy,
            "config": self.config,
            "admin": self.admin,
            "threads": self.threads,
            "drainTime": format!("{:?}", self.drain_time),
            "maxConnections": self.max_connections,
            "accessLog": self.access_log,
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ip:port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jitney_api::Duration>()
        .map(|time| time.0)
        .map_err(|error| error.to_string())
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
