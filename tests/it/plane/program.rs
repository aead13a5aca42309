//! The command line: what is printed, what is kept, and with which status it ends.

use std::fs;

use nix::sys::signal::Signal;
use tonic::Code;

use super::client::Identity;
use super::process::{Place, Plane, SHOP, TRUST_DOMAIN, ended};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_roots_and_what_is_known_of_tokens() {
    let plane = Plane::start(&[]);
    let state = plane.folder.state().display().to_string();
    let arguments = [
        "token",
        "shop/users",
        "--state",
        &state,
        "--trust-domain",
        TRUST_DOMAIN,
    ];
    let token = text(&ended(&arguments).stdout);
    let token = token.trim();
    let one = Identity::new();
    one.sign(&plane, token).await.unwrap();
    let roots = plane.folder.roots();
    let (_, folder) = plane.end(Signal::SIGKILL);
    let plane = Plane::start_in(folder, &[]);
    assert_eq!(plane.folder.roots(), roots);
    let printed = ended(&[
        "trust",
        "roots",
        "--state",
        &state,
        "--trust-domain",
        TRUST_DOMAIN,
    ]);
    assert_eq!(text(&printed.stdout), roots);
    let refused = Identity::new().sign(&plane, token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("used before"), "{refused}");
    one.sign(&plane, token).await.unwrap();
    let (status, _) = plane.end(Signal::SIGINT);
    assert!(status.success(), "{status}");
}

#[test]
fn faults_of_the_source_at_start_are_told_by_place() {
    let place = Place::new();
    place.write(
        &SHOP
            .replace("10.0.0.1:80", "nowhere")
            .replace("maxSize: 8", "maxSize: many"),
    );
    let source = format!("files:{}", place.files().display());
    let state = place.state().display().to_string();
    let run = ended(&[
        "run",
        "--source",
        &source,
        "--state",
        &state,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    assert_eq!(run.status.code(), Some(1));
    let told = text(&run.stderr);
    assert!(
        told.contains("shop.yaml:4:") && told.contains("shop.yaml:18:"),
        "{told}"
    );
    assert!(
        !fs::exists(&state).unwrap(),
        "nothing is made for what does not start"
    );
    let checked = ended(&["check", &place.files().display().to_string()]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(text(&checked.stderr), told);
}

#[test]
fn check_says_when_there_is_nothing_to_say() {
    let place = Place::new();
    let checked = ended(&["check", &place.files().display().to_string()]);
    assert_eq!(text(&checked.stdout), "4 documents in 1 file: no faults\n");
    assert!(checked.status.success());
}

#[test]
fn what_is_for_nobody_is_a_warning_and_no_fault() {
    let place = Place::new();
    place.write(&format!(
        "{SHOP}---\nkind: Runtime\nmetadata: {{name: usres, namespace: shop}}\n"
    ));
    let checked = ended(&["check", &place.files().display().to_string()]);
    let told = text(&checked.stderr);
    assert!(
        told.contains("shop.yaml:30:18: warning: metadata.name: for nobody: ")
            && told.ends_with("knows the workload shop/usres (did you mean shop/users?)\n"),
        "{told}"
    );
    assert!(checked.status.success());
}

#[test]
fn a_token_says_whose_it_is_for_and_of_which_mesh() {
    let plane = Plane::start(&[]);
    let state = plane.folder.state().display().to_string();
    let token = |workload, state: &str| {
        let output = ended(&[
            "token",
            workload,
            "--state",
            state,
            "--trust-domain",
            TRUST_DOMAIN,
        ]);
        assert!(output.stdout.starts_with(b"v1."), "{output:?}");
        text(&output.stderr)
    };
    assert_eq!(token("shop/users", &state), "");
    assert_eq!(
        token("shop/usres", &state),
        "warning: no document of the control plane knows the workload shop/usres (did you mean shop/users?)\n"
    );
    let elsewhere = plane.folder.files().join("elsewhere").display().to_string();
    let told = token("shop/anybody", &elsewhere);
    assert!(
        told.starts_with(&format!("made a new authority in {elsewhere}: ")),
        "{told}"
    );
    assert_eq!(token("shop/anybody", &elsewhere), "", "it is there now");
    let other = ended(&[
        "token",
        "shop/users",
        "--state",
        &state,
        "--trust-domain",
        "other.local",
    ]);
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(text(&other.stdout), "");
    let why = format!("of trust domain {TRUST_DOMAIN:?}, expected \"other.local\"");
    assert!(text(&other.stderr).contains(&why), "{other:?}");
}

#[test]
fn a_source_that_is_not_there_is_told_by_its_flag() {
    let run = ended(&["run", "--source", "files:/nowhere/at/all"]);
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(
        text(&run.stderr),
        "--source files:/nowhere/at/all: there is no such file or folder\n"
    );
}

#[test]
fn nobody_is_the_control_plane_but_itself() {
    let place = Place::new();
    let state = place.state().display().to_string();
    let refused = ended(&["token", "jitney/control-plane", "--state", &state]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("the control plane itself"));
}

#[test]
fn a_state_of_another_mesh_is_not_taken() {
    let plane = Plane::start(&[]);
    let state = plane.folder.state().display().to_string();
    let refused = ended(&[
        "trust",
        "roots",
        "--state",
        &state,
        "--trust-domain",
        "example.com",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let told = text(&refused.stderr);
    assert!(
        told.contains("\"example.org\"") && told.contains("\"example.com\""),
        "{told}"
    );
}

#[test]
fn a_state_whose_authority_is_gone_is_left_as_it_is_until_what_is_left_of_it_is_removed() {
    let (_, place) = Plane::start(&[]).end(Signal::SIGKILL);
    let (state, files) = (place.state(), format!("files:{}", place.files().display()));
    let roots = place.roots();
    fs::remove_file(state.join("authority.json")).unwrap();
    let shown = state.display().to_string();
    let with =
        |command: &[&str]| ended(&[command, &["--state", &shown, "--trust-domain", TRUST_DOMAIN]].concat());
    for command in [
        &[
            "run",
            "--source",
            &files,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ][..],
        &["trust", "roots"],
        &["token", "shop/users"],
    ] {
        let refused = with(command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let told = text(&refused.stderr);
        assert!(
            told.contains("authority.json is gone, and roots.pem and replicas/ beside it are of"),
            "{told}"
        );
        assert!(told.ends_with("remove roots.pem and replicas/\n"), "{told}");
    }
    assert_eq!(place.roots(), roots, "it is what sidecars trust");

    fs::remove_file(state.join("roots.pem")).unwrap();
    fs::remove_dir_all(state.join("replicas")).unwrap();
    assert!(with(&["trust", "roots"]).status.success());
    assert_ne!(place.roots(), roots);
}
