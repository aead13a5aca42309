//! What is redirected, and how that is written for each tool. Rules are written as the tools list them,
//! so that what is in place can be compared with what should be.

use std::fmt::Write as _;

use super::Subnet;
use jitney_api::Ports;

/// What is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Users whose connections are never redirected: the sidecar's, or it would call itself for ever.
    pub users: Vec<u32>,
    /// Where connections that come in go.
    pub inbound_port: u16,
    /// Where connections that leave go.
    pub outbound_port: u16,
    /// Ports of this namespace that are reached directly.
    pub skip_inbound: Ports,
    /// Ports elsewhere that are reached directly.
    pub skip_outbound: Ports,
    /// Networks that are reached directly.
    pub skip_subnets: Vec<Subnet>,
}

/// A version of IP, where a tool has one table for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The name of the table, and the beginning of the names of chains.
pub(super) const TABLE: &str = "jitney";
/// The chains of iptables: where they hang, and what they are called.
pub(super) const CHAINS: [(&str, &str); 2] =
    [("PREROUTING", "JITNEY_INBOUND"), ("OUTPUT", "JITNEY_OUTBOUND")];
/// The most that `multiport` takes, where a range counts twice.
const MULTIPORT: usize = 7;

impl Rules {
    /// A script for `nft -f`. It replaces the table in one step.
    pub(super) fn nftables(&self) -> String {
        let mut script = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
        for (chain, lines) in self.nft_chains() {
            let _ = writeln!(script, "\t{chain} {{");
            for line in lines {
                let _ = writeln!(script, "\t\t{line}");
            }
            script.push_str("\t}\n");
        }
        script.push_str("}\n");
        script
    }

    /// Each chain of the table, such as `chain inbound`, and its lines: where it hangs, and its rules.
    pub(super) fn nft_chains(&self) -> [(&'static str, Vec<String>); 2] {
        [
            ("chain inbound", "prerouting", self.nft_inbound()),
            ("chain outbound", "output", self.nft_outbound()),
        ]
        .map(|(chain, hook, rules)| {
            // Numbers: not every version knows the priorities by name.
            let hangs = format!("type nat hook {hook} priority -100; policy accept;");
            (chain, [hangs].into_iter().chain(rules).collect())
        })
    }

    fn nft_inbound(&self) -> Vec<String> {
        let mut rules = vec!["iifname \"lo\" return".to_owned()];
        rules.extend(nft_ports(&self.skip_inbound));
        let to = self.inbound_port;
        rules.push(format!("meta l4proto tcp fib daddr type local redirect to :{to}"));
        rules
    }

    fn nft_outbound(&self) -> Vec<String> {
        let mut rules: Vec<String> = self
            .users
            .iter()
            .map(|user| format!("meta skuid {user} return"))
            .collect();
        rules.push("fib daddr type local return".to_owned());
        rules.extend(nft_ports(&self.skip_outbound));
        for subnet in &self.skip_subnets {
            let family = if subnet.is_v4() { "ip" } else { "ip6" };
            rules.push(format!("{family} daddr {subnet} return"));
        }
        rules.push(format!("meta l4proto tcp redirect to :{}", self.outbound_port));
        rules
    }

    /// A script for `iptables-restore --noflush`: the chains, and what jumps to them in place of `jumps`,
    /// which are rules as `iptables -S` writes them. It is done in one step.
    pub(super) fn iptables(&self, family: Family, jumps: &[&str]) -> String {
        let mut script = "*nat\n".to_owned();
        for (_, chain) in CHAINS {
            let _ = writeln!(script, ":{chain} - [0:0]");
        }
        for rule in self.iptables_rules(family) {
            let _ = writeln!(script, "{rule}");
        }
        script.push_str(&deleted(jumps));
        for (hook, chain) in CHAINS {
            let _ = writeln!(script, "-I {hook} 1 -p tcp -j {chain}");
        }
        script.push_str("COMMIT\n");
        script
    }

    /// Every rule of the chains as `iptables -S` writes it.
    pub(super) fn iptables_rules(&self, family: Family) -> Vec<String> {
        let [(_, inbound), (_, outbound)] = CHAINS;
        let mut rules = vec![format!("-A {inbound} -i lo -j RETURN")];
        rules.extend(multiport(inbound, &self.skip_inbound));
        rules.push(format!(
            "-A {inbound} -p tcp -m addrtype --dst-type LOCAL -j REDIRECT --to-ports {}",
            self.inbound_port
        ));
        for user in &self.users {
            rules.push(format!("-A {outbound} -m owner --uid-owner {user} -j RETURN"));
        }
        rules.push(format!("-A {outbound} -m addrtype --dst-type LOCAL -j RETURN"));
        rules.extend(multiport(outbound, &self.skip_outbound));
        let whole = if family == Family::V4 { 32 } else { 128 };
        for subnet in &self.skip_subnets {
            if subnet.is_v4() == (family == Family::V4) {
                let subnet = subnet.to_string();
                let bits = if subnet.contains('/') {
                    String::new()
                } else {
                    format!("/{whole}")
                };
                rules.push(format!("-A {outbound} -d {subnet}{bits} -j RETURN"));
            }
        }
        let to = self.outbound_port;
        rules.push(format!("-A {outbound} -p tcp -j REDIRECT --to-ports {to}"));
        rules
    }
}

/// What deletes these rules of iptables, a line each.
pub(super) fn deleted(rules: &[&str]) -> String {
    rules
        .iter()
        .map(|rule| rule.replacen("-A ", "-D ", 1) + "\n")
        .collect()
}

fn nft_ports(ports: &Ports) -> Option<String> {
    let written: Vec<String> = ports.written("-").collect();
    match &written[..] {
        [] => None,
        [one] => Some(format!("tcp dport {one} return")),
        several => Some(format!("tcp dport {{ {} }} return", several.join(", "))),
    }
}

fn multiport(chain: &str, ports: &Ports) -> Vec<String> {
    let written: Vec<String> = ports.written(":").collect();
    written
        .chunks(MULTIPORT)
        .map(|some| {
            format!(
                "-A {chain} -p tcp -m multiport --dports {} -j RETURN",
                some.join(",")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            users: vec![1337],
            inbound_port: 15006,
            outbound_port: 15001,
            skip_inbound: "22,5000-5010".parse().unwrap(),
            skip_outbound: "4317".parse().unwrap(),
            skip_subnets: vec!["10.9.0.0/16".parse().unwrap(), "fd09::1".parse().unwrap()],
        }
    }

    #[test]
    fn sidecars_own_connections_come_before_anything_else() {
        let outbound = rules().nft_outbound();
        assert_eq!(outbound[0], "meta skuid 1337 return");
        assert_eq!(outbound.last().unwrap(), "meta l4proto tcp redirect to :15001");
        assert_eq!(
            rules().nft_inbound(),
            [
                "iifname \"lo\" return",
                "tcp dport { 22, 5000-5010 } return",
                "meta l4proto tcp fib daddr type local redirect to :15006"
            ]
        );
    }

    #[test]
    fn each_family_of_iptables_has_its_own_subnets() {
        let of = |family| rules().iptables_rules(family).join("\n");
        let (v4, v6) = (of(Family::V4), of(Family::V6));
        assert!(
            v4.contains("-d 10.9.0.0/16 -j RETURN") && !v4.contains("fd09"),
            "{v4}"
        );
        assert!(
            v6.contains("-d fd09::1/128 -j RETURN") && !v6.contains("10.9"),
            "{v6}"
        );
    }

    #[test]
    fn no_rule_of_multiport_has_more_than_it_takes() {
        let ports: Vec<String> = (0..20)
            .map(|n| format!("{}-{}", 1000 + n * 10, 1005 + n * 10))
            .collect();
        let ports: Ports = ports.join(",").parse().unwrap();
        let rules = multiport("X", &ports);
        assert_eq!(rules.len(), 3);
        assert!(rules.iter().all(|rule| rule.matches(':').count() <= MULTIPORT));
    }
}
