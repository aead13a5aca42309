//! Everything pushed: listeners, backends, endpoints and caps, in sidecars that were given nothing but the
//! control plane's address.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use jitney_tests::caller::get;
use jitney_tests::{Reply, Seen, TestControlPlane, TestProxy, TestUpstream, control_plane, model, wait};
use serde_json::Value;
use tokio::task::JoinSet;

/// Orders call users: the callee's sidecar batches, the caller's finds it.
fn mesh(users: &TestUpstream, ports: [u16; 2], more: &str) -> String {
    let [inbound, outbound] = ports;
    let service = users.address;
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["127.0.0.1:{inbound}"]}}
---
kind: Listener
metadata: {{name: users-inbound, namespace: shop}}
spec: {{address: "127.0.0.1:{inbound}", backend: users, local: "{service}"}}
---
kind: Listener
metadata: {{name: orders-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{outbound}", backend: users, workload: orders}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    batch: {{maxSize: 20, dispatch: Fixed, timeout: 20ms}}
{more}"#
    )
}

/// Ports that nobody listens on, and nobody is given who asks for any: they are below those that the system
/// hands out, and each is handed out here once.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 8000).unwrap_or(0);
    let port = || 16_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    [(); N].map(|()| std::iter::repeat_with(port).find(is_free).unwrap())
}

async fn start(plane: &TestControlPlane, workload: &str) -> TestProxy {
    let settings = plane.sidecar(&format!("shop/{workload}"), workload);
    settings.pushed().start().await
}

async fn config(proxy: &TestProxy) -> Value {
    serde_json::from_str(&proxy.admin("/config").await.text()).unwrap()
}

/// Waits until `/config` satisfies `fact`.
async fn until_config(proxy: &TestProxy, fact: impl Fn(&Value) -> bool) -> Value {
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    loop {
        let seen = config(proxy).await;
        if fact(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < end, "{seen:#}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn held(config: &Value, kind: &str) -> Vec<String> {
    let resources = config["controlPlane"]["resources"].as_array().unwrap().iter();
    let of_kind = resources.filter(|one| one["type"] == kind);
    of_kind
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_caller_and_a_callee_find_each_other_and_get_no_more_than_they_need() {
    let users = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let stranger = "---\nkind: Backend\nmetadata: {name: stranger, namespace: shop}\nspec: {endpoints: ['10.9.9.9:80']}\n";
    let plane = TestControlPlane::start(&mesh(&users, ports, stranger)).await;
    let callee = start(&plane, "users").await;
    let caller = start(&plane, "orders").await;
    assert_eq!(caller.address.port(), ports[1]);
    let mut calls = JoinSet::new();
    for id in 0..10 {
        let address = caller.address;
        calls.spawn(async move { (id, get(address, &format!("/users/{id}")).await) });
    }
    for (id, answer) in calls.join_all().await {
        assert_eq!(answer.unwrap().text(), model::user(&id.to_string(), ""));
    }
    assert!(
        users.seen().len() < 10,
        "the callee's sidecar batched: {}",
        users.seen().len()
    );
    let seen = config(&caller).await;
    assert_eq!(held(&seen, "backend"), ["shop/users"]);
    assert_eq!(
        held(&seen, "endpoint"),
        [format!("shop/users/127.0.0.1:{}", ports[0])]
    );
    assert_eq!(held(&seen, "policy"), [""; 0], "it is the callee's");
    assert_eq!(held(&config(&callee).await, "policy"), ["shop/users"]);
}

#[tokio::test]
async fn endpoints_change_while_calls_go_on() {
    let named = |name: &'static str| move |_: &Seen| Reply::json(200, format!("\"{name}\""));
    let (one, other) = (
        TestUpstream::start(named("one")).await,
        TestUpstream::start(named("other")).await,
    );
    let [port] = free_ports();
    let documents = |upstream: &TestUpstream| {
        format!(
            "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['{}']}}\n---\nkind: Listener\n\
             metadata: {{name: out}}\nspec: {{address: '127.0.0.1:{port}', workload: orders}}\n",
            upstream.address
        )
    };
    let plane = TestControlPlane::start(&documents(&one)).await;
    let proxy = plane.sidecar("default/orders", "orders").pushed().start().await;
    let asked = async || get(proxy.address, "/x").await.unwrap();
    assert_eq!(asked().await.text(), "\"one\"");
    plane.write(&documents(&other));
    loop {
        let answer = asked().await;
        assert_eq!(answer.status, 200);
        if answer.text() == "\"other\"" {
            break;
        }
    }
    assert_eq!(
        config(&proxy).await["policy"]["generation"],
        1,
        "no policy changed"
    );
}

#[tokio::test]
async fn caps_and_log_level_change_live_from_one_push_without_a_reconnect() {
    let users = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let runtime = "---\nkind: Runtime\nmetadata: {name: users, namespace: shop}\n\
                   spec: {logLevel: 'warn,jitney_proxy=debug', mode: Shadow, maxSize: 5, timeout: 1ms, window: {max: 2}}\n";
    let plane = TestControlPlane::start(&mesh(&users, ports, "")).await;
    let proxy = start(&plane, "users").await;
    let route = async || {
        let answer = proxy.admin("/backends").await.text();
        let backends: Value = serde_json::from_str(&answer).unwrap();
        backends["backends"][0]["routes"][0].clone()
    };
    assert_eq!(proxy.admin("/log-level").await.text(), "info\n");
    assert_eq!(route().await["mode"], "Active");
    plane.write(&mesh(&users, ports, runtime));
    until_config(&proxy, |seen| seen["policy"]["generation"] == 2).await;
    assert_eq!(
        proxy.admin("/log-level").await.text(),
        "warn,jitney_proxy=debug\n"
    );
    let shown = config(&proxy).await["policy"]["effective"]["runtime"].clone();
    assert_eq!(
        (&shown["mode"], &shown["maxSize"], &shown["timeout"]),
        (&"Shadow".into(), &5.into(), &"1ms".into()),
        "{shown}"
    );
    assert_eq!(route().await["mode"], "Shadow");
    assert_eq!(route().await["max_size"], 5);
    plane.write(&mesh(&users, ports, ""));
    until_config(&proxy, |seen| seen["policy"]["generation"] == 3).await;
    assert_eq!(proxy.admin("/log-level").await.text(), "info\n");
    assert_eq!(route().await["max_size"], 20);
    assert_eq!(proxy.log().matches("connected control_plane").count(), 1);
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_and_the_rest_goes_on() {
    let users = TestUpstream::start(model::users).await;
    let taken = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let plane = TestControlPlane::start(&mesh(&users, ports, "")).await;
    let proxy = start(&plane, "users").await;
    plane.write(&mesh(&users, [taken.address.port(), ports[1]], ""));
    wait::until("it is told", || plane.log().contains("cannot listen on")).await;
    assert_eq!(get(proxy.address, "/users/1").await.unwrap().status, 200);
    let [free] = free_ports();
    plane.write(&mesh(&users, [free, ports[1]], ""));
    wait::until("it moves", || {
        proxy
            .log()
            .contains(&format!("listening address=127.0.0.1:{free}"))
    })
    .await;
}

#[tokio::test]
async fn a_caller_restarts_from_disk_with_its_listeners() {
    let users = TestUpstream::start(model::users).await;
    let ports = free_ports();
    let mut plane = TestControlPlane::start(&mesh(&users, ports, "")).await;
    let settings = || plane.sidecar("shop/orders", "orders").pushed();
    let (first, second) = (settings(), settings());
    let _callee = start(&plane, "users").await;
    let caller = first.start().await;
    assert_eq!(
        get(caller.address, "/users/7").await.unwrap().text(),
        model::user("7", "")
    );
    let is_kept = || control_plane::is_kept(&plane.folder().join("snapshots/orders"));
    wait::until("it is on disk", is_kept).await;
    plane.kill();
    drop(caller);
    let caller = second.start().await;
    assert_eq!(caller.address.port(), ports[1]);
    assert_eq!(
        get(caller.address, "/users/8").await.unwrap().text(),
        model::user("8", "")
    );
    let seen = config(&caller).await;
    assert_eq!(held(&seen, "endpoint").len(), 1, "{seen:#}");
}

#[tokio::test]
async fn a_port_that_becomes_free_is_taken_without_another_push() {
    let users = TestUpstream::start(model::users).await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [outbound] = free_ports();
    let inbound = holder.local_addr().unwrap().port();
    let plane = TestControlPlane::start(&mesh(&users, [inbound, outbound], "")).await;
    let mut proxy = plane.sidecar("shop/users", "users").pushed().spawn();
    wait::until("it is told", || plane.log().contains("cannot listen on")).await;
    drop(holder);
    proxy.ready().await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], inbound));
    assert_eq!(
        get(address, "/users/7").await.unwrap().text(),
        model::user("7", "")
    );
}

/// Waits until `/status` says of the users' Runtime what it is to say.
async fn until_runtime(plane: &TestControlPlane, fact: impl Fn(&Value) -> bool) -> Value {
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    loop {
        let status = plane.page("/status").await;
        let mut all = status["runtimes"].as_array().unwrap().iter();
        let found = all.find(|one| one["name"] == "shop/users").expect("a Runtime");
        if fact(&found["sidecars"]) {
            return found["sidecars"].clone();
        }
        assert!(tokio::time::Instant::now() < end, "{status:#}\n{}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Another listener of the callee's.
fn second(users: &TestUpstream, port: u16) -> String {
    let service = users.address;
    format!(
        "---\nkind: Listener\nmetadata: {{name: second, namespace: shop}}\n\
         spec: {{address: '127.0.0.1:{port}', backend: users, local: '{service}'}}\n"
    )
}

#[tokio::test]
async fn a_listener_that_waits_for_its_port_holds_up_nothing_and_is_told_until_it_has_it() {
    let users = TestUpstream::start(model::users).await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inbound = holder.local_addr().unwrap();
    let [other, elsewhere] = free_ports();
    let caps = "---\nkind: Runtime\nmetadata: {name: users, namespace: shop}\n\
                spec: {mode: Disabled, logLevel: 'info,jitney_proxy=debug'}\n";
    let more = second(&users, other) + caps;
    let plane = TestControlPlane::start(&mesh(&users, [inbound.port(), elsewhere], &more)).await;
    let mut proxy = plane.sidecar("shop/users", "users").pushed().spawn();
    let told = until_runtime(&plane, |sidecars| sidecars["rejected"] == 1).await;
    let last = &told["lastRejection"];
    assert_eq!(last["field"], "listeners[0].spec.address", "{told:#}");
    let reason = last["reason"].as_str().unwrap();
    let begin = format!("cannot listen on {inbound}: Address already in use");
    assert!(reason.starts_with(&begin), "{reason}");
    let end = "; everything else is in force and it is tried again";
    assert!(reason.ends_with(end), "{reason}");
    let rejecting = async || plane.metric("jitney_sidecars", "state=\"rejected\"").await;
    assert_eq!(rejecting().await, 1.0);

    proxy.answering().await;
    let served = std::net::SocketAddr::from(([127, 0, 0, 1], other));
    assert_eq!(
        get(served, "/users/7").await.unwrap().text(),
        model::user("7", "")
    );
    let ready = proxy.admin("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains(&begin), "{}", ready.text());
    let level = proxy.admin("/log-level").await.text();
    assert_eq!(level, "info,jitney_proxy=debug\n");
    let backends: Value = serde_json::from_str(&proxy.admin("/backends").await.text()).unwrap();
    assert_eq!(backends["backends"][0]["routes"][0]["mode"], "Disabled");
    let seen = config(&proxy).await;
    let mut pending = seen["listeners"].as_array().unwrap().iter();
    let pending = pending.find(|one| !one["pending"].is_null()).unwrap();
    assert_eq!(pending["name"], "users-inbound", "{seen:#}");
    assert_eq!(proxy.metric("jitney_listeners_pending", "").await, 1.0);
    let nacks = plane.metric("jitney_xds_nacks_total", "").await;

    drop(holder);
    until_runtime(&plane, |sidecars| {
        sidecars["acked"] == 1 && sidecars["rejected"] == 0
    })
    .await;
    proxy.ready().await;
    assert_eq!(
        get(inbound, "/users/8").await.unwrap().text(),
        model::user("8", "")
    );
    assert_eq!(proxy.metric("jitney_listeners_pending", "").await, 0.0);
    assert_eq!(
        proxy.log().matches("waits for its address").count(),
        1,
        "{}",
        proxy.log()
    );
    assert_eq!(plane.metric("jitney_xds_nacks_total", "").await, nacks);
    assert_eq!(rejecting().await, 0.0);
}

#[tokio::test]
async fn a_sidecar_restarts_from_disk_although_a_port_is_taken() {
    let users = TestUpstream::start(model::users).await;
    let [inbound, outbound] = free_ports();
    let [elsewhere] = free_ports();
    let more = second(&users, outbound);
    let mut plane = TestControlPlane::start(&mesh(&users, [inbound, elsewhere], &more)).await;
    let settings = || plane.sidecar("shop/users", "users").pushed();
    let (first, second) = (settings(), settings());
    let proxy = first.start().await;
    let is_kept = || control_plane::is_kept(&plane.folder().join("snapshots/users"));
    wait::until("it is on disk", is_kept).await;
    plane.kill();
    drop(proxy);
    let holder = std::net::TcpListener::bind(("127.0.0.1", inbound)).unwrap();
    let mut proxy = second.spawn();
    wait::until("it waits", || proxy.log().contains("waits for its address")).await;
    let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let said = format!("listening address=127.0.0.1:{outbound}");
    wait::until("the other one serves", || proxy.log().contains(&said)).await;
    assert_eq!(get(at(outbound), "/users/7").await.unwrap().status, 200);
    drop(holder);
    proxy.ready().await;
    assert_eq!(get(at(inbound), "/users/8").await.unwrap().status, 200);
}

#[tokio::test]
async fn listeners_swap_their_ports() {
    let named = |name: &'static str| move |_: &Seen| Reply::json(200, format!("\"{name}\""));
    let (one, other) = (
        TestUpstream::start(named("one")).await,
        TestUpstream::start(named("other")).await,
    );
    let ports: [u16; 2] = free_ports();
    let documents = |[a, b]: [u16; 2]| {
        let (one, other) = (one.address, other.address);
        format!(
            "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['10.0.0.1:80']}}\n---\nkind: Listener\n\
             metadata: {{name: a}}\nspec: {{address: '127.0.0.1:{a}', local: '{one}'}}\n---\nkind: Listener\n\
             metadata: {{name: b}}\nspec: {{address: '127.0.0.1:{b}', local: '{other}'}}\n"
        )
    };
    let plane = TestControlPlane::start(&documents(ports)).await;
    let _proxy = plane.sidecar("default/users", "users").pushed().start().await;
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], ports[0]));
    assert_eq!(get(at, "/").await.unwrap().text(), "\"one\"");
    plane.write(&documents([ports[1], ports[0]]));
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while get(at, "/").await.unwrap().text() != "\"other\"" {
        assert!(tokio::time::Instant::now() < end, "{}", plane.log());
    }
}
