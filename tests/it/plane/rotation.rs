//! The exchange of the root, with sidecars that are connected meanwhile.

use std::net::SocketAddr;

use jitney_api::push::Kind;
use jitney_control_plane::identity::Folder;
use nix::sys::signal::Signal;
use tonic::Code;

use super::client::{Identity, Sidecar};
use super::process::{Place, Plane, TRUST_DOMAIN, ask, ended, until};

#[tokio::test(flavor = "multi_thread")]
async fn each_step_waits_for_the_sidecars() {
    let plane = Plane::start(&[]);
    let (mut users, mut identity) = Sidecar::running(&plane, "users").await;
    let old = plane.folder.roots();
    assert_eq!(
        plane.post("/trust/switch").status,
        409,
        "there is nothing to switch to"
    );
    assert_eq!(plane.post("/trust/add").status, 200);
    assert_eq!(plane.post("/trust/add").status, 409);
    let early = plane.post("/trust/switch");
    assert_eq!(early.status, 409);
    assert!(
        early
            .body
            .starts_with("1 of 1 connected sidecars does not trust root "),
        "{}",
        early.body
    );
    assert!(early.body.contains(" yet: shop/users users-1;"), "{}", early.body);
    users.take_until(Kind::TrustBundle).await.unwrap();
    plane.until("switching is safe", |status| {
        status["trust"]["rotation"]["isSafe"] == true
    });
    assert_eq!(plane.post("/trust/switch").status, 200);
    // Old certificates are good still, and who was away meanwhile knows who answers.
    users.take_until(Kind::TrustBundle).await.unwrap();
    assert!(identity.connect_to(plane.address, &old).await.is_ok());
    let early = plane.post("/trust/drop");
    assert_eq!(early.status, 409);
    assert!(
        early.body.starts_with("1 alive of the certificates that root "),
        "{}",
        early.body
    );
    let expected = "; 1 of 1 connected sidecars uses one; ?force=true does it all the same";
    assert!(early.body.contains(expected), "{}", early.body);
    let renewed = identity.sign(&plane, "").await.unwrap();
    let trust = renewed.trust.unwrap();
    assert_eq!((trust.roots.len(), &trust.issuer), (2, &trust.roots[1]));
    let before = Identity {
        key: rcgen::KeyPair::from_pem(&identity.key.serialize_pem()).unwrap(),
        certificate: identity.certificate.replace(renewed.chain[0].to_vec()),
    };
    users.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    plane.until("dropping is safe", |status| {
        status["trust"]["rotation"]["step"] == "drop" && status["trust"]["rotation"]["isSafe"] == true
    });
    let metrics = plane.get("/metrics").body;
    assert_eq!(metrics.matches("jitney_trust_bundle_sidecars{root=").count(), 2);
    assert!(
        metrics.contains("jitney_rotation_waits_for{step=\"drop\"} 0\n"),
        "{metrics}"
    );
    assert_eq!(plane.post("/trust/drop").status, 200);
    users.take_until(Kind::TrustBundle).await.unwrap();
    assert_eq!(plane.folder.roots().matches("BEGIN").count(), 1);
    let mut refused = Sidecar::new("users-2");
    if let Ok(channel) = before.connect(&plane).await {
        assert!(
            refused.open(channel).await.is_err(),
            "its root is trusted no more"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_drop_ends_the_streams_of_the_old_root() {
    let plane = Plane::start(&[]);
    let (mut users, _identity) = Sidecar::running(&plane, "users").await;
    plane.post("/trust/add");
    assert_eq!(plane.post("/trust/switch?force=true").status, 200);
    assert_eq!(plane.post("/trust/drop?force=true").status, 200);
    let ended = users.end().await;
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_what_another_one_changed() {
    let plane = Plane::start(&[]);
    let replica = plane.replica();
    plane.post("/trust/add");
    let at_once = ask(replica.admin, "POST", "/trust/switch", "").body;
    assert!(!at_once.contains("there is no next root"), "{at_once}");
    let ids = |status: &serde_json::Value| {
        let roots = status["trust"]["roots"].as_array().unwrap();
        roots
            .iter()
            .map(|root| root["id"].to_string())
            .collect::<Vec<_>>()
    };
    let expected = ids(&plane.status());
    assert_eq!(expected.len(), 2);
    until(replica.admin, "the same roots", |status| ids(status) == expected);
    // What it said before it knew the root does not count for that.
    until(replica.admin, "the other one has said that it knows", |status| {
        status["trust"]["rotation"]["isSafe"] == true
    });
    assert_eq!(ask(replica.admin, "POST", "/trust/switch", "").status, 200);
    plane.until("the other way, too", |status| {
        status["trust"]["roots"][0]["state"] == "Old"
    });
    let token = plane.folder.token("users");
    let identity = Identity::new();
    identity.sign(&plane, &token).await.unwrap();
    assert!(
        identity
            .connect_to(replica.address, &plane.folder.roots())
            .await
            .is_ok()
    );
}

fn until_away(admin: SocketAddr) {
    until(
        admin,
        "nobody is connected, and one has a certificate",
        |status| {
            let rotation = &status["trust"]["rotation"];
            let text = rotation["text"].as_str().unwrap();
            rotation["step"] == "drop"
                && rotation["waitsFor"] == 1
                && text.contains("; who is away ")
                && !text.contains("connected sidecar")
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_the_sidecars_of_other_replicas_and_for_those_that_are_away() {
    let plane = Plane::start(&[]);
    let replica = plane.replica();
    let identity = Identity::of(&plane, "users").await;
    let roots = plane.folder.roots();
    let mut users = Sidecar::new("users-1");
    let channel = identity.connect_to(replica.address, &roots).await;
    users.open(channel.unwrap()).await.unwrap();
    users.take_until(Kind::Policy).await.unwrap();
    plane.until("only another workload is missing", |status| {
        let missing = "shop/orders: no sidecar of it is connected that would run a policy";
        status["warnings"] == serde_json::json!([missing])
    });
    plane.post("/trust/add");
    // It is connected elsewhere, and has not acknowledged.
    assert_eq!(
        plane.post("/trust/switch").status,
        409,
        "nothing is known of it yet"
    );
    plane.until("it is waited for", |status| {
        let text = status["trust"]["rotation"]["text"].as_str().unwrap();
        text.ends_with(": shop/users users-1")
    });
    let early = plane.post("/trust/switch");
    assert_eq!(early.status, 409);
    assert!(early.body.contains("1 of 1 connected"), "{}", early.body);
    assert!(early.body.contains(": shop/users users-1;"), "{}", early.body);
    users.take_until(Kind::TrustBundle).await.unwrap();
    plane.until("it is safe", |status| {
        status["trust"]["rotation"]["isSafe"] == true
    });
    assert_eq!(plane.post("/trust/switch").status, 200);
    drop(users);
    until_away(replica.admin);
    let early = plane.post("/trust/drop");
    assert_eq!(early.status, 409);
    let who = " signed: 1 of shop/users; the last one expires at 2";
    assert!(early.body.contains(who), "{}", early.body);
    let metrics = plane.get("/metrics").body;
    let waits = "jitney_rotation_waits_for{step=\"drop\"} 1\n";
    assert!(metrics.contains(waits), "{metrics}");
    // A replica that starts now knows of it as well.
    let third = plane.replica();
    assert_eq!(ask(third.admin, "POST", "/trust/drop", "").status, 409);
    let renewed = Identity::new()
        .renewed(&identity, third.address, &plane.folder.roots())
        .await;
    assert_eq!(
        plane.post("/trust/drop").status,
        409,
        "the answer may have been lost"
    );
    let mut again = Sidecar::new("users-1");
    again.open(renewed.connect(&plane).await.unwrap()).await.unwrap();
    plane.until("the other replica has said that nobody is there", |status| {
        status["trust"]["rotation"]["isSafe"] == true
    });
    assert_eq!(plane.post("/trust/drop").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_gone_is_told_with_the_way_out_until_it_is_back() {
    let plane = Plane::start(&[]);
    let journal = plane.folder.state().join("certificates/journal");
    let kept = std::fs::read(&journal).unwrap();
    std::fs::remove_file(&journal).unwrap();
    plane.until("it is told", |status| {
        let told = |fault: &serde_json::Value| {
            let told = fault.as_str().unwrap();
            told.contains("none can be signed: ") && told.contains("start the control plane again")
        };
        status["state"]["faults"].as_array().unwrap().iter().any(told)
            && status["warnings"].as_array().unwrap().iter().any(told)
    });
    let metrics = plane.get("/metrics").body;
    assert!(metrics.contains("jitney_state_faults 1\n"), "{metrics}");
    assert!(
        metrics.contains("jitney_rotation_waits_for{step=\"add\"} 1\n"),
        "{metrics}"
    );
    let refused = plane.post("/trust/add");
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body.contains("certificates/journal"), "{}", refused.body);
    std::fs::write(&journal, kept).unwrap();
    plane.until("it is over", |status| {
        status["state"]["faults"] == serde_json::json!([])
    });
    assert_eq!(plane.post("/trust/add").status, 200);
}

#[test]
fn who_keeps_the_state_locked_holds_up_one_step_and_nothing_else() {
    let plane = Plane::start(&[]);
    let lock = Folder::open(&plane.folder.state()).unwrap().lock().unwrap();
    let told = std::thread::scope(|scope| {
        let waits = scope.spawn(|| plane.post("/trust/add"));
        for page in ["/live", "/status", "/metrics"] {
            assert_eq!(plane.get(page).status, 200);
        }
        assert!(!waits.is_finished(), "it waits for two seconds");
        waits.join().unwrap()
    });
    assert_eq!(told.status, 500);
    let file = plane.folder.state().join("lock").display().to_string();
    assert!(
        told.body.contains(&file) && told.body.contains("held it for 2 s"),
        "{}",
        told.body
    );
    drop(lock);
    assert_eq!(plane.post("/trust/add").status, 200);
}

#[test]
fn a_root_that_was_made_before_the_control_plane_ran_is_waited_for_no_longer_than_others() {
    let place = Place::new();
    let state = place.state().display().to_string();
    let made = ended(&[
        "trust",
        "roots",
        "--state",
        &state,
        "--trust-domain",
        TRUST_DOMAIN,
    ]);
    assert!(made.stdout.starts_with(b"-----BEGIN"), "{made:?}");
    let plane = Plane::start_in(place, &[]);
    for step in ["add", "switch", "drop"] {
        let answer = plane.post(&format!("/trust/{step}"));
        assert_eq!(answer.status, 200, "{step}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_control_plane_that_ended_in_order() {
    let plane = Plane::start(&[]);
    let (mut users, identity) = Sidecar::running(&plane, "users").await;
    let known = |plane: &Plane| {
        let names = std::fs::read_dir(plane.folder.state().join("replicas")).unwrap();
        names
            .filter(|name| name.as_ref().unwrap().file_name() != "lock")
            .count()
    };
    assert_eq!(known(&plane), 1);
    let (status, folder) = plane.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    users.end().await;
    let plane = Plane::start_in(folder, &[]);
    assert_eq!(known(&plane), 1, "the first one has taken its name away");
    users.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    assert_eq!(plane.post("/trust/add").status, 200);
    users.take_until(Kind::TrustBundle).await.unwrap();
    plane.until("it trusts the next root", |status| {
        status["trust"]["rotation"]["isSafe"] == true
    });
    let switched = plane.post("/trust/switch");
    assert_eq!(switched.status, 200, "{}", switched.body);
}
