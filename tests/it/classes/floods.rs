//! Floods: whatever a caller sends, memory stays bounded, and a polite caller beside it is served.

use jitney_tests::flood::{Flood, Polite, memory};
use jitney_tests::policy::{Route, active};
use jitney_tests::wait::until;
use jitney_tests::{Reply, TestProxy, TestUpstream, caller};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a flood may cost at its height, whoever floods: a few connections' buffers and streams.
const BOUND: usize = 48 << 20;
/// What an open connection may cost, in a build without optimisation.
const EACH: usize = 32 << 10;

/// Floods a sidecar; its memory may grow by so much.
async fn check(flood: Flood, bound: usize) {
    // Each connection of a flood is a file here, too.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")).await;
    let mut proxy = TestProxy::with().upstream(upstream.address).start().await;
    // What is made once is there before.
    for _ in 0..100 {
        caller::get(proxy.address, "/").await.unwrap();
    }
    let before = memory(proxy.pid());
    let polite = Polite::start(proxy.address);
    let mut most = before;
    let flooding = flood.run(proxy.address);
    let mut flooding = std::pin::pin!(flooding);
    let open = loop {
        tokio::select! {
            open = &mut flooding => break open.unwrap(),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => most = most.max(memory(proxy.pid())),
        }
    };
    most = most.max(memory(proxy.pid()));
    polite.stop().await;
    assert!(proxy.runs(), "{flood:?} ended it: {}", proxy.log());
    let grown = most - before;
    assert!(grown <= bound, "{flood:?} takes {} KiB", grown >> 10);
    // Nothing of it is left in flight.
    drop(open);
    let end = tokio::time::Instant::now() + jitney_tests::wait::PATIENCE;
    while proxy.metric("jitney_downstream_connections", " ").await > 0.0 {
        assert!(tokio::time::Instant::now() < end, "{flood:?}: connections stay");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    until("it says nothing of a panic", || !proxy.log().contains("panicked")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c05_rapid_resets_cost_their_sender_the_connection() {
    check(Flood::RapidReset, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c05_rapid_resets_are_no_flood_of_the_service() {
    for policy in [active(&[Route::json_rpc()]), active(&[Route::users()])] {
        let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")).await;
        let settings = TestProxy::with().upstream(upstream.address);
        let proxy = settings.policy(&*policy).start().await;
        // Of fifty connections each sends two thousand calls that it takes back, until it is cut off.
        Flood::RapidReset.run(proxy.address).await.unwrap();
        let opened = upstream.connections();
        assert!(opened <= 100, "{opened} connections to the service of {policy}");
        caller::get(proxy.address, "/").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c06_resets_that_a_caller_provokes_are_bounded() {
    check(Flood::MadeReset, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c07_a_field_section_without_end_is_cut_off() {
    check(Flood::Continuation, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c08_fields_are_counted_as_they_unfold() {
    check(Flood::HeaderBomb, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c09_empty_data_is_worth_nothing() {
    check(Flood::EmptyData, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_a_thousand_slow_heads_harm_nobody() {
    check(Flood::SlowHeads, 1_000 * EACH + (8 << 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_five_thousand_idle_connections_cost_little() {
    check(Flood::Idle, 5_000 * EACH + (8 << 20)).await;
}
