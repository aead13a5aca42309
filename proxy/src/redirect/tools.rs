//! The programs that write rules into the kernel.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::Rules;
use super::listing::{self, Chains};
use super::rules::{Family, TABLE, deleted};

/// What writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// `nft`: one table for IPv4 and IPv6.
    Nftables,
    /// `iptables` and `ip6tables`: where `nft` is not.
    Iptables,
}

impl Tool {
    pub(super) const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Why the rules cannot be written, removed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// Nothing to do it with.
    #[error("neither nft nor iptables can be found in PATH")]
    None,
    /// What was asked for is not there.
    #[error("{0} cannot be found in PATH")]
    Missing(&'static str),
    /// It cannot be run.
    #[error("{0}: {1}")]
    Run(String, io::Error),
    /// It ended with a failure; with what it said.
    #[error("{0}: {1}")]
    Refused(String, String),
    /// The result cannot be printed.
    #[error("cannot print: {0}")]
    Print(io::Error),
}

/// A tool that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tools(Tool);

impl Tools {
    /// The tool that is asked for; otherwise nftables where it is, or iptables.
    pub(super) fn find(wanted: Option<Tool>) -> Result<Self, ToolError> {
        match wanted {
            Some(tool) if is_there(program(tool)) => Ok(Self(tool)),
            Some(tool) => Err(ToolError::Missing(program(tool))),
            None => Self::all().next().ok_or(ToolError::None),
        }
    }

    /// The first tool that has rules, or else the first one.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn with_rules() -> Result<Self, ToolError> {
        let has_rules = |tool: &Self| matches!(tool.has_rules(), Ok(true));
        Self::all().find(has_rules).map_or_else(|| Self::find(None), Ok)
    }

    /// Every tool that is there.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Tool::ALL
            .into_iter()
            .filter_map(|tool| Self::find(Some(tool)).ok())
    }

    /// The tools that are there besides this one.
    pub(super) fn others(self) -> impl Iterator<Item = Self> {
        Self::all().filter(move |other| other.0 != self.0)
    }

    pub(super) const fn name(self) -> &'static str {
        self.0.name()
    }

    pub(super) fn install(self, rules: &Rules) -> Result<(), ToolError> {
        match self.0 {
            Tool::Nftables => run("nft", &["-f", "-"], &rules.nftables()).map(drop),
            Tool::Iptables => families().try_for_each(|family| {
                let listed = chains(family)?;
                restore(family, &rules.iptables(family, &listed.jumps()))
            }),
        }
    }

    /// Whether there is anything that [`Tools::remove`] would remove.
    pub(super) fn has_rules(self) -> Result<bool, ToolError> {
        match self.0 {
            Tool::Nftables => Ok(self.listed()?.is_some()),
            Tool::Iptables => {
                for family in families() {
                    if chains(family)?.has_ours() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Removes what [`Tools::install`] wrote; false when there was nothing.
    pub(super) fn remove(self) -> Result<bool, ToolError> {
        let is_there = self.has_rules()?;
        match self.0 {
            _ if !is_there => {}
            Tool::Nftables => drop(run("nft", &["delete", "table", "inet", TABLE], "")?),
            Tool::Iptables => families().try_for_each(|family| {
                let listed = chains(family)?;
                let mut script = "*nat\n".to_owned() + &deleted(&listed.jumps());
                for chain in listed.ours() {
                    let _ = writeln!(script, "-F {chain}\n-X {chain}");
                }
                restore(family, &(script + "COMMIT\n"))
            })?,
        }
        Ok(is_there)
    }

    /// What is not as [`Tools::install`] would make it, a line each.
    pub(super) fn differences(self, rules: &Rules) -> Result<Vec<String>, ToolError> {
        match self.0 {
            Tool::Nftables => Ok(match self.listed()? {
                Some(listed) => listing::table_differences(&rules.nft_chains(), &listed),
                None => vec![format!("there is no table inet {TABLE}")],
            }),
            Tool::Iptables => {
                let mut all = Vec::new();
                for family in families() {
                    let differences = chains(family)?.differences(&rules.iptables_rules(family));
                    let of_family = |what: String| format!("{}: {what}", iptables(family));
                    all.extend(differences.into_iter().map(of_family));
                }
                Ok(all)
            }
        }
    }

    /// The table of nftables; `None` when there is none.
    fn listed(self) -> Result<Option<String>, ToolError> {
        let output = output("nft", &["-s", "list", "table", "inet", TABLE], "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            false if said.contains("No such file or directory") => Ok(None),
            false => Err(ToolError::Refused("nft list".to_owned(), said.trim().to_owned())),
        }
    }
}

/// IPv6 only where the kernel has it.
fn families() -> impl Iterator<Item = Family> {
    let has_v6 = Path::new("/proc/net/if_inet6").exists();
    [Family::V4].into_iter().chain(has_v6.then_some(Family::V6))
}

const fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

const fn program(tool: Tool) -> &'static str {
    match tool {
        Tool::Nftables => "nft",
        Tool::Iptables => "iptables",
    }
}

/// What is in place for a family.
fn chains(family: Family) -> Result<Chains, ToolError> {
    run(iptables(family), &["-w", WAIT, "-t", "nat", "-S"], "").map(Chains)
}

fn restore(family: Family, script: &str) -> Result<(), ToolError> {
    let restore = format!("{}-restore", iptables(family));
    run(&restore, &["--noflush", "-w", WAIT], script).map(drop)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let done = output(program, arguments, input)?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = match said.trim() {
        "" => done.status.to_string(),
        said => said.to_owned(),
    };
    let what = format!("{program} {}", arguments.join(" "));
    Err(ToolError::Refused(what, said))
}

fn output(program: &str, arguments: &[&str], input: &str) -> Result<Output, ToolError> {
    let failed = |error| ToolError::Run(program.to_owned(), error);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses early need not have read everything; what it says then is what counts.
        drop(stdin.write_all(input.as_bytes()));
    }
    child.wait_with_output().map_err(failed)
}

/// Whether a program of that name is in `PATH`.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Seconds that iptables waits for another one to be done.
const WAIT: &str = "10";
