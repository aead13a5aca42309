//! The admin endpoint, asked over a socket.

use std::fs;

use serde_json::Value;

use super::client::{Identity, Sidecar};
use super::process::{Plane, SHOP, ask, ended};

#[test]
fn every_page_answers_as_it_should() {
    let plane = Plane::start(&[]);
    plane.until("its source was read", |_| plane.get("/ready").status == 200);
    for (method, path, expected) in [
        ("GET", "/", 200),
        ("GET", "/ready", 200),
        ("GET", "/live", 200),
        ("GET", "/status", 200),
        ("GET", "/sidecars", 200),
        ("GET", "/policies", 200),
        ("GET", "/progress", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("POST", "/status", 405),
        ("GET", "/trust/add", 405),
        ("POST", "/trust/drop", 409),
    ] {
        let answer = ask(plane.admin, method, path, "");
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{path}");
    }
    let page = plane.get("/");
    assert!(page.head.contains("default-src 'none'"));
    assert!(!page.body.contains("{{nonce}}") && !page.body.contains("http://www.example"));
}

#[test]
fn a_web_page_changes_nothing() {
    let plane = Plane::start(&[]);
    for header in [
        "origin: http://127.0.0.1\r\n",
        "sec-fetch-site: cross-site\r\n",
        "via: 1.1 a\r\n",
    ] {
        assert_eq!(ask(plane.admin, "POST", "/trust/add", header).status, 403);
    }
    assert_eq!(plane.status()["trust"]["roots"].as_array().unwrap().len(), 1);
}

#[test]
fn a_refused_source_and_a_conflict_are_shown() {
    let plane = Plane::start(&[]);
    plane
        .folder
        .write(&SHOP.replace("keyedGet: {batchPath: \"/users", "keydGet: {batchPath: \"/users"));
    let status = plane.until("it is refused", |status| {
        !status["source"]["refused"].as_array().unwrap().is_empty()
    });
    let refused = &status["source"]["refused"][0];
    assert_eq!(
        (&refused["line"], &refused["column"]),
        (&17.into(), &13.into()),
        "{refused}"
    );
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(warning.contains("no change of any file"), "{warning}");
    assert!(plane.get("/metrics").body.contains("jitney_source_accepted 0\n"));
    assert_eq!(plane.get("/ready").status, 200, "the last good set is in force");
    let another = SHOP.replace(
        "{name: orders, namespace: shop}\nspec:\n  targetRefs: [{kind: Backend, name: orders}]",
        "{name: users2, namespace: shop}\nspec:\n  targetRefs: [{kind: Backend, name: users}]",
    );
    plane.folder.write(&another);
    let loser = |status: &Value| {
        let policies = status["policies"].as_array().unwrap().iter();
        let mut loser = policies.filter(|policy| policy["name"] == "shop/users2");
        loser.next().map(|policy| policy["text"].clone())
    };
    let status = plane.until("it is taken, with a conflict", |status| {
        status["source"]["refused"].as_array().unwrap().is_empty()
            && !status["source"]["conflicts"].as_array().unwrap().is_empty()
            && loser(status).is_some()
    });
    let conflict = &status["source"]["conflicts"][0];
    assert_eq!(
        (&conflict["policy"], &conflict["winner"]),
        (&"shop/users2".into(), &"shop/users".into())
    );
    let reason = "shop/users is for the same, and comes first by name";
    assert_eq!(conflict["reason"], reason, "{conflict}");
    assert_eq!(loser(&status).unwrap(), format!("Conflicted: users: {reason}"));
    let warnings = status["source"]["warnings"].to_string();
    assert!(warnings.contains(reason), "{warnings}");
    let check = ended(&["check", &plane.folder.files().display().to_string()]);
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(
        check.status.success() && told.contains(&format!("without effect for users: {reason}")),
        "{told}"
    );
}

#[test]
fn a_file_that_is_empty_for_a_while_removes_nothing() {
    let plane = Plane::start(&[]);
    let generation = plane.status()["generation"].clone();
    let (file, more) = ("shop.yaml", plane.folder.files().join("more.yaml"));
    let refused = |file: &'static str| {
        move |status: &Value| {
            let refused = status["source"]["refused"].as_array().unwrap();
            refused.iter().any(|fault| {
                let text = fault["text"].as_str().unwrap();
                text.contains(file) && text.contains("is empty")
            })
        }
    };
    // As a shell's redirection does before the first byte comes.
    let held = fs::File::create(plane.folder.files().join(file)).unwrap();
    let status = plane.until("it is refused", refused(file));
    assert_eq!(status["generation"], generation);
    assert_eq!(status["policies"].as_array().unwrap().len(), 2);
    assert!(plane.get("/metrics").body.contains("jitney_source_accepted 0\n"));
    // Another in its place that nothing is in yet.
    drop(held);
    fs::rename(plane.folder.files().join(file), &more).unwrap();
    let status = plane.until("that is refused, too", refused("more.yaml"));
    assert_eq!(status["generation"], generation);
    fs::remove_file(&more).unwrap();
    let status = plane.until("so is a folder without files", |status| {
        status["source"]["refused"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("found no file named"))
    });
    assert_eq!(status["generation"], generation);
    let (users, _) = SHOP
        .split_once("---\nkind: Backend\nmetadata: {name: orders")
        .unwrap();
    plane.folder.write(users);
    plane.until("what is deleted in a file is gone", |status| {
        status["source"]["refused"] == serde_json::json!([]) && status["policies"] == serde_json::json!([])
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_nobody_is_told_until_somebody_is_here() {
    let plane = Plane::start(&[]);
    assert!(plane.get("/status").body.ends_with("}\n"));
    plane.folder.write(&format!(
        "{SHOP}---\nkind: Runtime\nmetadata: {{name: web, namespace: shop}}\n"
    ));
    let is_warned = |status: &Value| {
        let warnings = status["source"]["warnings"].as_array().unwrap();
        let mut texts = warnings.iter().map(|warning| warning["text"].as_str().unwrap());
        texts.any(|text| text.contains("knows the workload shop/web"))
    };
    plane.until("it is told", is_warned);
    let channel = Identity::of(&plane, "web").await.connect(&plane).await.unwrap();
    let mut web = Sidecar::new("web-1");
    web.open(channel).await.unwrap();
    plane.until("somebody is here", |status| !is_warned(status));
    drop(web);
    plane.until("and has left", is_warned);
}
