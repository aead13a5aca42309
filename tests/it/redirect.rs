//! The rules that hand connections to the sidecar, written by the real tools into a real kernel.

use std::process::{Command, Output};

use jitney_tests::in_namespace;
use jitney_tests::programs::program;

/// Runs these lines one after another in one network namespace, and gives what they printed, each
/// followed by its status.
#[track_caller]
fn run(lines: &[&str]) -> String {
    let proxy = program("jitney-proxy");
    let mut script = "ip link set lo up\n".to_owned();
    for line in lines {
        script += &line.replace("redirect", &format!("{} redirect", proxy.display()));
        script += "\necho \"= $?\"\n";
    }
    let output = in_namespace("sh").args(["-c", &script]).output().unwrap();
    told(&output)
}

fn told(output: &Output) -> String {
    let (said, complained) = (&output.stdout, &output.stderr);
    [said, complained]
        .map(|text| String::from_utf8_lossy(text))
        .concat()
}

fn statuses(told: &str) -> Vec<&str> {
    told.lines().filter_map(|line| line.strip_prefix("= ")).collect()
}

const ALL: &str = "--user 1337,1338 --skip-inbound-ports 22,5000-5010 --skip-outbound-ports 4317 \
                   --skip-subnets 10.9.0.0/16,192.0.2.1,fd09::1";

#[track_caller]
fn check(tool: &str) {
    let told = run(&[
        &format!("redirect check {ALL} --tool {tool}"),
        &format!("redirect install {ALL} --tool {tool}"),
        &format!("redirect check {ALL} --tool {tool}"),
        // Again, and otherwise: nothing is left of what was.
        &format!("redirect install --user 7 --tool {tool}"),
        &format!("redirect check --user 7 --tool {tool}"),
        &format!("redirect check {ALL} --tool {tool}"),
        "redirect remove",
        "redirect remove",
        "nft list ruleset; iptables-save; ip6tables-save",
    ]);
    assert_eq!(
        statuses(&told),
        ["1", "0", "0", "0", "0", "1", "0", "0", "0"],
        "{told}"
    );
    for part in [
        "the rules are not in place",
        &format!("installed with {tool}: outbound to port 15001, inbound to port 15006"),
        "the rules are in place",
        "missing: ",
        "4317",
        &format!("removed with {tool}"),
        "there were no rules",
    ] {
        assert!(told.contains(part), "{part:?} is missing: {told}");
    }
    let (_, left) = told.split_once("there were no rules").unwrap();
    assert!(!left.to_lowercase().contains("jitney"), "{left}");
}

#[test]
fn nftables_rules_are_written_checked_and_removed() {
    check("nftables");
}

#[test]
fn iptables_rules_are_written_checked_and_removed() {
    check("iptables");
}

/// Installs the rules, does something to them, and gives what `check` says of that; then installs them
/// again, which mends it.
#[track_caller]
fn told_after(tool: &str, edit: &str) -> String {
    let told = run(&[
        &format!("redirect install {ALL} --tool {tool} >/dev/null"),
        edit,
        &format!("redirect check {ALL} --tool {tool}"),
        &format!("redirect install {ALL} --tool {tool} >/dev/null"),
        &format!("redirect check {ALL} --tool {tool} >/dev/null"),
    ]);
    assert_eq!(statuses(&told), ["0", "0", "1", "0", "0"], "{edit}: {told}");
    told
}

#[test]
fn whatever_keeps_nftables_from_redirecting_is_told() {
    let unhooked = format!("redirect install {ALL} --print | sed '/type nat hook/d' | nft -f -");
    let outbound = "inet jitney outbound";
    for (edit, differs) in [
        (
            unhooked,
            &[
                "chain inbound: missing: type nat",
                "chain outbound: missing: type nat",
            ][..],
        ),
        (
            "nft add table inet jitney '{ flags dormant; }'".to_owned(),
            &["unexpected: flags dormant"],
        ),
        (
            format!("nft insert rule {outbound} tcp dport 80 accept"),
            &["chain outbound: unexpected: tcp dport 80 accept"],
        ),
        (
            "nft insert rule inet jitney inbound tcp dport 80 drop".to_owned(),
            &["chain inbound: unexpected: tcp dport 80 drop"],
        ),
        (
            format!("nft add chain inet jitney x '{{ accept; }}'; nft insert rule {outbound} jump x"),
            &["chain outbound: unexpected: jump x", "unexpected: chain x"],
        ),
        (
            // What the other chain has already.
            format!("nft insert rule {outbound} iifname lo return"),
            &["chain outbound: unexpected: "],
        ),
    ] {
        let told = told_after("nftables", &edit);
        for part in differs {
            assert!(told.contains(part), "{edit}: {part:?} is missing: {told}");
        }
    }
}

#[test]
fn whatever_iptables_asks_before_our_chains_is_told() {
    for (edit, differs) in [
        (
            "iptables -t nat -I OUTPUT 1 -p tcp --dport 80 -j ACCEPT",
            "iptables: before OUTPUT jumps to JITNEY_OUTBOUND: -A OUTPUT -p tcp",
        ),
        (
            "ip6tables -t nat -I PREROUTING 1 -p udp -j ACCEPT",
            "ip6tables: before PREROUTING jumps to JITNEY_INBOUND: -A PREROUTING -p udp -j ACCEPT",
        ),
        (
            "iptables -t nat -F OUTPUT",
            "iptables: OUTPUT does not jump to JITNEY_OUTBOUND",
        ),
        (
            "iptables -t nat -I JITNEY_OUTBOUND 1 -p tcp -j ACCEPT",
            "iptables: unexpected: -A JITNEY_OUTBOUND -p tcp -j ACCEPT",
        ),
    ] {
        let told = told_after("iptables", edit);
        assert!(told.contains(differs), "{edit}: {differs:?} is missing: {told}");
    }
}

const SAVED: &str = "nft list tables; iptables-save; ip6tables-save";

#[test]
fn rules_of_one_tool_take_the_place_of_those_of_the_other() {
    for (old, new, left) in [
        ("iptables", "nftables", "table inet jitney"),
        ("nftables", "iptables", "-A OUTPUT -p tcp -j JITNEY_OUTBOUND"),
    ] {
        let told = run(&[
            &format!("redirect install --user 7 --outbound-port 15555 --tool {old}"),
            &format!("redirect install --user 7 --tool {new}"),
            &format!("redirect check --user 7 --tool {old}"),
            &format!("redirect check --user 7 --tool {new}"),
            // Whichever tool has them.
            "redirect check --user 7",
            SAVED,
        ]);
        assert_eq!(statuses(&told), ["0", "0", "1", "0", "0", "0"], "{told}");
        let way_out =
            format!("not in place ({old}):\n{old} has no rules, and {new} has: --tool {new} checks those");
        assert!(told.contains(&way_out), "{told}");
        assert!(told.contains(&format!("removed those that {old} had")), "{told}");
        let (_, saved) = told.split_once("the rules are in place").unwrap();
        assert!(saved.contains(left), "{left:?} is missing: {saved}");
        assert_eq!(saved.matches("the rules are in place").count(), 1, "{told}");
        let is_of_new = saved.contains("table inet jitney") == (new == "nftables");
        assert!(
            is_of_new && saved.contains("JITNEY") == (new == "iptables"),
            "{saved}"
        );
    }
}

#[test]
fn rules_of_both_tools_are_told() {
    let told = run(&[
        "redirect install --user 7 --tool iptables",
        "redirect install --user 7 --print | nft -f -",
        "redirect check --user 7 --tool nftables",
        "redirect check --user 7 --tool iptables",
        "redirect remove",
        SAVED,
    ]);
    assert_eq!(statuses(&told), ["0", "0", "1", "1", "0", "0"], "{told}");
    for part in [
        "\niptables has rules as well",
        "\nnftables has rules as well",
        "removed with nftables and iptables",
    ] {
        assert!(told.contains(part), "{part:?} is missing: {told}");
    }
    let (_, left) = told.split_once("removed with").unwrap();
    assert!(!left.to_lowercase().contains("jitney"), "{left}");
}

#[test]
fn what_a_missing_tool_may_have_is_not_said_to_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display();
    let link = format!(
        "for one in iptables iptables-restore ip6tables ip6tables-restore; \
         do ln -s $(command -v $one) {folder}; done"
    );
    let told = run(&[
        "redirect install --user 7 --tool nftables",
        "PATH=/nowhere redirect remove",
        &link,
        &format!("PATH={folder} redirect install --user 7"),
        &format!("PATH={folder} redirect remove"),
        &format!("PATH={folder} redirect remove"),
        "redirect remove",
    ]);
    assert_eq!(statuses(&told), ["0", "1", "0", "0", "0", "0", "0"], "{told}");
    let unknown = "whether there are rules of nftables cannot be told: nft cannot be found in PATH";
    for part in [
        "neither nft nor iptables can be found in PATH",
        &format!("removed with iptables\n{unknown}"),
        &format!("there were no rules of iptables\n{unknown}"),
        "removed with nftables\n",
    ] {
        assert!(told.contains(part), "{part:?} is missing: {told}");
    }
}

#[test]
fn a_tool_of_no_use_is_no_reason_to_have_no_rules() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display();
    let told = run(&[
        &format!(
            "printf '#!/bin/sh\\necho no such table >&2; exit 3\\n' >{folder}/iptables; chmod +x {folder}/iptables"
        ),
        &format!("PATH={folder}:$PATH redirect install --user 7"),
        &format!("PATH={folder}:$PATH redirect check --user 7"),
        &format!("PATH={folder}:$PATH redirect remove"),
        "nft list tables",
    ]);
    assert_eq!(statuses(&told), ["0", "0", "0", "1", "0"], "{told}");
    let unknown = "whether there are rules of iptables cannot be told: iptables";
    assert_eq!(told.matches(unknown).count(), 2, "{told}");
    assert!(told.contains("removed with nftables"), "{told}");
    assert!(!told.contains("table inet jitney"), "{told}");
}

#[test]
fn what_would_be_written_is_printed_without_any_right() {
    let output = Command::new(program("jitney-proxy"))
        .args(["redirect", "install", "--print", "--user", "1337"])
        .output()
        .unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("meta skuid 1337 return"), "{told}");
}

#[test]
fn users_are_given_by_name_or_number() {
    let output = Command::new(program("jitney-proxy"))
        .args(["redirect", "install", "--print", "--user", "1337,root"])
        .output()
        .unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("meta skuid 1337 return\n\t\tmeta skuid 0 return"),
        "{told}"
    );
}

#[test]
fn bad_flags_are_named() {
    for (flag, value) in [
        ("--user", "nobody-of-that-name"),
        ("--skip-inbound-ports", "22,abc"),
        ("--skip-outbound-ports", "9-8"),
        ("--skip-subnets", "10.0.0.1/8"),
        ("--inbound-port", "0"),
        ("--tool", "ebtables"),
    ] {
        let output = Command::new(program("jitney-proxy"))
            .env("JITNEY_REDIRECT_USER", "7")
            .args(["redirect", "install", flag, value])
            .output()
            .unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(flag) && told.contains(value), "{told}");
    }
}

/// One line for every pod and machine: with IPv6, and without.
#[test]
fn without_ipv6_the_sidecar_takes_connections_of_ipv4() {
    let sidecar = "run --inbound [::]:15006 --outbound 127.0.0.1:15001 [::1]:15001 --admin [::]:15020";
    let script = format!(
        "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
         ip link set lo up
         {} {sidecar} >/dev/null 2>&1 &
         curl --silent --retry 20 --retry-connrefused http://127.0.0.1:15020/ready
         ss --listening --tcp --numeric --no-header | cut --characters 1-80
         kill $!",
        program("jitney-proxy").display(),
    );
    let told = told(&in_namespace("sh").args(["-c", &script]).output().unwrap());
    assert!(told.starts_with("ready\n"), "{told}");
    for listening in ["*:15006", "127.0.0.1:15001", "*:15020"] {
        assert!(told.contains(listening), "{listening}: {told}");
    }
}
