//! What the tools list, and how it differs from what should be there.

use super::rules::{CHAINS, TABLE};

/// How our table of nftables, as `nft list table` writes it, differs from one of these chains; a line each.
///
/// All of it is compared: a chain that hangs nowhere, a dormant table or one rule too many is enough that
/// nothing is redirected.
pub(super) fn table_differences(wanted: &[(&str, Vec<String>)], listed: &str) -> Vec<String> {
    let table = Table::read(listed);
    let mut all = Vec::new();
    for (name, lines) in wanted {
        match table.blocks.iter().find(|(found, _)| found == name) {
            Some((_, found)) => all.extend(differences(&format!("{name}: "), lines, found)),
            None => all.push(format!("missing: {name}")),
        }
    }
    let blocks = table.blocks.iter().map(|(name, _)| *name);
    let strange = blocks.filter(|name| !wanted.iter().any(|(one, _)| one == name));
    all.extend(
        strange
            .chain(table.alone.iter().copied())
            .map(|what| format!("unexpected: {what}")),
    );
    all
}

/// A table as it is listed.
#[derive(Debug, Default)]
struct Table<'l> {
    /// What the table itself says, such as `flags dormant`.
    alone: Vec<&'l str>,
    /// What it consists of, such as `chain inbound`, with its lines.
    blocks: Vec<(&'l str, Vec<String>)>,
}

impl<'l> Table<'l> {
    fn read(listed: &'l str) -> Self {
        let mut table = Self::default();
        let opening = format!("table inet {TABLE} {{");
        for line in listed.lines() {
            let depth = line.bytes().take_while(|byte| *byte == b'\t').count();
            let text = line.trim();
            match (depth, table.blocks.last_mut()) {
                (0, _) if text == opening => {}
                (0 | 1, _) if text.is_empty() || text == "}" => {}
                (2.., Some((_, lines))) => lines.push(numbered(text)),
                (1, _) if text.ends_with(" {") => {
                    table.blocks.push((text.trim_end_matches(" {"), Vec::new()));
                }
                _ => table.alone.push(text),
            }
        }
        table
    }
}

/// A line with the priority as a number, which some versions list by name.
fn numbered(line: &str) -> String {
    match line.starts_with("type ") {
        true => line.replacen(" priority dstnat;", " priority -100;", 1),
        false => line.to_owned(),
    }
}

/// The rules of iptables for one family, as `-S` writes them.
#[derive(Debug)]
pub(super) struct Chains(pub(super) String);

impl Chains {
    /// The rules that jump to our chains from where those hang, however many there are.
    pub(super) fn jumps(&self) -> Vec<&str> {
        let of = |(hook, chain)| {
            let jump = format!(" -j {chain}");
            self.rules(hook).filter(move |rule| rule.ends_with(&jump))
        };
        CHAINS.into_iter().flat_map(of).collect()
    }

    /// Those of our chains that are there.
    pub(super) fn ours(&self) -> impl Iterator<Item = &'static str> {
        let is_there = |chain: &&str| self.0.lines().any(|line| line == format!("-N {chain}"));
        CHAINS.into_iter().map(|(_, chain)| chain).filter(is_there)
    }

    pub(super) fn has_ours(&self) -> bool {
        self.ours().next().is_some() || !self.jumps().is_empty()
    }

    /// How our chains and what jumps to them differ from these rules, a line each.
    pub(super) fn differences(&self, wanted: &[String]) -> Vec<String> {
        let mut all = Vec::new();
        for (hook, chain) in CHAINS {
            let jump = format!("-A {hook} -p tcp -j {chain}");
            // Whatever comes first may decide, and our chain is not asked.
            let before: Vec<&str> = self.rules(hook).take_while(|rule| *rule != jump).collect();
            if before.len() == self.rules(hook).count() {
                all.push(format!("{hook} does not jump to {chain}"));
            } else {
                let told = |rule| format!("before {hook} jumps to {chain}: {rule}");
                all.extend(before.into_iter().map(told));
            }
        }
        let found: Vec<String> = CHAINS
            .iter()
            .flat_map(|(_, chain)| self.rules(chain).map(str::to_owned))
            .collect();
        all.extend(differences("", wanted, &found));
        all
    }

    fn rules(&self, chain: &str) -> impl Iterator<Item = &str> + use<'_> {
        let of_chain = format!("-A {chain} ");
        self.0.lines().filter(move |line| line.starts_with(&of_chain))
    }
}

fn differences(of: &str, wanted: &[String], found: &[String]) -> Vec<String> {
    let missing = wanted.iter().filter(|rule| !found.contains(rule));
    let strange = found.iter().filter(|rule| !wanted.contains(rule));
    let mut all: Vec<String> = missing
        .map(|rule| format!("{of}missing: {rule}"))
        .chain(strange.map(|rule| format!("{of}unexpected: {rule}")))
        .collect();
    if all.is_empty() && wanted != found {
        all.push(format!(
            "{of}the rules are in another order, or one is there twice"
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Vec<(&'static str, Vec<String>)> {
        let hangs = "type nat hook output priority -100; policy accept;";
        let lines = [hangs, "a return", "redirect to :1"].map(str::to_owned);
        vec![("chain outbound", lines.to_vec())]
    }

    fn listed(chain: &str) -> String {
        format!("table inet jitney {{\n{chain}\t}}\n}}\n")
    }

    const RIGHT: &str = "\tchain outbound {\n\t\ttype nat hook output priority dstnat; policy accept;\n\
                         \t\ta return\n\t\tredirect to :1\n";

    #[test]
    fn any_line_of_a_table_counts() {
        assert_eq!(table_differences(&wanted(), &listed(RIGHT)), [""; 0]);
        let dormant = format!("\tflags dormant\n\n{RIGHT}\t}}\n\n\tchain x {{\n");
        for (chain, told) in [
            (dormant, &["unexpected: chain x", "unexpected: flags dormant"][..]),
            (String::new(), &["missing: chain outbound"]),
            (
                RIGHT.replace("\t\ta return\n", "\t\ta return\n\t\ta return\n"),
                &["chain outbound: the rules are in another order, or one is there twice"],
            ),
            (
                RIGHT.replace("a return", "jump x"),
                &[
                    "chain outbound: missing: a return",
                    "chain outbound: unexpected: jump x",
                ],
            ),
        ] {
            assert_eq!(table_differences(&wanted(), &listed(&chain)), told, "{chain}");
        }
    }

    #[test]
    fn whatever_comes_before_our_jump_is_told() {
        let jumps = "-A PREROUTING -p tcp -j JITNEY_INBOUND\n-A OUTPUT -m x -j ACCEPT\n\
                     -A OUTPUT -p tcp -j JITNEY_OUTBOUND\n-A OUTPUT -j OTHER\n";
        assert_eq!(
            Chains(jumps.to_owned()).differences(&[]),
            ["before OUTPUT jumps to JITNEY_OUTBOUND: -A OUTPUT -m x -j ACCEPT"]
        );
        assert_eq!(
            Chains(String::new()).differences(&[]),
            [
                "PREROUTING does not jump to JITNEY_INBOUND",
                "OUTPUT does not jump to JITNEY_OUTBOUND"
            ]
        );
    }
}
