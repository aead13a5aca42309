//! A sidecar that is killed while the control plane is away is who it was when it starts again: its key and
//! certificate are on its disk.

use std::fs;
use std::path::PathBuf;

use jitney_tests::caller::get;
use jitney_tests::proxy::Settings;
use jitney_tests::{Reply, TestControlPlane, TestProxy, TestUpstream, wait};

use crate::mtls::{STRICT, mesh, start};
use crate::pushed::free_ports;

/// A callee that takes secured calls only, and its caller.
struct Mesh {
    plane: TestControlPlane,
    documents: String,
    /// How the callee is started, always with the same token.
    settings: Settings,
    callee: TestProxy,
    caller: TestProxy,
    _users: TestUpstream,
}

impl Mesh {
    /// One whose control plane has ended without a word, and its callee after it.
    async fn that_is_lost() -> Self {
        let users = TestUpstream::start(|seen| Reply::json(200, seen.target.clone())).await;
        let ports = free_ports();
        let endpoint = format!("127.0.0.1:{}", ports[0]);
        let documents = mesh(&users.address.to_string(), ports, &endpoint, "mtls: Strict");
        let plane = TestControlPlane::start(&format!("{documents}{STRICT}")).await;
        let settings = plane.sidecar("shop/users", "users-1").pushed();
        let mut mesh = Self {
            callee: settings.clone().start().await,
            caller: start(&plane, "front", "front-1").await,
            settings,
            documents,
            plane,
            _users: users,
        };
        mesh.is_called("/before").await;
        mesh.plane.kill();
        // What it was told last is on disk by then.
        let noticed = || mesh.callee.log().contains("what is in force stays");
        wait::until("the callee noticed", noticed).await;
        mesh.callee.kill();
        mesh
    }

    fn kept(&self) -> PathBuf {
        self.plane.folder().join("snapshots/users-1")
    }

    /// Over a connection that both sidecars have proven themselves on: neither takes another.
    async fn is_called(&self, path: &str) {
        let answer = get(self.caller.address, path).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, path));
        assert!(
            get(self.callee.address, path).await.is_err(),
            "a bare call is let in"
        );
    }

    async fn is_connected(&self) {
        let connected = || self.callee.log().contains("connected control_plane");
        wait::until("it is connected", connected).await;
    }

    /// Whether the callee follows what it is told.
    async fn is_told(&self) {
        let louder = STRICT.replace("{mtls", "{logLevel: debug, mtls");
        self.plane.write(&format!("{}{louder}", self.documents));
        let end = tokio::time::Instant::now() + wait::PATIENCE;
        while self.callee.admin("/log-level").await.text() != "debug\n" {
            assert!(tokio::time::Instant::now() < end, "{}", self.callee.log());
        }
    }
}

#[tokio::test]
async fn a_callee_is_who_it_was_although_the_control_plane_is_away() {
    let mut mesh = Mesh::that_is_lost().await;
    mesh.callee = mesh.settings.clone().start().await;
    let log = mesh.callee.log();
    let told = "the certificate is back from disk identity=spiffe://cluster.local/ns/shop/sa/users";
    assert!(log.contains(told), "{log}");
    mesh.is_called("/meanwhile").await;

    mesh.plane.restart().await;
    mesh.is_connected().await;
    mesh.is_told().await;
    mesh.is_called("/after").await;
    let log = mesh.callee.log();
    // The certificate is shown to the control plane, too. Its token is used up.
    assert!(!log.contains("certificate received"), "{log}");
    assert!(!log.contains("is not renewed"), "{log}");
}

#[tokio::test]
async fn a_control_plane_of_another_authority_is_asked_with_a_token() {
    let mut mesh = Mesh::that_is_lost().await;
    let token = mesh.plane.folder().join("users-1.0.token");
    fs::remove_dir_all(mesh.plane.folder().join("state")).unwrap();
    mesh.plane.restart().await;
    fs::copy(mesh.plane.token("shop/users", "fresh"), token).unwrap();

    let before = fs::read(mesh.kept().join("identity.pem")).unwrap();
    mesh.callee = mesh.settings.clone().start().await;
    mesh.is_connected().await;
    let log = mesh.callee.log();
    assert!(log.contains("the certificate is back from disk"), "{log}");
    assert!(log.contains("certificate received"), "{log}");
    mesh.is_told().await;
    let after = fs::read(mesh.kept().join("identity.pem")).unwrap();
    assert!(before != after, "the next start would begin with the old one");
}

#[tokio::test]
async fn what_was_kept_under_another_name_is_not_used() {
    let mut mesh = Mesh::that_is_lost().await;
    let other = mesh.plane.sidecar("shop/users", "users-2").pushed();
    let folder = mesh.plane.folder().join("snapshots/users-2");
    fs::rename(mesh.kept(), &folder).unwrap();
    mesh.callee = other.spawn();
    mesh.callee.answering().await;
    let log = mesh.callee.log();
    let file = folder.join("identity.pem");
    let told = format!(
        "the certificate that was kept is not used file={} \
         reason=\"it was given to --node users-1, and this sidecar is users-2\"",
        file.display()
    );
    assert!(log.contains(&told), "{log}");
    assert_eq!(get(mesh.caller.address, "/").await.unwrap().status, 502);

    // Nobody is to send it calls that it has to refuse.
    let ready = mesh.callee.admin("/ready").await;
    let told = "callers have to be secured, and there is no certificate";
    assert_eq!(ready.status, 503);
    assert!(ready.text().starts_with(told), "{}", ready.text());
    mesh.plane.restart().await;
    mesh.callee.ready().await;
    assert_eq!(mesh.callee.admin("/ready").await.status, 200);
    mesh.is_called("/after").await;
}
