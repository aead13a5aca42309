//! `redirect`: the rules by which the kernel hands the connections of a network namespace to the
//! sidecar, so that neither callers nor services know of it.
//!
//! What leaves the namespace goes to the outbound port, unless the sidecar's own user sent it; what comes
//! in goes to the inbound port. Both over IPv4 and IPv6. Where the connection was meant to go is asked of
//! the kernel (`SO_ORIGINAL_DST`) by the sidecar. Connections within the namespace are left alone.

use std::io::{self, Write};
use std::process::ExitCode;

mod listing;
mod rules;
mod subnet;
mod tools;

pub use rules::Rules;
pub use subnet::{BadSubnet, Subnet};
pub use tools::{Tool, ToolError};

use tools::Tools;

/// Writes the rules, in place of those that are there.
///
/// # Errors
/// When there is no tool for that, or it refuses; then the rules are as they were.
pub fn install(rules: &Rules, tool: Option<Tool>) -> Result<ExitCode, ToolError> {
    let tool = Tools::find(tool)?;
    tool.install(rules)?;
    say(&format!(
        "installed with {}: outbound to port {}, inbound to port {}\n",
        tool.name(),
        rules.outbound_port,
        rules.inbound_port
    ))
}

/// Removes the rules, whichever tool wrote them; there need be none.
///
/// # Errors
/// When a tool refuses.
pub fn remove() -> Result<ExitCode, ToolError> {
    let mut removed = Vec::new();
    for tool in Tools::all() {
        if tool.remove()? {
            removed.push(tool.name());
        }
    }
    match removed[..] {
        [] => say("there were no rules\n"),
        _ => say(&format!("removed with {}\n", removed.join(" and "))),
    }
}

/// Tells whether the rules are those that [`install`] would write: 0, or 1 with what differs.
///
/// # Errors
/// When there is no tool, or it cannot list rules.
pub fn check(rules: &Rules, tool: Option<Tool>) -> Result<ExitCode, ToolError> {
    let tool = Tools::find(tool)?;
    let differences = tool.differences(rules)?;
    if differences.is_empty() {
        return say(&format!("the rules are in place ({})\n", tool.name()));
    }
    say(&format!(
        "the rules are not in place ({}):\n{}\n",
        tool.name(),
        differences.join("\n")
    ))?;
    Ok(ExitCode::FAILURE)
}

/// Prints what [`install`] would hand to the tool.
///
/// # Errors
/// When it cannot be printed.
pub fn print(rules: &Rules, tool: Option<Tool>) -> Result<ExitCode, ToolError> {
    say(&match tool {
        None | Some(Tool::Nftables) => rules.nftables(),
        Some(Tool::Iptables) => {
            rules.iptables(rules::Family::V4, &[]) + &rules.iptables(rules::Family::V6, &[])
        }
    })
}

fn say(text: &str) -> Result<ExitCode, ToolError> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(ToolError::Print)?;
    Ok(ExitCode::SUCCESS)
}
