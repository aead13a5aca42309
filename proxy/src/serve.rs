//! One call, top to bottom: checked, routed, submitted to its batch or forwarded alone, replied.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use jitney_core::Bypass;
use jitney_core::key::head_bypass;
use jitney_core::policy::{Replay, Timeouts};
use jitney_core::route::{Head, Route};

use crate::batching::alarm::now;
use crate::batching::pending::Journey;
use crate::batching::submit::{Submitted, submit};
use crate::body::Body;
use crate::connection::{ConnInfo, Serve};
use crate::error::{Error, ErrorKind};
use crate::forward::forward;
use crate::log::{Access, InBatch};
use crate::send::Sending;
use crate::upstream::{RouteState, Upstream};
use crate::{headers, reply};

/// Serves the calls of a listener in front of one upstream.
#[derive(Clone, Debug)]
pub struct Sidecar(pub Arc<Upstream>);

impl Serve for Sidecar {
    async fn serve(&self, call: Request<Incoming>, _: &Arc<ConnInfo>) -> Response<Body> {
        serve(call, &self.0).await
    }
}

async fn serve(request: Request<Incoming>, upstream: &Arc<Upstream>) -> Response<Body> {
    let began = now();
    let line = Line::begin(&request);
    let head = Head {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    };
    let arrival = upstream.arrival(&head);
    if let Some(wait) = arrival.limited {
        let state = arrival.route.as_ref().map(|(_, state)| &**state);
        let limited = Err(ErrorKind::RateLimited(wait).into());
        return Ended::alone(limited, None).finish(upstream, state, began, line);
    }
    let Some((route, state)) = arrival.route else {
        let sending = sending(arrival.timeouts, Replay::Idempotent, began);
        let reply = forward(request, &upstream.backend, &sending).await;
        return Ended::alone(reply, None).finish(upstream, None, began, line);
    };
    let ended = match state.arrived().or_else(|| head_bypass(&route, &head)) {
        None => together(upstream, route, &state, request, began).await,
        Some(why) => {
            state.metrics.bypass.inc(why);
            let sending = sending(route.timeouts, route.on_failure.replay, began);
            Ended::alone(forward(request, &upstream.backend, &sending).await, Some(why))
        }
    };
    ended.finish(upstream, Some(&state), began, line)
}

async fn together(
    upstream: &Arc<Upstream>,
    route: Arc<Route>,
    state: &Arc<RouteState>,
    mut request: Request<Incoming>,
    began: Instant,
) -> Ended {
    // Nothing that asks to switch protocols comes here.
    headers::outbound(&mut request);
    let sending = sending(route.timeouts, route.on_failure.replay, began);
    match submit(upstream, route, Arc::clone(state), request, sending.deadline).await {
        Submitted::Answered(reply, journey) => Ended {
            reply,
            why: None,
            journey,
        },
        Submitted::Alone(request, why, running) => {
            state.metrics.bypass.inc(why);
            let ended = Ended::alone(upstream.backend.send(request, &sending).await, Some(why));
            drop(running);
            ended
        }
    }
}

/// The bounds of a call that arrived at `began`.
fn sending(timeouts: Timeouts, replay: Replay, began: Instant) -> Sending {
    Sending {
        deadline: timeouts.request.map(|limit| began + limit),
        per_try: timeouts.per_try,
        replay,
        ..Sending::default()
    }
}

/// A call that has its reply.
struct Ended {
    reply: Result<Response<Body>, Error>,
    /// Why it travelled alone on a batching route.
    why: Option<Bypass>,
    journey: Option<Journey>,
}

impl Ended {
    const fn alone(reply: Result<Response<Body>, Error>, why: Option<Bypass>) -> Self {
        Self {
            reply,
            why,
            journey: None,
        }
    }

    /// Turns what became of the call into its response, counts it, and writes its access line.
    fn finish(
        self,
        upstream: &Upstream,
        state: Option<&RouteState>,
        began: Instant,
        line: Option<Line>,
    ) -> Response<Body> {
        let failed = self.reply.as_ref().err().map(Error::kind);
        let response = self.reply.unwrap_or_else(|error| {
            upstream.metrics.errors.inc(error.kind());
            reply::of_error(&error)
        });
        let duration = now().saturating_duration_since(began);
        let calls = state.map_or(&upstream.metrics.pass_through, |state| &state.metrics.calls);
        calls.answered(response.status(), duration);
        if let Some(line) = line {
            Access {
                method: &line.method,
                path: &line.path,
                status: response.status(),
                duration,
                backend: &upstream.backend.name,
                route: state.map(|state| &**state.metrics.name()),
                batch: self.journey.map(InBatch::from),
                reason: failed
                    .map(|kind| kind.as_str())
                    .or_else(|| self.why.map(Bypass::as_str)),
            }
            .log();
        }
        response
    }
}

/// What an access line needs of a request that is gone by then.
struct Line {
    method: Method,
    path: Box<str>,
}

impl Line {
    fn begin<B>(request: &Request<B>) -> Option<Self> {
        Access::is_on().then(|| Self {
            method: request.method().clone(),
            path: request.uri().path().into(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_is_moved_with_every_call_stays_small() {
        let of_call =
            size(async |(call, upstream): (Request<Incoming>, Arc<Upstream>)| serve(call, &upstream).await);
        assert!(of_call < 4096, "{of_call} bytes");
    }
}
