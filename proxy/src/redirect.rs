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

/// Writes the rules, in place of those that are there, whichever tool wrote them.
///
/// # Errors
/// When there is no tool for that, or it refuses; then the rules are as they were. When the rules of the
/// other tool cannot be removed; then both are in force.
pub fn install(rules: &Rules, tool: Option<Tool>) -> Result<ExitCode, ToolError> {
    let tool = Tools::find(tool)?;
    tool.install(rules)?;
    let mut said = format!(
        "installed with {}: outbound to port {}, inbound to port {}\n",
        tool.name(),
        rules.outbound_port,
        rules.inbound_port
    );
    for other in tool.others() {
        match other.has_rules() {
            Ok(true) => {
                other.remove()?;
                said += &format!("removed those that {} had\n", other.name());
            }
            Ok(false) => {}
            // It may be there and of no use: that is no reason to have no rules at all.
            Err(error) => said += &unknown(other.name(), &error),
        }
    }
    say(&said)
}

/// Removes the rules, whichever tool wrote them; there need be none. Says so when a tool is not there, as
/// its rules may be.
///
/// # Errors
/// When there is no tool, or one refuses.
pub fn remove() -> Result<ExitCode, ToolError> {
    if Tools::all().next().is_none() {
        return Err(ToolError::None);
    }
    let (mut removed, mut without) = (Vec::new(), Vec::new());
    let (mut said, mut failed) = (String::new(), None);
    for tool in Tool::ALL {
        let name = tool.name();
        match Tools::find(Some(tool)) {
            Err(missing) => said += &unknown(name, &missing),
            Ok(tool) => match tool.remove() {
                Ok(true) => removed.push(name),
                Ok(false) => without.push(name),
                // The other one's are removed all the same.
                Err(error) => failed = failed.or(Some(error)),
            },
        }
    }
    if !removed.is_empty() {
        say(&format!("removed with {}\n", removed.join(" and ")))?;
    } else if !without.is_empty() {
        say(&format!("there were no rules of {}\n", without.join(" and ")))?;
    }
    let done = say(&said);
    failed.map_or(done, Err)
}

/// Tells whether the rules are those that [`install`] would write, and no others: 0, or 1 with what
/// differs. Without a tool those of the only one that has any.
///
/// # Errors
/// When there is no tool, or it cannot list rules.
pub fn check(rules: &Rules, tool: Option<Tool>) -> Result<ExitCode, ToolError> {
    let tool = match tool {
        Some(_) => Tools::find(tool)?,
        None => Tools::with_rules()?,
    };
    let (mut differences, has_rules) = (tool.differences(rules)?, tool.has_rules()?);
    let mut said = String::new();
    for other in tool.others() {
        let (own, name) = (tool.name(), other.name());
        match other.has_rules() {
            Ok(true) if has_rules => differences.push(format!(
                "{name} has rules as well: `redirect install` leaves only those of the tool that it is told"
            )),
            Ok(true) => {
                differences = vec![format!(
                    "{own} has no rules, and {name} has: --tool {name} checks those"
                )];
            }
            Ok(false) => {}
            Err(error) => said += &unknown(other.name(), &error),
        }
    }
    if differences.is_empty() {
        return say(&format!("the rules are in place ({})\n{said}", tool.name()));
    }
    say(&format!(
        "the rules are not in place ({}):\n{}\n{said}",
        tool.name(),
        differences.join("\n")
    ))?;
    Ok(ExitCode::FAILURE)
}

fn unknown(tool: &str, why: &ToolError) -> String {
    format!("whether there are rules of {tool} cannot be told: {why}\n")
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
