//! Streams: what the status makes of them, how many there may be, and how they end.

use jitney_api::push::Kind;
use jitney_api::push::config::Finding;
use jitney_api::push::config::reports_client::ReportsClient;
use nix::sys::signal::Signal;
use tonic::Code;

use super::client::{Identity, Sidecar};
use super::process::{Plane, SHOP, until};

fn policy<'a>(status: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let policies = status["policies"].as_array().unwrap();
    policies.iter().find(|policy| policy["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_who_runs_what_and_who_cannot() {
    let plane = Plane::start(&[]);
    let (mut one, identity) = Sidecar::running(&plane, "users").await;
    let mut other = Sidecar::new("users-2");
    other.rejects = true;
    other.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    other.take_until(Kind::Policy).await.unwrap();
    let status = plane.until("one runs it, the other cannot", |status| {
        policy(status, "shop/users")["sidecars"]["acked"] == 1
            && policy(status, "shop/users")["sidecars"]["rejected"] == 1
    });
    let users = policy(&status, "shop/users");
    assert_eq!(
        users["text"],
        "Programmed: 1 of 2 sidecars runs generation 1; 1 rejected it: users-2: route shop/users/by-id: batch.maxSize: more than this sidecar gathers"
    );
    let last = &users["sidecars"]["lastRejection"];
    assert_eq!(
        (&last["node"], &last["field"]),
        (&"users-2".into(), &"batch.maxSize".into())
    );
    assert_eq!(policy(&status, "shop/orders")["sidecars"]["selected"], 0);
    other.rejects = false;
    plane.folder.write(&SHOP.replace("maxSize: 8", "maxSize: 4"));
    one.take_until(Kind::Route).await.unwrap();
    other.take_until(Kind::Route).await.unwrap();
    let status = plane.until("both run the next", |status| {
        policy(status, "shop/users")["sidecars"]["acked"] == 2
    });
    let text = policy(&status, "shop/users")["text"].as_str().unwrap();
    assert_eq!(text, "Programmed: 2 of 2 sidecars run generation 3");
    let metrics = plane.get("/metrics").body;
    for line in [
        "jitney_config_propagation_seconds_count 2\n",
        "jitney_watch_lag_seconds_count 1\n",
        "jitney_xds_nacks_total{type=\"route\",reason=\"limit\"} 1\n",
        "jitney_sidecars{state=\"acked\"} 2\n",
        "jitney_xds_connected 2\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_by_its_name_no_more_and_is_kept_goes_on_being_counted() {
    let plane = Plane::start(&[]);
    let (mut users, _) = Sidecar::running(&plane, "users").await;
    let wanted = [(Kind::Policy, "shop/users"), (Kind::Route, "shop/users/by-id")];
    for (kind, name) in wanted {
        users.subscriber.subscribe(kind, name);
    }
    users.say().await;
    // After the routes that it refers to.
    users.take_until(Kind::Policy).await.unwrap();
    plane.until("it runs the policy", |status| {
        policy(status, "shop/users")["sidecars"]["acked"] == 1
    });
    for (kind, name) in wanted {
        let dropped = users.subscriber.unsubscribe(kind, name);
        assert_eq!(dropped, [""; 0], "it is its own");
    }
    // Answered after that.
    users.subscriber.subscribe(Kind::Policy, "shop/orders");
    users.say().await;
    users.take().await.unwrap();
    let status = plane.status();
    let text = policy(&status, "shop/users")["text"].as_str().unwrap();
    assert_eq!(text, "Programmed: 1 of 1 sidecar runs generation 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_reached_its_age_ends_and_the_next_brings_nothing_again() {
    let plane = Plane::start(&["--stream-age", "500ms"]);
    let (mut users, identity) = Sidecar::running(&plane, "users").await;
    let ended = users.end().await;
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("age"), "{ended}");
    let sent = users.sent;
    users.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    assert!(users.end().await.message().contains("age"));
    assert_eq!(users.sent, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_restart_nor_a_replica_sends_anything_again() {
    let plane = Plane::start(&[]);
    let (mut users, identity) = Sidecar::running(&plane, "users").await;
    let sent = users.sent;
    let (_, folder) = plane.end(Signal::SIGKILL);
    users.end().await;
    let plane = Plane::start_in(folder, &[]);
    users.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    plane.until("what it came with counts", |status| {
        policy(status, "shop/users")["sidecars"]["acked"] == 1
    });
    let replica = plane.replica();
    let channel = identity.connect_to(replica.address, &plane.folder.roots()).await;
    users.open(channel.unwrap()).await.unwrap();
    until(replica.admin, "there, too", |status| {
        policy(status, "shop/users")["sidecars"]["acked"] == 1
    });
    plane.folder.write(&SHOP.replace("maxSize: 8", "maxSize: 4"));
    users.take_until(Kind::Route).await.unwrap();
    assert_eq!(
        users.sent,
        sent + 1,
        "the route that has changed, and nothing else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_streams_at_once_are_told_when_to_come_back() {
    let plane = Plane::start(&["--max-streams-per-second", "1"]);
    let identity = Identity::of(&plane, "users").await;
    let mut refused = None;
    for number in 0..10 {
        let mut sidecar = Sidecar::new(&format!("users-{number}"));
        let channel = identity.connect(&plane).await.unwrap();
        if let Err(status) = sidecar.open(channel).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let hint = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    let hint: u64 = hint.to_str().unwrap().parse().unwrap();
    assert!((1..=2000).contains(&hint), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_most_of_sidecars() {
    let plane = Plane::start(&["--max-sidecars", "1"]);
    let (one, identity) = Sidecar::running(&plane, "users").await;
    let mut other = Sidecar::new("users-2");
    let refused = other
        .open(identity.connect(&plane).await.unwrap())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
    drop(one);
    plane.until("its place is free", |status| status["sidecars"]["connected"] == 0);
    other.open(identity.connect(&plane).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_sidecars_are_told_to_go_elsewhere() {
    let plane = Plane::start(&[]);
    let (mut users, _identity) = Sidecar::running(&plane, "users").await;
    plane.signal(Signal::SIGTERM);
    let ended = users.end().await;
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("going away"), "{ended}");
    drop(users);
    let (status, _) = plane.end(Signal::SIGCONT);
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_notices_is_shown_with_the_version() {
    let plane = Plane::start(&[]);
    let (_users, identity) = Sidecar::running(&plane, "users").await;
    let status = plane.status();
    let mut reports = ReportsClient::new(identity.connect(&plane).await.unwrap());
    let finding = |name: &str, since| Finding {
        name: name.into(),
        version: policy(&status, name)["version"].as_str().unwrap().into(),
        before: 0.01,
        since,
    };
    reports.report(finding("shop/users", 0.25)).await.unwrap();
    reports.report(finding("shop/orders", 0.5)).await.unwrap();
    let refused = reports.report(finding("shop/users", 2.0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let status = plane.status();
    let users = &policy(&status, "shop/users")["findings"];
    assert_eq!(
        (&users["sidecars"], &users["worst"]["since"]),
        (&1.into(), &0.25.into())
    );
    let orders = &policy(&status, "shop/orders")["findings"];
    assert_eq!(orders["sidecars"], 0, "another's policy");
}
