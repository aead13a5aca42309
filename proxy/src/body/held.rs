//! A body whose caller asked whether it may send it (`Expect: 100-continue`): it is not asked for before the service
//! has said so, as whoever asks for it gives that leave (RFC 9110 section 10.1.1). Only callers of HTTP/1.1 are waited
//! with who have sent nothing behind the head, and only where the service is spoken to directly: over HTTP/2, as between
//! sidecars, the library tells nobody of interim replies.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, StatusCode};
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use tokio::sync::oneshot::{self, Receiver};
use tokio::time::{Sleep, sleep};

use super::{Body, Broken, Kind};

/// The body, until leave is given.
#[derive(Debug)]
pub(super) struct Held {
    body: Body,
    /// `None` once there is leave.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// `None` once the service has answered without giving it.
    leave: Option<Receiver<()>>,
    /// Made once the body is asked for.
    patience: Option<Pin<Box<Sleep>>>,
}

/// The caller of a request waits for leave to send the body.
#[derive(Clone, Copy, Debug)]
struct Asks;

/// Notes that the caller of a request over HTTP/1.1 waits for leave, if it says so. It has sent all of the head, and
/// nothing more.
pub(crate) fn note_expectation(request: &mut Request<Body>) {
    let expected = request.headers().get(EXPECT);
    if expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        request.extensions_mut().insert(Asks);
    }
}

/// Has the body wait for leave of a service of HTTP/1.1, if its caller does.
pub(crate) fn await_leave(request: &mut Request<Body>) {
    if request.extensions().get::<Asks>().is_none() || request.body().pieces().is_some() {
        return;
    }
    let (giving, leave) = oneshot::channel();
    let body = match std::mem::replace(request.body_mut(), Body::empty()) {
        // For leave of another endpoint's.
        Body(Kind::Held(held)) => held.body,
        body => body,
    };
    let waiting = Some(Waiting {
        leave: Some(leave),
        patience: None,
    });
    // That it does not come is nobody's silence.
    body.note_awaited();
    request.body_mut().0 = Kind::Held(Box::new(Held { body, waiting }));
    let giving = Mutex::new(Some(giving));
    hyper::ext::on_informational(request, move |reply| {
        if reply.status() == StatusCode::CONTINUE
            && let Some(giving) = giving.lock().take()
        {
            // Nobody waits for it any more.
            let _is_gone = giving.send(());
        }
    });
}

impl Held {
    pub(super) const fn body(&self) -> &Body {
        &self.body
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.poll(cx));
            self.waiting = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(leave) = &mut self.leave
            && let Poll::Ready(given) = Pin::new(leave).poll(cx)
        {
            if given.is_ok() {
                return Poll::Ready(());
            }
            self.leave = None;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        patience.as_mut().poll(cx)
    }
}

/// Services of HTTP/1.0, and others that do not know what is asked, say nothing until they have the body. Callers send
/// it all the same after a while: those of .NET after 350 ms, curl and Go after 1 s. None of them is to be slower here.
const PATIENCE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn request(expected: &str) -> Request<Body> {
        let body = Body::resumed(vec![Bytes::from_static(b"ab")], Body::empty(), None);
        let mut request = Request::put("/").header(EXPECT, expected).body(body).unwrap();
        note_expectation(&mut request);
        await_leave(&mut request);
        request
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_leave_for_as_long_as_callers_do() {
        let mut request = request("100-Continue");
        let body = request.body_mut();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(2), false));
        let began = Instant::now();
        let soon = timeout(PATIENCE / 2, body.frame()).await;
        assert!(soon.is_err());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(
            (&frame.data_ref().unwrap()[..], began.elapsed()),
            (&b"ab"[..], PATIENCE)
        );
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn another_try_waits_for_leave_of_its_own() {
        let mut request = request("100-continue");
        assert!(timeout(PATIENCE * 2, request.body_mut().frame()).await.is_ok());
        await_leave(&mut request);
        let body = request.body_mut();
        assert!(!matches!(&body.0, Kind::Held(held) if matches!(held.body.0, Kind::Held(_))));
        let began = Instant::now();
        assert!(body.frame().await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_asks_about_waits_for_nothing() {
        let mut request = request("something else");
        let began = Instant::now();
        assert!(request.body_mut().frame().await.is_some());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
