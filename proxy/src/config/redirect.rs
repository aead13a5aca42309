//! The flags of `redirect`.

use clap::{Args, Subcommand};
use jitney_api::Ports;
use nix::unistd::User;

use crate::redirect::{Rules, Subnet, Tool};

/// What to do with the rules that hand connections to the sidecar.
#[derive(Debug, Subcommand)]
pub enum RedirectCommand {
    /// Write the rules, in place of those that are there. Needs `CAP_NET_ADMIN`.
    Install {
        /// What is redirected.
        #[command(flatten)]
        redirect: RedirectArgs,
        /// Print what would be written, and write nothing.
        #[arg(long)]
        print: bool,
    },
    /// Remove the rules.
    Remove,
    /// Tell whether the rules are those that install would write: ends with 1 and what differs if not.
    Check(RedirectArgs),
}

/// What is redirected.
#[derive(Debug, Args)]
pub struct RedirectArgs {
    /// The user that the sidecar runs as, by id or by name: its connections are not redirected. A name is
    /// looked up where this command runs.
    #[arg(
        long,
        env = "JITNEY_REDIRECT_USER",
        value_name = "USER",
        value_delimiter = ',',
        value_parser = user_id,
        required = true
    )]
    user: Vec<u32>,

    /// Where connections that come in go: the port of the sidecar's --inbound.
    #[arg(long, env = "JITNEY_REDIRECT_INBOUND_PORT", value_name = "PORT", default_value = "15006",
          value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,

    /// Where connections that leave go: the port of the sidecar's --outbound.
    #[arg(long, env = "JITNEY_REDIRECT_OUTBOUND_PORT", value_name = "PORT", default_value = "15001",
          value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,

    /// Ports here that are reached directly, such as 22,5000-5010.
    #[arg(
        long,
        env = "JITNEY_REDIRECT_SKIP_INBOUND_PORTS",
        value_name = "PORTS",
        default_value = ""
    )]
    skip_inbound_ports: Ports,

    /// Ports elsewhere that are reached directly.
    #[arg(
        long,
        env = "JITNEY_REDIRECT_SKIP_OUTBOUND_PORTS",
        value_name = "PORTS",
        default_value = ""
    )]
    skip_outbound_ports: Ports,

    /// Networks that are reached directly, such as 10.9.0.0/16.
    #[arg(
        long,
        env = "JITNEY_REDIRECT_SKIP_SUBNETS",
        value_name = "SUBNET",
        value_delimiter = ','
    )]
    skip_subnets: Vec<Subnet>,

    /// What writes the rules; nftables where it is there, or else iptables.
    #[arg(long, env = "JITNEY_REDIRECT_TOOL", value_name = "TOOL")]
    pub tool: Option<Tool>,
}

impl RedirectArgs {
    /// What is redirected.
    pub fn rules(&self) -> Rules {
        Rules {
            users: self.user.clone(),
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            // Whoever connects to the sidecar itself need not be redirected to it.
            skip_inbound: self.skip_inbound_ports.with(self.inbound_port),
            skip_outbound: self.skip_outbound_ports.clone(),
            skip_subnets: self.skip_subnets.clone(),
        }
    }
}

/// A user's id; a number is one, whether or not anybody has it.
fn user_id(text: &str) -> Result<u32, String> {
    let text = text.trim();
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!(
            "there is no user `{text}` here: name another, or give its id"
        )),
        Err(error) => Err(format!("cannot look up user `{text}`: {error}")),
    }
}
