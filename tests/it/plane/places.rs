//! Places: who may take how many, so that those who take all they can get starve nobody.

use jitney_tests::caller::get;
use jitney_tests::flood::unread;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::Code;

use super::client::{Identity, Sidecar};
use super::process::{PATIENCE, Plane};

/// Of the metrics, how many were turned away for a reason.
fn refused(plane: &Plane, reason: &str) -> u64 {
    let metrics = plane.get("/metrics").body;
    let line = format!("jitney_refused_total{{reason=\"{reason}\"}} ");
    let count = metrics.lines().find_map(|found| found.strip_prefix(&line));
    count.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_keeps_nobody_out_and_is_sent_away() {
    let plane = Plane::start(&["--max-sidecars", "16"]);
    let identity = Identity::of(&plane, "users").await;
    let nobody = Identity::new();
    // More than there may be sidecars.
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(nobody.secured(&plane).await);
    }
    let mut users = Sidecar::new("users-1");
    users.open(identity.connect(&plane).await.unwrap()).await.unwrap();
    for mut stranger in strangers {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stranger.read_to_end(&mut rest));
        // With or without a word of TLS.
        drop(ended.await.expect("it is cut off"));
    }
    assert_eq!(refused(&plane, "stranger"), 100);
    assert_eq!(plane.status()["sidecars"]["connected"], 1);
    Identity::of(&plane, "users").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_workload_leaves_room_for_another() {
    let plane = Plane::start(&["--max-sidecars", "32"]);
    let (users, orders) = (
        Identity::of(&plane, "users").await,
        Identity::of(&plane, "orders").await,
    );
    let mut all = Vec::new();
    for number in 0..30 {
        let mut sidecar = Sidecar::new(&format!("users-{number}"));
        sidecar.open(users.connect(&plane).await.unwrap()).await.unwrap();
        all.push(sidecar);
    }
    let mut one_more = Sidecar::new("users-30");
    let told = one_more
        .open(users.connect(&plane).await.unwrap())
        .await
        .unwrap_err();
    assert_eq!(told.code(), Code::ResourceExhausted, "{told}");
    assert!(told.message().contains("of one workload"), "{told}");
    assert!(told.metadata().contains_key("grpc-retry-pushback-ms"));
    assert_eq!(refused(&plane, "share"), 1);
    let mut other = Sidecar::new("orders-1");
    other.open(orders.connect(&plane).await.unwrap()).await.unwrap();
    drop(all.pop());
    plane.until("a place is free", |status| status["sidecars"]["connected"] == 30);
    one_more.open(users.connect(&plane).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_one_stream() {
    let plane = Plane::start(&[]);
    let identity = Identity::of(&plane, "users").await;
    let channel = identity.connect(&plane).await.unwrap();
    let (mut one, mut other) = (Sidecar::new("users-1"), Sidecar::new("users-2"));
    one.open(channel.clone()).await.unwrap();
    let told = other.open(channel.clone()).await.unwrap_err();
    assert_eq!(told.code(), Code::AlreadyExists, "{told}");
    assert_eq!(refused(&plane, "second"), 1);
    drop(one);
    plane.until("it has ended", |status| status["sidecars"]["connected"] == 0);
    other.open(channel).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answers_of_the_admin_endpoint_takes_it_from_nobody() {
    let plane = Plane::start(&[]);
    let _held = unread(plane.admin, "/status", 64).await.unwrap();
    for path in ["/live", "/ready", "/status"] {
        let answer = timeout(PATIENCE, get(plane.admin, path)).await;
        assert_eq!(answer.expect("it is answered").unwrap().status, 200, "{path}");
    }
}

/// So many connections from a host, each of which says this and no more.
async fn crowd(plane: &Plane, from: [u8; 4], says: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..2_200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(plane.address).await.unwrap();
        stream.write_all(says).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

/// More than there may be handshakes, and to be waited for twice.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_stops_there_keeps_no_sidecar_out() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let hello = Identity::new().hello(&Plane::start(&[]));
    // The silent ones are on the sidecar's own machine.
    for (from, says) in [([127, 0, 0, 1], &[][..]), ([127, 0, 0, 2], &hello)] {
        let plane = Plane::start(&[]);
        let _crowd = crowd(&plane, from, says).await;
        Identity::of(&plane, "users").await;
        let sent_away = refused(&plane, "handshake");
        assert!(sent_away < 1_024, "it had to wait until {sent_away} had gone");
    }
}
