//! The programs that write rules into the kernel.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::Rules;
use super::rules::{CHAINS, Family, TABLE};

/// What writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// `nft`: one table for IPv4 and IPv6.
    Nftables,
    /// `iptables` and `ip6tables`: where `nft` is not.
    Iptables,
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

    /// Every tool that is there.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let tools = [Tool::Nftables, Tool::Iptables].into_iter();
        tools.filter(|tool| is_there(program(*tool))).map(Self)
    }

    pub(super) const fn name(self) -> &'static str {
        match self.0 {
            Tool::Nftables => "nftables",
            Tool::Iptables => "iptables",
        }
    }

    pub(super) fn install(self, rules: &Rules) -> Result<(), ToolError> {
        match self.0 {
            Tool::Nftables => run("nft", &["-f", "-"], &rules.nftables()).map(drop),
            Tool::Iptables => families().try_for_each(|family| {
                let restore = format!("{}-restore", iptables(family));
                run(&restore, &["--noflush", "-w", WAIT], &rules.iptables(family))?;
                let listed = Listed::of(family)?;
                for (hook, chain) in CHAINS {
                    if !listed.has_jump(hook, chain) {
                        tables(family, &["-I", hook, "1", "-p", "tcp", "-j", chain])?;
                    }
                }
                Ok(())
            }),
        }
    }

    /// Removes what [`Tools::install`] wrote; false when there was nothing.
    pub(super) fn remove(self) -> Result<bool, ToolError> {
        match self.0 {
            Tool::Nftables => {
                let is_there = self.listed()?.is_some();
                if is_there {
                    run("nft", &["delete", "table", "inet", TABLE], "")?;
                }
                Ok(is_there)
            }
            Tool::Iptables => {
                let mut removed = false;
                for family in families() {
                    let listed = Listed::of(family)?;
                    for (hook, chain) in CHAINS {
                        if listed.has_jump(hook, chain) {
                            tables(family, &["-D", hook, "-p", "tcp", "-j", chain])?;
                        }
                        if listed.has_chain(chain) {
                            tables(family, &["-F", chain])?;
                            tables(family, &["-X", chain])?;
                            removed = true;
                        }
                    }
                }
                Ok(removed)
            }
        }
    }

    /// What is not as [`Tools::install`] would make it, a line each.
    pub(super) fn differences(self, rules: &Rules) -> Result<Vec<String>, ToolError> {
        match self.0 {
            Tool::Nftables => {
                let Some(listed) = self.listed()? else {
                    return Ok(vec![format!("there is no table inet {TABLE}")]);
                };
                // What is left are names of chains, braces and the line that says where a chain hangs.
                let is_rule = |line: &&str| line.ends_with(" return") || line.contains("redirect to");
                let found: Vec<&str> = listed.lines().map(str::trim).filter(is_rule).collect();
                Ok(differences("", &rules.nft_rules(), &found))
            }
            Tool::Iptables => {
                let mut all = Vec::new();
                for family in families() {
                    let (name, listed) = (iptables(family), Listed::of(family)?);
                    let lacks_jump = |(hook, chain): &(&str, &str)| !listed.has_jump(hook, chain);
                    all.extend(
                        CHAINS
                            .iter()
                            .filter(|one| lacks_jump(one))
                            .map(|(hook, chain)| format!("{name}: {hook} does not jump to {chain}")),
                    );
                    let found: Vec<&str> = CHAINS.iter().flat_map(|(_, chain)| listed.rules(chain)).collect();
                    let wanted = rules.iptables_rules(family);
                    all.extend(differences(&format!("{name}: "), &wanted, &found));
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

fn differences(of: &str, wanted: &[String], found: &[&str]) -> Vec<String> {
    let missing = wanted.iter().filter(|rule| !found.contains(&rule.as_str()));
    let strange = found
        .iter()
        .filter(|rule| !wanted.iter().any(|one| one == **rule));
    let mut all: Vec<String> = missing
        .map(|rule| format!("{of}missing: {rule}"))
        .chain(strange.map(|rule| format!("{of}unexpected: {rule}")))
        .collect();
    if all.is_empty() && !wanted.iter().eq(found) {
        all.push(format!("{of}the order of the rules is another one"));
    }
    all
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

fn tables(family: Family, arguments: &[&str]) -> Result<String, ToolError> {
    let all: Vec<&str> = ["-w", WAIT, "-t", "nat"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    run(iptables(family), &all, "")
}

/// The rules of iptables for one family, as `-S` writes them.
struct Listed(String);

impl Listed {
    fn of(family: Family) -> Result<Self, ToolError> {
        tables(family, &["-S"]).map(Self)
    }

    fn has(&self, line: &str) -> bool {
        self.0.lines().any(|one| one == line)
    }

    fn has_jump(&self, hook: &str, chain: &str) -> bool {
        self.has(&format!("-A {hook} -p tcp -j {chain}"))
    }

    fn has_chain(&self, chain: &str) -> bool {
        self.has(&format!("-N {chain}"))
    }

    fn rules(&self, chain: &str) -> impl Iterator<Item = &str> {
        let of_chain = format!("-A {chain} ");
        self.0.lines().filter(move |line| line.starts_with(&of_chain))
    }
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
