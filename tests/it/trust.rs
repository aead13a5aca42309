//! Certificates of real sidecars: whose they are decides what is read, and roots are replaced under load.

use std::fs;
use std::time::Duration;

use jitney_tests::caller::{get, post};
use jitney_tests::{TestControlPlane, TestProxy, TestUpstream, control_plane, model, wait};
use serde_json::Value;

const USERS: &str = r#"
kind: Backend
metadata: {name: users, namespace: shop}
spec: {endpoints: ["127.0.0.1:9"]}
---
kind: Backend
metadata: {name: orders, namespace: shop}
spec: {endpoints: ["127.0.0.1:9"]}
---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
"#;

async fn control_plane(proxy: &TestProxy) -> Value {
    let config: Value = serde_json::from_str(&proxy.admin("/config").await.text()).unwrap();
    config["controlPlane"].clone()
}

fn held(control_plane: &Value, kind: &str) -> usize {
    let resources = control_plane["resources"].as_array().unwrap().iter();
    resources.filter(|one| one["type"] == kind).count()
}

#[tokio::test]
async fn a_sidecar_reads_what_its_certificate_entitles_it_to() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let start = |workload: &str| {
        let settings = plane.sidecar(workload, "users-1");
        settings.upstream(upstream.address).start()
    };
    let users = start("shop/users").await;
    // What the first one kept on disk must not become the other one's, either.
    let snapshots = plane.folder().join("snapshots/users-1");
    let is_kept = || control_plane::is_kept(&snapshots);
    wait::until("it is on disk", is_kept).await;
    let orders = start("shop/orders").await;
    let connected = || orders.log().contains("connected control_plane");
    wait::until("it is connected", connected).await;
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while control_plane(&orders).await["fromSnapshot"] == true {
        assert!(tokio::time::Instant::now() < end, "{}", orders.log());
    }
    let (its, others) = (control_plane(&users).await, control_plane(&orders).await);
    assert_eq!(its["identity"], "spiffe://cluster.local/ns/shop/sa/users");
    assert_eq!((held(&its, "policy"), held(&its, "route")), (1, 1));
    assert_eq!(others["identity"], "spiffe://cluster.local/ns/shop/sa/orders");
    assert_eq!(
        (held(&others, "policy"), held(&others, "route")),
        (0, 0),
        "whatever it calls itself"
    );
}

#[tokio::test]
async fn a_token_that_was_used_gives_nothing_and_the_log_says_why() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let settings = |node: &str| plane.sidecar("shop/users", node).upstream(upstream.address);
    let (first, second) = (settings("users-1"), settings("thief"));
    let tokens = ["users-1.0.token", "thief.0.token"].map(|name| plane.folder().join(name));
    fs::copy(&tokens[0], &tokens[1]).unwrap();
    let _proxy = first.start().await;
    let mut thief = second.spawn();
    thief.answering().await;
    wait::until("it is refused", || thief.log().contains("used before")).await;
    assert!(!thief.log().contains("certificate received"), "{}", thief.log());
    let file = tokens[1].display();
    let way_out =
        format!("write a new one to --token-file {file} (jitney-control-plane token NAMESPACE/ACCOUNT)");
    assert!(thief.log().contains(&way_out), "{}", thief.log());
    let ready = thief.admin("/ready").await;
    assert_eq!(ready.status, 503);
    let told = ready.text();
    let expected = "waiting for the control plane: refused: token: used before, for another key; ";
    assert!(told.starts_with(expected) && told.contains(&way_out), "{told}");
    let status = plane.page("/status").await;
    let refused = &status["certificates"]["refused"][0];
    assert_eq!(
        (&refused["workload"], &refused["node"]),
        (&"shop/users".into(), &"thief".into())
    );
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with("shop/users thief gets no certificate, refused "),
        "{warning}"
    );

    fs::copy(plane.token("shop/users", "fresh"), &tokens[1]).unwrap();
    wait::until("it has one", || thief.log().contains("certificate received")).await;
    let status = plane.page("/status").await;
    assert_eq!(status["certificates"]["refused"], serde_json::json!([]));
}

#[tokio::test]
async fn a_control_plane_that_is_another_ones_is_not_believed() {
    let upstream = TestUpstream::start(model::users).await;
    let (plane, impostor) = (
        TestControlPlane::start(USERS).await,
        TestControlPlane::start(USERS).await,
    );
    let [roots, others] = [&plane, &impostor].map(|plane| plane.folder().join("state/roots.pem"));
    fs::copy(others, roots).unwrap();
    let settings = plane.sidecar("shop/users", "users-1");
    let proxy = settings.upstream(upstream.address).spawn();
    wait::until("it is not believed", || {
        proxy.log().contains("invalid peer certificate")
    })
    .await;
    assert!(!proxy.log().contains("certificate received"), "{}", proxy.log());
    let file = plane.folder().join("state/roots.pem");
    let told = format!(
        "none of the roots in --trust-bundle {} has signed the control plane's certificate",
        file.display()
    );
    assert!(proxy.log().contains(&told), "{}", proxy.log());
    // And so does who is not believed.
    let told = async || {
        let status = plane.page("/status").await;
        let warnings = status["warnings"].as_array().unwrap().iter();
        let told = warnings.filter_map(|told| told.as_str().map(str::to_owned));
        let told = told.filter(|told| told.contains("lately, the last with 127.0.0.1:"));
        told.collect::<Vec<_>>()
    };
    // It hears of the refusal after the one who refuses.
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while told().await.is_empty() && tokio::time::Instant::now() < end {
        tokio::task::yield_now().await;
    }
    let told = told().await;
    assert!(told.len() == 1 && told[0].contains("--trust-bundle"), "{told:?}");
}

#[tokio::test]
async fn roots_are_replaced_step_by_step_and_no_call_fails() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let proxy = plane
        .sidecar("shop/users", "users-1")
        .upstream(upstream.address)
        .start()
        .await;
    let step = async |name: &str| post(plane.admin, &format!("/trust/{name}"), "").await.unwrap();
    // Each is refused until it is safe.
    for name in ["add", "switch", "drop"] {
        let end = tokio::time::Instant::now() + 2 * wait::PATIENCE;
        loop {
            let answer = step(name).await;
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert!(
                tokio::time::Instant::now() < end,
                "{name}: {}\n{}",
                answer.text(),
                proxy.log()
            );
            assert_eq!(
                get(proxy.address, "/users/7").await.unwrap().text(),
                model::user("7", "")
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(
        plane.page("/status").await["trust"]["roots"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // Both may be of the same second, and so expire together.
    let received = proxy.log().matches("certificate received").count();
    assert_eq!(received, 2, "it has a new one: {}", proxy.log());
    assert_eq!(proxy.metric("jitney_control_plane_connected", "").await, 1.0);
    // And the control plane can still tell it something.
    plane.write(&USERS.replace("key: /id}}", "key: /id}}\n    batch: {maxSize: 3}"));
    let told = |told: &Value| told["generation"] != 1 && told["sidecars"]["acked"] == 1;
    plane.until_policy("shop/users", told).await;
}

#[tokio::test]
async fn a_sidecar_follows_a_control_plane_that_was_rebuilt_by_its_files_and_without_a_restart() {
    let upstream = TestUpstream::start(model::users).await;
    let mut plane = TestControlPlane::start(USERS).await;
    let settings = plane.sidecar("shop/users", "users-1");
    let proxy = settings.upstream(upstream.address).start().await;
    let acked = |told: &Value| told["sidecars"]["acked"] == 1;
    plane.until_policy("shop/users", acked).await;
    let folder = plane.folder().to_owned();
    let roots = folder.join("state/roots.pem");
    let old = fs::read(&roots).unwrap();
    plane.kill();
    fs::remove_dir_all(folder.join("state")).unwrap();
    plane.restart().await;
    let new = fs::read(&roots).unwrap();
    // Nobody has told the sidecar yet.
    fs::write(&roots, &old).unwrap();
    wait::until("it believes nobody else", || {
        proxy.log().contains("invalid peer certificate")
    })
    .await;
    assert_eq!(get(proxy.address, "/users/7").await.unwrap().status, 200);
    fs::copy(plane.token("shop/users", "fresh"), folder.join("users-1.0.token")).unwrap();
    fs::write(&roots, new).unwrap();
    wait::until("it is back", || {
        proxy.log().matches("certificate received").count() == 2
    })
    .await;
    plane.until_policy("shop/users", acked).await;
    assert_eq!(proxy.log().matches("certificate received").count(), 2);
    assert_eq!(get(proxy.address, "/users/7").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_wrong_is_said_by_the_flag_that_says_it() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let folder = plane.folder();
    let settings = |node: &str| plane.sidecar("shop/users", node).upstream(upstream.address);
    let told = async |proxy: &TestProxy, text: &str| {
        wait::until(text, || proxy.log().contains(text)).await;
    };
    let without_token = settings("users-1");
    let token = folder.join("users-1.0.token");
    fs::remove_file(&token).unwrap();
    let without_token = without_token.spawn();
    told(
        &without_token,
        &format!("--token-file {}: No such file", token.display()),
    )
    .await;
    let bad_token = settings("users-2");
    fs::write(folder.join("users-2.0.token"), "nonsense").unwrap();
    let bad_token = bad_token.spawn();
    let refused = format!("the control plane at https://{} refused: ", plane.address);
    told(&bad_token, &refused).await;
    assert!(
        !bad_token.log().contains("no control plane"),
        "{}",
        bad_token.log()
    );
    // Another port, and a file that is not there.
    let admin = format!("https://{}", plane.admin);
    let token = plane.token("shop/users", "astray").display().to_string();
    let astray = |roots: &str| {
        let line = [
            "run",
            "--control-plane",
            &admin,
            "--token-file",
            &token,
            "--trust-bundle",
            roots,
        ];
        TestProxy::with().line(line.map(str::to_owned).to_vec()).spawn()
    };
    let at_admin = astray(&folder.join("state/roots.pem").display().to_string());
    let port = format!("{admin} does not speak TLS (is it the admin port?)");
    told(&at_admin, &port).await;
    let none = folder.join("none.pem").display().to_string();
    let mut rootless = astray(&none);
    assert!(!rootless.ended(wait::PATIENCE).await.success());
    told(&rootless, &format!("--trust-bundle {none}: No such file")).await;
    // Nothing is wrong, and nothing is done.
    let idle = plane.sidecar("shop/orders", "orders-1");
    let idle = idle.upstream(upstream.address).start().await;
    told(&idle, "no policy is for shop/orders: calls pass through").await;
}

#[tokio::test]
async fn a_sidecar_whose_root_was_dropped_comes_back_with_a_new_token() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let settings = plane.sidecar("shop/users", "users-1");
    let proxy = settings.upstream(upstream.address).start().await;
    let step = async |name: &str| {
        post(plane.admin, &format!("/trust/{name}"), "")
            .await
            .unwrap()
            .status
    };
    assert_eq!(step("add").await, 200);
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while step("switch").await != 200 {
        assert!(tokio::time::Instant::now() < end, "{}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(step("drop?force=true").await, 200);
    // Its certificate is worth nothing now, its token is used, and calls go on.
    wait::until("it is turned away", || {
        proxy.log().contains("what is in force stays")
    })
    .await;
    assert_eq!(get(proxy.address, "/users/7").await.unwrap().status, 200);
    let token = plane.token("shop/users", "fresh");
    fs::copy(token, plane.folder().join("users-1.0.token")).unwrap();
    wait::until("it is back", || {
        proxy.log().matches("certificate received").count() == 2
    })
    .await;
    plane
        .until_policy("shop/users", |told| told["sidecars"]["acked"] == 1)
        .await;
}

#[tokio::test]
async fn a_root_is_dropped_when_a_sidecar_that_was_killed_has_another_certificate() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let start = || {
        let settings = plane.sidecar("shop/users", "users-1");
        settings.upstream(upstream.address).start()
    };
    let step = async |name: &str| post(plane.admin, &format!("/trust/{name}"), "").await.unwrap();
    let proxy = start().await;
    assert_eq!(step("add").await.status, 200);
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while step("switch").await.status != 200 {
        assert!(tokio::time::Instant::now() < end, "{}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Killed, and its key with it.
    drop(proxy);
    let early = step("drop").await;
    if early.status == 409 {
        let who = "1 of shop/users (users-1); the last one expires at ";
        assert!(early.text().contains(who), "{}", early.text());
    }
    let proxy = start().await;
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    loop {
        let dropped = step("drop").await;
        if dropped.status == 200 {
            break;
        }
        let late = tokio::time::Instant::now() > end;
        assert!(!late, "{}\n{}", dropped.text(), proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_sidecar_that_was_away_while_roots_were_exchanged_comes_back_with_those_of_before() {
    let upstream = TestUpstream::start(model::users).await;
    let plane = TestControlPlane::start(USERS).await;
    let roots = plane.folder().join("state/roots.pem");
    let before = fs::read(&roots).unwrap();
    let settings = plane.sidecar("shop/users", "users-1");
    let away = settings.upstream(upstream.address).start().await;
    let acked = |told: &Value| told["sidecars"]["acked"] == 1;
    plane.until_policy("shop/users", acked).await;
    drop(away);
    plane
        .until_policy("shop/users", |told| told["sidecars"]["acked"] == 0)
        .await;
    let step = async |name: &str| post(plane.admin, &format!("/trust/{name}"), "").await.unwrap();
    assert_eq!(step("add").await.status, 200);
    let early = step("switch").await;
    let who = "; 1 alive of the certificates whose sidecars have not said that they trust it: 1 of shop/users \
               (users-1); the last one expires at ";
    assert_eq!(early.status, 409);
    assert!(early.text().contains(who), "{}", early.text());
    assert_eq!(step("switch?force=true").await.status, 200);
    // Its roots are a copy that nobody has renewed.
    fs::write(&roots, before).unwrap();
    let settings = plane.sidecar("shop/users", "users-1");
    let proxy = settings.upstream(upstream.address).start().await;
    plane.until_policy("shop/users", acked).await;
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    while step("drop").await.status != 200 {
        assert!(tokio::time::Instant::now() < end, "{}", plane.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    plane.write(&USERS.replace("key: /id}}", "key: /id}}\n    batch: {maxSize: 3}"));
    let told = |told: &Value| told["generation"] != 1 && told["sidecars"]["acked"] == 1;
    plane.until_policy("shop/users", told).await;
    assert!(
        !proxy.log().contains("invalid peer certificate"),
        "{}",
        proxy.log()
    );
}
