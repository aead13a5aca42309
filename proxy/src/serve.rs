//! One call, top to bottom: checked, routed, submitted to its batch or forwarded alone, replied.

mod account;
mod detour;

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Request};
use jitney_core::Bypass;
use jitney_core::key::{self, head_bypass};
use jitney_core::policy::{Replay, Timeouts};
use jitney_core::route::{Head, Route};

use crate::batching::alarm::now;
use crate::batching::pending::Answer;
use crate::batching::submission::Submission;
use crate::batching::submit::{GoesAlone, submit, submit_whole};
use crate::body::Body;
use crate::connection::{ConnInfo, Serve, Serving};
use crate::error::{Error, ErrorKind};
use crate::forward::forward;
use crate::headers::Received;
use crate::log::{Access, Connection};
use crate::reply::Reply;
use crate::send::Sending;
use crate::upstream::{RouteState, Upstream};

use crate::headers;
use account::Account;

/// Serves the calls of a listener in front of one upstream.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Where they go.
    pub upstream: Arc<Upstream>,
    /// What becomes of their heads first.
    pub received: Arc<Received>,
}

impl Serve for Sidecar {
    fn serve(&self, mut call: Request<Body>, connection: &Arc<ConnInfo>) -> Serving {
        if connection.identity.is_some() {
            headers::take_version(&mut call);
        }
        let treated = self.received.treat(&mut call, connection.peer);
        if let Some(identity) = &connection.identity {
            call.headers_mut().insert(CLIENT_ID, identity.value());
        }
        let admitted = treated.and_then(|()| {
            let is_admitted = connection.admits(Some((call.method(), call.uri().path())));
            is_admitted.then_some(()).ok_or_else(|| ErrorKind::Denied.into())
        });
        if let Err(error) = admitted {
            return self.refuse(&call, error);
        }
        serve(call, &self.upstream)
    }

    fn refuse(&self, call: &Request<Body>, error: Error) -> Serving {
        let account = Account::begin(&self.upstream, call, now());
        Box::pin(ready(account.close(Err(error), None, None)))
    }

    fn refuse_bytes(&self, connection: &ConnInfo) {
        let kind = ErrorKind::BadRequest("it is no request of HTTP");
        self.upstream.metrics.errors.inc(kind);
        if Access::is_on() {
            Connection {
                protocol: "http",
                info: connection,
                backend: &self.upstream.backend.name,
                duration: Duration::ZERO,
                reason: Some(kind.as_str()),
            }
            .log();
        }
    }

    fn is_batching(&self) -> bool {
        self.upstream.is_batching()
    }
}

fn serve(request: Request<Body>, upstream: &Arc<Upstream>) -> Serving {
    let began = now();
    let mut account = Account::begin(upstream, &request, began);
    let mut arrival = upstream.arrival(&head(&request));
    let detours = arrival.detours.take();
    let way;
    (way, account.state) = Way::of(arrival.route, arrival.timeouts, began);
    if let Some(refused) = arrival.refused {
        return Box::pin(ready(account.close(Err(refused.into()), None, None)));
    }
    match detours {
        None => go(account, way, request),
        Some(detours) => Box::pin(detour::take(account, way, request, detours)),
    }
}

/// What the policy of the backend that a call is sent to says of its way there.
struct Way {
    /// `None`: it passes through.
    route: Option<Arc<Route>>,
    timeouts: Timeouts,
    /// When the call set out on it: later than it began if it had to wait on purpose.
    set_out: Instant,
}

impl Way {
    fn of(
        route: Option<(Arc<Route>, Arc<RouteState>)>,
        timeouts: Timeouts,
        set_out: Instant,
    ) -> (Self, Option<Arc<RouteState>>) {
        let (route, state) = route.unzip();
        (
            Self {
                route,
                timeouts,
                set_out,
            },
            state,
        )
    }
}

fn head<B>(request: &Request<B>) -> Head<'_> {
    Head {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    }
}

/// Submits a call to its batch, or sends it alone.
fn go(account: Account, way: Way, request: Request<Body>) -> Serving {
    let (Some(route), Some(state)) = (way.route, &account.state) else {
        let sending = sending(way.timeouts, Replay::Idempotent, account.began, request.headers());
        return Box::pin(alone(account, Some(request), sending, None));
    };
    match state.arrived().or_else(|| head_bypass(&route, &head(&request))) {
        None => {
            let state = Arc::clone(state);
            together(account, route, state, way.set_out, request)
        }
        Some(why) => {
            let replay = route.on_failure.replay;
            let sending = sending(route.timeouts, replay, account.began, request.headers());
            Box::pin(alone(account, Some(request), sending, Some(why)))
        }
    }
}

/// A call that is not batched, for that reason if its route is.
async fn alone(
    account: Account,
    mut request: Option<Request<Body>>,
    sending: Sending,
    why: Option<Bypass>,
) -> Reply {
    account.bypassed(why);
    let reply = forward(&mut request, &account.upstream.backend, &sending).await;
    account.close(reply.map(Reply::Whole), why, None)
}

/// A call of a batching route.
fn together(
    account: Account,
    route: Arc<Route>,
    state: Arc<RouteState>,
    set_out: Instant,
    mut request: Request<Body>,
) -> Serving {
    // Nothing that asks to switch protocols comes here.
    headers::outbound(&mut request);
    let (timeouts, replay) = (route.timeouts, route.on_failure.replay);
    let sending = sending(timeouts, replay, account.began, request.headers());
    let (call, body) = Submission::new(&account.upstream, route, state, request, set_out, &sending);
    match body.into_whole(call.route.limits.max_bytes) {
        // What is at hand needs nothing of what waits for the rest of a body. Nor is it queued before it is asked for:
        // over HTTP/2 many a call has been taken back by then.
        Ok(body) => Box::pin(async move {
            match submit_whole(call, body) {
                Ok(seat) => answered(account, seat.answer().await),
                // Boxed as it is rarer, and larger.
                Err(declined) => {
                    Box::pin(async { settled(account, declined.settle().await, &sending).await }).await
                }
            }
        }),
        Err(body) => Box::pin(async move { settled(account, submit(call, body).await, &sending).await }),
    }
}

fn answered(account: Account, answer: Answer) -> Reply {
    account.close(answer.reply, None, answer.journey)
}

async fn settled(account: Account, settled: Result<Answer, GoesAlone>, sending: &Sending) -> Reply {
    match settled {
        Ok(answer) => answered(account, answer),
        // Boxed as it is rarer, and larger.
        Err(left) => Box::pin(unbatched(account, left, sending)).await,
    }
}

/// A call that turned out, once its body had come, to be none for a batch.
async fn unbatched(account: Account, left: GoesAlone, sending: &Sending) -> Reply {
    account.bypassed(Some(left.why));
    let sent = account
        .upstream
        .backend
        .send(&mut Some(left.request), sending)
        .await;
    drop(left.running);
    account.close(sent.map(Reply::Whole), Some(left.why), None)
}

/// The bounds of a call that arrived at `began`.
fn sending(timeouts: Timeouts, replay: Replay, began: Instant, headers: &HeaderMap) -> Sending {
    let patience = timeouts.patience(headers);
    Sending {
        deadline: patience.limit.map(|limit| began + limit),
        blames: !patience.is_callers,
        per_try: timeouts.per_try,
        replay,
        ..Sending::default()
    }
}

const CLIENT_ID: HeaderName = HeaderName::from_static(key::CLIENT_ID);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::submit::Seat;

    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_call_holds_while_it_waits_stays_small() {
        let of_member = size(|seat: Seat| seat.answer());
        assert!(of_member <= 160, "{of_member} bytes");
        let of_gathered = size(|(call, body)| submit(call, body));
        assert!(of_gathered < 768, "{of_gathered} bytes");
        let of_lone = size(|(account, call, sending)| alone(account, call, sending, None));
        assert!(of_lone < 3072, "{of_lone} bytes");
    }
}
