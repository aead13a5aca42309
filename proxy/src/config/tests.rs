//! Which command lines are taken, and which are not.

use super::*;

fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
    let words = std::iter::once("jitney-proxy").chain(line.split_whitespace());
    Cli::try_parse_from(words)
        .map(|cli| cli.command)
        .map_err(|error| error.kind())
}

fn run(line: &str) -> RunArgs {
    match parse(line) {
        Ok(Command::Run(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_run_has_a_variable() {
    use clap::CommandFactory;
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in run
        .get_arguments()
        .filter(|flag| !["help", "version"].contains(&flag.get_id().as_str()))
    {
        let name = format!("JITNEY_{}", flag.get_id().as_str().to_uppercase());
        assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
    }
}

#[test]
fn one_upstream_with_policies() {
    let args = run(
        "run --listen 127.0.0.1:8080 --upstream localhost:9000 10.0.0.1:9000 --upstream [::1]:1 \
                    --admin 127.0.0.1:9901 --policy a.yaml --policy b --drain-time 1m30s --threads 2",
    );
    assert_eq!(args.upstream.len(), 3);
    assert_eq!(args.paths(), ["a.yaml", "b"].map(PathBuf::from));
    assert_eq!(args.drain_time, Duration::from_secs(90));
    assert!(args.level().to_string() == "info");
    assert_eq!(run("run --config c.yaml").paths(), [PathBuf::from("c.yaml")]);
}

#[test]
fn a_control_plane_says_everything_but_what_the_flags_say() {
    let control = |line: &str| run(line).control().expect("a control plane");
    let bare = control("run --control-plane https://cp.jitney:15010,https://[::1]:15010");
    assert_eq!(bare.urls.len(), 2);
    assert_eq!(bare.urls[1].to_string(), "https://[::1]:15010");
    assert_eq!(bare.limits, OwnLimits::default());
    assert!(!bare.node.is_empty());
    let line = "run --control-plane https://localhost:1 --listen 127.0.0.1:8080 --upstream 127.0.0.1:9000 \
                --trust-bundle r.pem --token-file t --snapshot s --max-queue-bytes 1Mi --max-batch-size 16";
    let all = control(line);
    assert!(all.node.ends_with("/127.0.0.1:8080"), "{}", all.node);
    assert_eq!((all.limits.max_queue_bytes, all.limits.max_size), (1 << 20, 16));
    assert!(run("run --config c.yaml").control().is_none());
}

#[test]
fn what_makes_no_sense_together_is_a_usage_error() {
    for line in [
        "",
        "run",
        "run --listen 127.0.0.1:1",
        "run --upstream 127.0.0.1:1",
        "run --config c.yaml --listen 127.0.0.1:1",
        "run --config c.yaml --upstream 127.0.0.1:1",
        "run --config c.yaml --policy p.yaml",
        "run --control-plane http://cp:15010",
        "run --control-plane https://cp:15010/path",
        "run --control-plane https://cp:15010 --config c.yaml",
        "run --control-plane https://cp:15010 --policy p.yaml",
        "run --control-plane https://cp:15010 --listen 127.0.0.1:1",
        "run --config c.yaml --snapshot s",
        "run --listen nowhere --upstream 127.0.0.1:1",
        "run --listen 127.0.0.1:1 --upstream http://127.0.0.1:1/",
        "run --config c.yaml --threads 0",
        "run --config c.yaml --drain-time soon",
        "run --config c.yaml --log-level verbose",
        "check",
        "explain GET /",
        "explain --policy p.yaml GET",
        "explain --policy p.yaml --admin 127.0.0.1:15020 GET /",
        "explain --policy p.yaml --backend users GET /",
        "explain --admin http://127.0.0.1:15020/ GET /",
        "explain --policy p.yaml GET / -H broken",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn a_line_that_lacks_something_is_told_what_goes_together() {
    for line in ["run", "run --listen 127.0.0.1:1", "run --upstream 127.0.0.1:1"] {
        let words = std::iter::once("jitney-proxy").chain(line.split_whitespace());
        let told = Cli::try_parse_from(words).map(drop).unwrap_err().to_string();
        for needed in [
            "jitney-proxy run --listen <ADDR>... --upstream <ADDR>...",
            "jitney-proxy run --config <PATH>...",
            "jitney-proxy run --control-plane <URL>...",
        ] {
            assert!(told.contains(needed), "{line}: {told}");
        }
    }
}

#[test]
fn call_to_explain() {
    let line = "explain --policy p.yaml POST http://users/x?a=1 -H a:1 -H b:2:3 -d {}";
    let Ok(Command::Explain(args)) = parse(line) else {
        panic!("{line}")
    };
    assert_eq!(args.url.path_and_query().unwrap(), "/x?a=1");
    assert_eq!(args.headers[1].1, "2:3");
    assert_eq!(args.body.as_deref(), Some("{}"));
}
