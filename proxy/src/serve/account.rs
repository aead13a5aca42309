//! What is counted and logged of a call, once its reply has ended; of one whose caller leaves before, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use jitney_core::Bypass;
use jitney_core::grpc::{self, Code};

use super::CLIENT_ID;
use crate::batching::alarm::now;
use crate::batching::pending::Journey;
use crate::drain;
use crate::error::{Error, ErrorKind};
use crate::headers::X_REQUEST_ID;
use crate::log::{Access, Asked, CUT_OFF, InBatch};
use crate::reply::{self, Reply, Tongue};
use crate::send::{Ending, Told};
use crate::upstream::{RouteState, Upstream};

/// One call's account, which is closed with its reply; or when it is dropped, as its caller has left then.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) upstream: Arc<Upstream>,
    /// Its route's; `None` when it has none.
    pub(super) state: Option<Arc<RouteState>>,
    pub(super) began: Instant,
    tongue: Tongue,
    line: Option<Box<Line>>,
    progress: Progress,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// There is no reply yet.
    Open,
    /// A reply of this status has begun.
    Answered(StatusCode, Option<&'static str>),
    Closed,
}

/// What an access line needs of a call that is gone by then.
#[derive(Debug)]
struct Line {
    asked: Asked,
    batch: Option<InBatch>,
    /// The code in the head of the reply, if there is one.
    code: Option<Code>,
}

impl Account {
    pub(super) fn begin<B>(upstream: &Arc<Upstream>, call: &Request<B>, began: Instant) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            state: None,
            began,
            tongue: Tongue::of(call.headers()),
            line: Access::is_on().then(|| Box::new(Line::begin(call))),
            progress: Progress::Open,
        }
    }

    /// The call goes alone although its route batches.
    pub(super) fn bypassed(&self, why: Option<Bypass>) {
        if let (Some(state), Some(why)) = (&self.state, why) {
            state.metrics.bypass.inc(why);
        }
    }

    /// Turns what became of the call into its response. It is counted, and its access line is written, when that
    /// has ended; at once if it is at hand.
    pub(super) fn close(
        mut self,
        reply: Result<Reply, Error>,
        why: Option<Bypass>,
        journey: Option<Journey>,
    ) -> Reply {
        let failed = reply.as_ref().err().map(Error::kind);
        let mut reply = reply.unwrap_or_else(|error| {
            self.upstream.metrics.errors.inc(error.kind());
            self.tongue.tell(&error).into()
        });
        // What a call of gRPC came to is counted as if it were none: its head says 200 of everything.
        let said = || match &self.tongue {
            Tongue::Http => reply.status(),
            Tongue::Grpc(_) => reply.said(),
        };
        let status = failed.map_or_else(said, reply::status);
        let reason = failed
            .map(|kind| kind.as_str())
            .or_else(|| why.map(Bypass::as_str));
        self.progress = Progress::Answered(status, reason);
        if let Some(line) = &mut self.line {
            line.batch = journey.map(InBatch::from);
            line.code = reply.headers().and_then(Code::of);
        }
        match &mut reply {
            Reply::Whole(response) => response.body_mut().account(self),
            Reply::Share(..) => self.ended(Ending::Whole(None)),
        }
        reply
    }

    /// The caller has had a reply of this status, or it broke off in a way that another one stands for.
    fn answered(&self, status: StatusCode, reason: Option<&str>, trailers: Option<&HeaderMap>) {
        let status = trailers.map_or(status, |trailers| grpc::status(status, trailers));
        let duration = now().saturating_duration_since(self.began);
        let route = self.state.as_ref().map(|state| &state.metrics.calls);
        let calls = route.unwrap_or(&self.upstream.metrics.pass_through);
        calls.answered(status, duration);
        self.write(status, reason, trailers.and_then(Code::of), duration);
    }

    fn failed(&self, kind: ErrorKind) {
        self.upstream.metrics.errors.inc(kind);
        self.answered(reply::status(kind), Some(kind.as_str()), None);
    }

    /// The caller left without a reply, or the sidecar did.
    fn left(&self) {
        if drain::is_cut_off() {
            let duration = now().saturating_duration_since(self.began);
            return self.write(StatusCode::SERVICE_UNAVAILABLE, Some(CUT_OFF), None, duration);
        }
        let kind = ErrorKind::CallerGone;
        self.upstream.metrics.errors.inc(kind);
        let duration = now().saturating_duration_since(self.began);
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST);
        self.write(status, Some(kind.as_str()), None, duration);
    }

    fn write(&self, status: StatusCode, reason: Option<&str>, code: Option<Code>, duration: Duration) {
        let Some(line) = &self.line else { return };
        Access {
            asked: &line.asked,
            status,
            grpc_status: code.or(line.code).map(Code::number),
            duration,
            backend: &self.upstream.backend.name,
            route: self.state.as_ref().map(|state| &**state.metrics.name()),
            batch: line.batch,
            reason,
        }
        .log();
    }
}

impl Told for Account {
    fn ended(&mut self, ending: Ending<'_>) {
        let progress = std::mem::replace(&mut self.progress, Progress::Closed);
        match (progress, ending) {
            (Progress::Closed, _) => {}
            (Progress::Open, _) => self.left(),
            (Progress::Answered(status, reason), Ending::Whole(trailers)) => {
                self.answered(status, reason, trailers);
            }
            // Streams without an end usually end so.
            (Progress::Answered(status, _), Ending::Left) => {
                let gone = ErrorKind::CallerGone.as_str();
                let reason = if drain::is_cut_off() { CUT_OFF } else { gone };
                self.answered(status, Some(reason), None);
            }
            (Progress::Answered(..), Ending::Broken) => self.failed(ErrorKind::UpstreamReset),
            (Progress::Answered(..), Ending::Late | Ending::Unread) => {
                self.failed(ErrorKind::DeadlineExceeded)
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ended(Ending::Left);
    }
}

impl Line {
    fn begin<B>(call: &Request<B>) -> Self {
        let field = |name: HeaderName| {
            let value = call.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into())
        };
        let authority = call.uri().authority().map(|authority| authority.as_str().into());
        Self {
            asked: Asked {
                method: Method::clone(call.method()),
                host: authority.or_else(|| field(HOST)),
                path: call.uri().path().into(),
                caller: field(CLIENT_ID),
                request_id: field(X_REQUEST_ID),
            },
            batch: None,
            code: None,
        }
    }
}

impl From<Journey> for InBatch {
    fn from(journey: Journey) -> Self {
        Self {
            id: journey.batch,
            position: journey.position,
            size: journey.size,
            wait: journey.waited,
            reason: journey.reason.as_str(),
        }
    }
}

/// What nginx writes of a caller that left without a reply.
const CLIENT_CLOSED_REQUEST: u16 = 499;
