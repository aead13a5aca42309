//! A call is tried again while its body is still on its way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_tests::caller::request;
use jitney_tests::{Caller, Route, TestProxy, policy, wait};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// An upstream that refuses the first call before its body has come, and gives the body of others back.
async fn hasty() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let answer = move |call: Request<Incoming>| {
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                async move {
                    let body = if is_first {
                        Bytes::new()
                    } else {
                        call.into_body().collect().await?.to_bytes()
                    };
                    let status = if is_first { 503 } else { 200 };
                    let reply = Response::builder().status(status).body(Full::new(body));
                    Ok::<_, hyper::Error>(reply.unwrap())
                }
            };
            tokio::spawn(async move {
                let mut first = [0; 3];
                let is_http2 = matches!(socket.peek(&mut first).await, Ok(3)) && &first == b"PRI";
                let (io, service) = (TokioIo::new(socket), service_fn(answer));
                // However it ends: what the caller gets is what is tested.
                if is_http2 {
                    let server = http2::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(io, service).await);
                } else {
                    drop(http1::Builder::new().serve_connection(io, service).await);
                }
            });
        }
    });
    (address, calls)
}

async fn is_repeated_whole(caller: impl AsyncFnOnce(SocketAddr) -> anyhow::Result<Caller>) {
    let (address, calls) = hasty().await;
    let text = policy::active(&[Route::kserve()]) + "  traffic: {retry: {attempts: 1, on: [\"503\"]}}\n";
    let proxy = TestProxy::start(address, &text).await;
    let (pieces, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let mut call = request("PUT", "/x", &[], "");
    *call.body_mut() = StreamBody::new(ReceiverStream::new(body)).boxed();
    let mut caller = caller(proxy.address).await.unwrap();
    let answer = tokio::spawn(async move { caller.call(call).await });
    let piece = |text| pieces.send(Ok(Frame::data(Bytes::from_static(text))));
    piece(b"abc").await.unwrap();
    wait::until("it is tried again", || calls.load(Ordering::SeqCst) == 2).await;
    piece(b"def").await.unwrap();
    drop(pieces);
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text()), (200, "abcdef".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_is_repeated_while_its_body_comes_over_http1() {
    is_repeated_whole(Caller::h1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_is_repeated_while_its_body_comes_over_http2() {
    is_repeated_whole(Caller::h2).await;
}
