//! Another try for a call that travels alone, by the policy's `retry`.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use jitney_core::grpc::{self, Code};
use jitney_core::policy::{Replay, Retry};
use jitney_core::retry::{Allowance, Cause, Tried};
use parking_lot::Mutex;

use super::failed::{KEPT, copy, is_unprocessed};
use super::said;
use crate::batching::alarm::now;
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::reply;

/// A backend's retries.
#[derive(Debug)]
pub(super) struct Retries {
    pub(super) rules: Retry,
    allowance: Mutex<Allowance>,
}

/// The tries that one call may still have.
#[derive(Debug)]
pub(super) struct Again {
    retries: Arc<Retries>,
    left: u32,
    method: Method,
    leave: Replay,
    /// It is one of gRPC.
    is_grpc: bool,
    /// The call once more, when its body is at hand.
    spare: Option<Request<Body>>,
}

impl Retries {
    pub(super) fn new(rules: Retry) -> Self {
        let allowance = Mutex::new(Allowance::new(rules.budget));
        Self { rules, allowance }
    }
}

impl Again {
    /// Counts the call. From now on what passes of its body is kept, if it may be sent twice.
    pub(super) fn new(retries: Arc<Retries>, request: &mut Request<Body>, replay: Replay) -> Box<Self> {
        retries.allowance.lock().called(now());
        let leave = retries.rules.leave(replay);
        let is_grpc = grpc::content_type(request.headers()).is_some();
        if retries.rules.may_repeat(leave, request.method(), is_grpc) {
            request.body_mut().keep(KEPT);
        }
        Box::new(Self {
            left: retries.rules.attempts,
            method: request.method().clone(),
            leave,
            is_grpc,
            spare: copy(request),
            retries,
        })
    }

    /// Puts the call into its place once more, if the policy wants it tried again.
    pub(super) fn prepare(
        &mut self,
        sent: &Result<Response<Body>, Error>,
        unsent: &mut Option<Request<Body>>,
    ) -> bool {
        if self.left == 0
            || !self
                .retries
                .rules
                .is_worth_another(self.tried(sent), self.leave, &self.method)
        {
            return false;
        }
        let is_at_hand = |spare: &Request<Body>| spare.body().is_whole();
        if unsent.is_none() && !self.spare.as_ref().is_some_and(is_at_hand) {
            return false;
        }
        if !self.retries.allowance.lock().take(now()) {
            return false;
        }
        // The try before may still be sending it.
        let claim = |spare: &mut Request<Body>| spare.body_mut().claim();
        if unsent.is_none() && !self.spare.as_mut().is_some_and(claim) {
            return false;
        }
        self.left -= 1;
        if unsent.is_none() {
            *unsent = self.spare.take();
            if self.left > 0 {
                self.spare = unsent.as_ref().and_then(copy);
            }
        }
        true
    }

    /// How a try ended, in the words of the policy.
    fn tried(&self, sent: &Result<Response<Body>, Error>) -> Tried {
        let (cause, status, code) = match sent {
            Ok(reply) => (Cause::Other, said(reply), Code::of(reply.headers())),
            Err(error) => {
                let (status, code) = told(error.kind());
                (cause(error), status, Some(code))
            }
        };
        Tried {
            cause,
            status,
            code: code.filter(|_| self.is_grpc),
        }
    }

    /// Gives an endpoint that has just failed a moment, longer each time.
    pub(super) async fn pause(&self, random: u64) {
        let before = self.retries.rules.attempts.saturating_sub(self.left + 1);
        let pause = PAUSE.saturating_mul(1 << before.min(4));
        // Half of it at random, lest all the calls that failed together come back together.
        let random = u32::try_from(random % 128).unwrap_or(0);
        tokio::time::sleep(pause / 2 + pause * random / 256).await;
    }
}

/// The status or code that the caller would get, if another try may help at all.
fn told(kind: ErrorKind) -> (StatusCode, Code) {
    match kind {
        // This sidecar's own verdicts and the caller's own faults: another try changes nothing.
        ErrorKind::BadRequest(_)
        | ErrorKind::Loop
        | ErrorKind::Denied
        | ErrorKind::BodyTooLarge
        | ErrorKind::CallerGone
        | ErrorKind::Shed(..)
        | ErrorKind::RateLimited(_)
        | ErrorKind::DeadlineExceeded
        | ErrorKind::NoEndpoint => (StatusCode::OK, Code::OK),
        ErrorKind::Connect
        | ErrorKind::ConnectTimeout
        | ErrorKind::TryTimeout
        | ErrorKind::UpstreamReset
        | ErrorKind::UpstreamProtocol(_)
        | ErrorKind::ReplyTooLarge
        | ErrorKind::Mismatch
        | ErrorKind::FaultInjected(_) => (reply::status(kind), reply::code(kind)),
    }
}

fn cause(error: &Error) -> Cause {
    let refused = || {
        let mut cause = error.source();
        while let Some(found) = cause {
            if let Some(h2) = found.downcast_ref::<h2::Error>() {
                return is_unprocessed(h2);
            }
            cause = found.source();
        }
        false
    };
    match error.kind() {
        ErrorKind::Connect | ErrorKind::ConnectTimeout => Cause::Unconnected,
        ErrorKind::UpstreamReset if refused() => Cause::Refused,
        ErrorKind::UpstreamReset | ErrorKind::TryTimeout => Cause::Reset,
        ErrorKind::BadRequest(_)
        | ErrorKind::Loop
        | ErrorKind::Denied
        | ErrorKind::BodyTooLarge
        | ErrorKind::CallerGone
        | ErrorKind::Shed(..)
        | ErrorKind::RateLimited(_)
        | ErrorKind::DeadlineExceeded
        | ErrorKind::NoEndpoint
        | ErrorKind::UpstreamProtocol(_)
        | ErrorKind::ReplyTooLarge
        | ErrorKind::Mismatch
        | ErrorKind::FaultInjected(_) => Cause::Other,
    }
}

/// The first pause, as in Envoy.
const PAUSE: Duration = Duration::from_millis(25);
