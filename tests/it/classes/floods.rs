//! Floods: whatever a caller sends, memory stays bounded, and a polite caller beside it is served.

use jitney_tests::flood::{Flood, Polite, memory};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frames, GET, frame, kind, literals};
use jitney_tests::policy::{Route, active};
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Reply, TestProxy, TestUpstream, caller};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::time::Instant;

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
    let end = Instant::now() + PATIENCE;
    while proxy.metric("jitney_downstream_connections", " ").await > 0.0 {
        assert!(Instant::now() < end, "{flood:?}: connections stay");
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

/// A service of HTTP/2 that says so, and reads nothing from then on.
async fn deaf(listener: TcpListener) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        held.push(Frames::accept(stream).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c05_calls_that_are_taken_back_are_not_kept_for_a_service_that_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let deaf = tokio::spawn(deaf(listener));
    let proxy = TestProxy::with().upstream(upstream).start().await;
    let began = Instant::now();
    let mut caller = Frames::connect(proxy.address).await.unwrap();
    let long = "l".repeat(1_000);
    let head = [&GET[..], &[("x-long", &*long); 15]].concat();
    let before = memory(proxy.pid());
    // Some hundred fill what the system takes for a connection, and the others would be 20 MiB or more.
    for streams in (0..1_500).map(|n| 2 * n + 1).collect::<Vec<u32>>().chunks(50) {
        for stream in streams {
            let call = frame(kind::HEADERS, END_HEADERS | END_STREAM, *stream, &literals(&head));
            caller.send(&call).await.unwrap();
        }
        let all = f64::from(streams[49].div_ceil(2));
        let tried = || proxy.metric("jitney_upstream_calls_total", "kind=\"single\"");
        while tried().await < all {
            assert!(
                began.elapsed() < 3 * PATIENCE,
                "not all of {all} calls come that far"
            );
        }
        for stream in streams {
            let reset = frame(kind::RST_STREAM, 0, *stream, &8_u32.to_be_bytes());
            caller.send(&reset).await.unwrap();
        }
    }
    let grown = memory(proxy.pid()) - before;
    assert!(grown <= BOUND / 3, "it takes {} KiB", grown >> 10);
    deaf.abort();
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
async fn c08_fields_of_a_byte_are_as_dear_as_others() {
    check(Flood::TinyFields, BOUND).await;
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
