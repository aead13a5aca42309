//! The command line as it is written.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("jitney-control-plane").chain(line.split_whitespace()))
}

#[track_caller]
fn run(line: &str) -> RunArgs {
    let Command::Run(args) = parse(line).unwrap().command else {
        panic!("{line}");
    };
    *args
}

#[track_caller]
fn refused(line: &str, expected: &str) {
    let told = parse(line).unwrap_err().to_string();
    assert!(told.contains(expected), "{told}");
}

#[test]
fn defaults_are_for_one_machine() {
    let args = run("run --source files:policies");
    assert_eq!(args.sources(), Ok(Sources::Files(vec!["policies".into()])));
    assert!(args.listen.ip().is_loopback() && args.admin.ip().is_loopback());
    assert_eq!(args.mesh.trust_domain, "cluster.local");
    assert_eq!(args.stream_age, Duration::from_secs(1800));
}

#[test]
fn several_sources_may_be_given() {
    let args = run("run --source files:a,files:b --source files:c:d");
    let files = ["a", "b", "c:d"].map(PathBuf::from);
    assert_eq!(args.sources(), Ok(Sources::Files(files.into())));
    let cluster = |line| run(line).sources();
    assert_eq!(
        cluster("run --source kubernetes"),
        Ok(Sources::Kubernetes(vec![]))
    );
    assert_eq!(
        cluster("run --source kubernetes:shop,kubernetes:bank"),
        Ok(Sources::Kubernetes(vec!["shop".to_owned(), "bank".to_owned()]))
    );
    for (line, fault) in [
        ("run --source kubernetes,files:a", SourcesError::Mixed),
        ("run --source kubernetes:shop,files:a", SourcesError::Mixed),
        ("run --source kubernetes,kubernetes:shop", SourcesError::Whole),
    ] {
        assert_eq!(cluster(line), Err(fault), "{line}");
    }
}

#[test]
fn what_cannot_be_is_told() {
    refused("run", "--source");
    refused("run --source kubernetes:", "expected files:PATH");
    refused("run --source policies", "expected files:PATH");
    refused("run --source files:", "expected files:PATH");
    refused("run --source files:a --listen localhost", "expected ip:port");
    refused("run --source files:a --trust-domain Example", "lower-case");
    refused("run --source files:a --stream-age 0s", "more than nothing");
    refused("token users", "expected NAMESPACE/ACCOUNT");
    refused("token shop/us%65rs", "SPIFFE ID");
    refused("token shop/users --lifetime 1000h", "at most 168h");
    refused("check", "PATH");
    refused("check a --source kubernetes", "cannot be used with");
    refused("check --source policies", "expected files:PATH");
}

#[test]
fn every_flag_has_a_variable() {
    use clap::CommandFactory as _;
    let program = Cli::command();
    for command in program.get_subcommands() {
        let flags = command.get_arguments().filter(|flag| flag.get_long().is_some());
        for flag in flags.filter(|flag| flag.get_id() != "help") {
            let variable = flag.get_env().unwrap_or_default().to_string_lossy().into_owned();
            assert!(variable.starts_with("JITNEY_"), "{flag}");
        }
    }
}
