//! Rollouts, as sidecars see them over their connections.

use jitney_api::push::Kind;
use jitney_api::push::config::Finding;
use jitney_api::push::config::reports_client::ReportsClient;
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::transport::Channel;

use super::client::{Identity, Sidecar};
use super::process::{Place, Plane, SHOP, until};

/// The shop, with a share of the users' sidecars that take a change first, and something to change.
fn shop(percent: u32, max_size: u32) -> String {
    let share = format!(
        "rollout: {{percent: {percent}}}\n  routes:\n  - name: by-id\n    match: {{method: GET, path: {{type: Template, value: \"/users"
    );
    SHOP.replace("maxSize: 8", &format!("maxSize: {max_size}"))
        .replace(
            "routes:\n  - name: by-id\n    match: {method: GET, path: {type: Template, value: \"/users",
            &share,
        )
}

fn users(status: &Value) -> &Value {
    let policies = status["policies"].as_array().unwrap();
    policies
        .iter()
        .find(|policy| policy["name"] == "shop/users")
        .unwrap()
}

fn is(state: &str, acked: u64) -> impl Fn(&Value) -> bool {
    move |status| users(status)["rollout"]["state"] == state && users(status)["sidecars"]["acked"] == acked
}

/// Two sidecars, of which at 30 percent the first takes a change and the second does not.
struct Pair {
    identity: Identity,
    takes: Sidecar,
    keeps: Sidecar,
    /// Of each, in this order.
    channels: [Channel; 2],
}

impl Pair {
    async fn running(plane: &Plane) -> Self {
        let identity = Identity::of(plane, "users").await;
        let [mut takes, mut keeps] = ["users-1", "users-2"].map(Sidecar::new);
        let channels = connect(&identity, plane).await;
        for (sidecar, channel) in [&mut takes, &mut keeps].into_iter().zip(&channels) {
            sidecar.open(channel.clone()).await.unwrap();
            sidecar.take_until(Kind::Policy).await.unwrap();
        }
        plane.until("both run it", is("Complete", 2));
        Self {
            identity,
            takes,
            keeps,
            channels,
        }
    }

    async fn reconnect(&mut self, plane: &Plane) {
        self.channels = connect(&self.identity, plane).await;
        for (sidecar, channel) in [&mut self.takes, &mut self.keeps].into_iter().zip(&self.channels) {
            sidecar.open(channel.clone()).await.unwrap();
        }
    }

    fn sent(&self) -> [usize; 2] {
        [self.takes.sent, self.keeps.sent]
    }
}

/// A connection for each.
async fn connect(identity: &Identity, plane: &Plane) -> [Channel; 2] {
    [
        identity.connect(plane).await.unwrap(),
        identity.connect(plane).await.unwrap(),
    ]
}

fn place() -> Place {
    let place = Place::new();
    place.write(&shop(30, 8));
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_sent_to_its_share_and_a_restart_sends_nothing() {
    let plane = Plane::start_in(place(), &[]);
    let mut pair = Pair::running(&plane).await;
    let [one, other] = pair.sent();
    plane.folder.write(&shop(30, 4));
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it is staged", is("Staged", 2));
    let text = users(&status)["text"].as_str().unwrap();
    assert!(
        text.starts_with("Staged: 1 of 2 sidecars take generation ")
            && text.ends_with("; 2 of 2 have acknowledged"),
        "{text}"
    );
    let rollout = &users(&status)["rollout"];
    assert_eq!((&rollout["percent"], &rollout["staged"]), (&30.into(), &1.into()));
    assert!(
        rollout["reason"].is_null() && rollout["at"].is_string(),
        "{rollout}"
    );
    assert!(
        plane
            .get("/metrics")
            .body
            .contains("jitney_rollouts{state=\"staged\"} 1\n")
    );

    let (_, folder) = plane.end(Signal::SIGKILL);
    let plane = Plane::start_in(folder, &[]);
    pair.reconnect(&plane).await;
    let again = plane.until("both run what they did", is("Staged", 2));
    for field in ["at", "percent", "staged"] {
        assert_eq!(users(&again)["rollout"][field], rollout[field], "{field}");
    }
    assert!(
        plane
            .get("/metrics")
            .body
            .contains("jitney_xds_resources_total{type=\"route\"} 0\n")
    );
    plane.folder.write(&shop(100, 4));
    pair.keeps.take_until(Kind::Route).await.unwrap();
    plane.until("it is complete", is("Complete", 2));
    assert_eq!(pair.sent(), [one + 1, other + 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_stops_it_at_every_replica_and_for_the_next_process() {
    let plane = Plane::start_in(place(), &[]);
    let mut pair = Pair::running(&plane).await;
    let [_, other] = pair.sent();
    let replica = plane.replica();
    pair.takes.rejects = true;
    plane.folder.write(&shop(30, 4));
    // What it rejects, and what it goes back to.
    pair.takes.take().await.unwrap();
    pair.takes.rejects = false;
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it has stopped", is("Stopped", 2));
    let reason = "users-1 rejected route shop/users/by-id: batch.maxSize: more than this sidecar gathers";
    assert_eq!(users(&status)["rollout"]["reason"], reason);
    assert_eq!(
        users(&status)["text"],
        format!("Stopped: {reason}; 2 of 2 sidecars run what was before")
    );
    assert_eq!(pair.keeps.sent, other);
    until(replica.admin, "there, too", is("Stopped", 0));
    drop(replica);

    plane.folder.write(&shop(100, 4));
    plane.until("the share is taken", |status| {
        users(status)["rollout"]["percent"] == 100
    });
    let (_, folder) = plane.end(Signal::SIGKILL);
    let plane = Plane::start_in(folder, &[]);
    pair.reconnect(&plane).await;
    let status = plane.until("it stays", is("Stopped", 2));
    assert_eq!(users(&status)["rollout"]["reason"], reason);
    assert!(
        plane
            .get("/metrics")
            .body
            .contains("jitney_xds_resources_total{type=\"route\"} 0\n")
    );
    plane.folder.write(&shop(100, 5));
    pair.takes.take_until(Kind::Route).await.unwrap();
    pair.keeps.take_until(Kind::Route).await.unwrap();
    plane.until("another change is another rollout", is("Complete", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_sidecar_that_runs_the_change_may_find_that_it_harms() {
    let plane = Plane::start_in(place(), &[]);
    let mut pair = Pair::running(&plane).await;
    plane.folder.write(&shop(30, 4));
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it is staged", is("Staged", 2));
    let finding = || Finding {
        name: "shop/users".into(),
        // The policy itself is the same in both, for only a route has changed.
        version: users(&status)["version"].as_str().unwrap().into(),
        before: 0.01,
        since: 0.25,
    };
    let [takes, keeps] = pair.channels.clone();
    let elsewhere = pair.identity.connect(&plane).await.unwrap();
    for (channel, findings) in [(keeps, 1), (elsewhere, 2)] {
        ReportsClient::new(channel).report(finding()).await.unwrap();
        let status = plane.status();
        assert_eq!(users(&status)["findings"]["sidecars"], findings);
        assert_eq!(users(&status)["rollout"]["state"], "Staged");
    }
    ReportsClient::new(takes).report(finding()).await.unwrap();
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it has stopped", is("Stopped", 2));
    assert_eq!(
        users(&status)["rollout"]["reason"],
        "users-1 saw 25.0 % of calls fail since it runs the change, 1.0 % before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_change_is_shown_and_that_nobody_does() {
    let plane = Plane::start_in(place(), &[]);
    let mut pair = Pair::running(&plane).await;
    let twin = connect(&pair.identity, &plane).await;
    let mut other = Sidecar::new("users-2");
    other.open(twin[0].clone()).await.unwrap();
    other.take_until(Kind::Policy).await.unwrap();
    plane.folder.write(&shop(30, 4));
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it is staged", is("Staged", 3));
    let shown = &users(&status)["rollout"]["sidecars"];
    let of = |node: &str, takes: bool, generation: u64| serde_json::json!({"node": node, "workload": "shop/users", "takes": takes, "generation": generation});
    let generation = users(&status)["generation"].as_u64().unwrap();
    let before = shown[1]["generation"].as_u64().unwrap();
    assert!(before < generation, "{shown}");
    let expected = [
        of("users-1", true, generation),
        of("users-2", false, before),
        of("users-2", false, before),
    ];
    assert_eq!(*shown, serde_json::json!(expected));
    let warnings = &status["warnings"];
    assert_eq!(
        warnings[0],
        "shop/users: 2 sidecars are all called \"users-2\", so that they take a change all together or not at all"
    );
    let sidecars: Value = serde_json::from_str(&plane.get("/sidecars").body).unwrap();
    let of_first = &sidecars["sidecars"][0]["rollouts"];
    let expected = serde_json::json!([{"policy": "shop/users", "takes": true, "generation": generation}]);
    assert_eq!(*of_first, expected);

    // Without the only one that is in the share.
    drop(pair.takes);
    drop(other);
    let status = plane.until("nobody takes it", |status| {
        status["warnings"].as_array().unwrap().len() == 2 && is("Staged", 1)(status)
    });
    assert_eq!(
        status["warnings"][0],
        "shop/users: 0 of 1 connected sidecars are in the 30 % that take its change: nobody tries it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_came_while_no_control_plane_ran_begins_with_it() {
    let place = Place::new();
    let plane = Plane::start_in(place, &[]);
    let mut pair = Pair::running(&plane).await;
    let [one, other] = pair.sent();
    let (_, folder) = plane.end(Signal::SIGKILL);
    folder.write(&shop(30, 4));
    let state = folder.state();
    let plane = Plane::start_in(folder, &[]);
    pair.reconnect(&plane).await;
    pair.takes.take_until(Kind::Route).await.unwrap();
    let status = plane.until("it is staged", is("Staged", 2));
    assert_eq!(users(&status)["rollout"]["staged"], 1);
    assert_eq!(pair.sent(), [one + 1, other]);
    let missing = "shop/orders: no sidecar of it is connected that would run a policy";
    assert_eq!(
        status["warnings"],
        serde_json::json!([missing]),
        "and nothing else"
    );

    // With the state's memory goes the baseline, and that is said.
    let (_, folder) = plane.end(Signal::SIGKILL);
    std::fs::remove_file(state.join("policies.json")).unwrap();
    std::fs::remove_dir_all(state.join("rollouts")).unwrap();
    folder.write(&shop(30, 5));
    let plane = Plane::start_in(folder, &[]);
    plane.until("the source was read, and that is said", |status| {
        let first = status["warnings"][0].as_str();
        first.is_some_and(|text| text.starts_with("shop/users: nothing is kept of what it was"))
    });
    // Nothing can be written where a file is in a folder's place. It may be about to write there still.
    plane.until("nothing is in the folder", |_| {
        std::fs::remove_dir_all(state.join("rollouts")).is_ok()
    });
    std::fs::write(state.join("rollouts"), "").unwrap();
    plane.folder.write(&shop(30, 6));
    let status = plane.until("it is not kept", |status| {
        !status["state"]["faults"].as_array().unwrap().is_empty()
    });
    let fault = status["state"]["faults"][0].as_str().unwrap();
    assert!(
        fault.starts_with("not kept for a restart: what shop/users was"),
        "{fault}"
    );
    assert!(plane.get("/metrics").body.contains("jitney_state_faults 1\n"));
}
