//! One upstream request for one group of members: made, sent, its reply split and handed out.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri, response};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use jitney_core::batch::Outcome;
use jitney_core::bias::retry_after;
use jitney_core::codec::{self, AnyItem, Chunks, Codec, Encoded, MemberReply, Unsplit};
use jitney_core::fanout::fan_out;
use jitney_core::grpc;
use jitney_core::isolate::{self, Failure, Remedy, may_replay};
use smallvec::SmallVec;

use super::pending::{Group, Pending};
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::metrics::{BatchFailure, UpstreamCall};
use crate::reply::{self, Reply};
use crate::send::Sending;
use crate::upstream::{Cover, Upstream};

/// What came of one group.
pub(super) enum Attempt {
    /// Everyone has an answer.
    Answered,
    /// The reply left these out, and only the upstream knows what they get.
    Unanswered(Group),
    /// Nobody has an answer yet.
    Failed(Failed),
}

/// A group whose request failed as a whole.
pub(super) struct Failed {
    pub(super) group: Group,
    pub(super) failure: Failure,
    /// Positions of those whom the reply points at.
    pub(super) suspects: Vec<usize>,
    /// What was set aside for this.
    pub(super) cover: Option<Cover>,
    /// What is wrong with the reply, if there was one.
    pub(super) why: String,
    told: Told,
}

/// What the members hear when they are not sent again.
enum Told {
    /// The batch's own reply.
    Reply(StatusCode, Arc<HeaderMap>, Bytes),
    /// Something for each.
    Each(Arc<HeaderMap>, Vec<MemberReply>),
    Error(ErrorKind),
}

/// Sends one group. A group of one goes out as its original request.
pub(super) async fn attempt(upstream: &Upstream, mut group: Group) -> (Outcome, Attempt) {
    group.retain(|member| !member.has_left());
    let lonely = group.len() == 1;
    for member in &mut group {
        member.sends += 1;
        member.alone = lonely;
    }
    if group.len() > 1 {
        return together(upstream, group).await;
    }
    let outcome = match group.pop() {
        Some(member) => alone(upstream, *member).await,
        None => Outcome::Abandoned,
    };
    (outcome, Attempt::Answered)
}

/// Sends a call as it came and relays the reply as it comes.
async fn alone(upstream: &Upstream, mut member: Pending) -> Outcome {
    let sent = upstream
        .backend
        .send(
            &mut Some(member.take_request()),
            &member.sending(UpstreamCall::Single),
        )
        .await;
    let response = match sent {
        Ok(response) => response,
        Err(error) => {
            let outcome = outcome_of_error(error.kind());
            member.answer(Err(error));
            return outcome;
        }
    };
    let outcome = outcome_of(response.status(), response.headers());
    let reply = relay(&member, response).await;
    member.answer(reply.map(Reply::Whole));
    outcome
}

/// A short reply is read here, so that the batch's duration is that of the whole exchange;
/// a long or unbounded one streams. What is read is checked: a reply that its convention does not
/// allow is an error, whether its call travelled alone or not.
async fn relay(member: &Pending, response: http::Response<Body>) -> Result<http::Response<Body>, Error> {
    let (head, body) = response.into_parts();
    let short = body
        .size_hint()
        .exact()
        .is_some_and(|length| length <= SHORT_REPLY);
    if !short || body.is_end_stream() {
        return Ok(http::Response::from_parts(head, body));
    }
    let body = match body.collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(broken) => return Err(Error::caused(ErrorKind::UpstreamReset, broken)),
    };
    let reply = codec::Reply {
        status: head.status,
        headers: &head.headers,
        body: &body,
    };
    let readable = head.status == StatusCode::OK && !head.headers.contains_key(header::CONTENT_ENCODING);
    if readable && let Err(misfit) = member.call.route.codec.check(&member.item, &reply) {
        tracing::warn!(route = %member.call.route.name, %misfit, "a reply does not fit its call");
        return Err(Error::caused(ErrorKind::Mismatch, misfit));
    }
    Ok(http::Response::from_parts(head, Body::full(body)))
}

async fn together(upstream: &Upstream, group: Group) -> (Outcome, Attempt) {
    let (head, body) = match exchange(upstream, &group).await {
        Ok(reply) => reply,
        Err(error) => {
            let kind = error.kind();
            tracing::debug!(%error, members = group.len(), "a batch failed");
            let failure = if kind.never_sent() {
                Failure::Unsent
            } else {
                Failure::Broken
            };
            group[0].call.state.metrics.batch_failures.inc(broken(kind));
            return (
                outcome_of_error(kind),
                Failed::attempt(group, failure, Vec::new(), Told::Error(kind), error.to_string()),
            );
        }
    };
    let (first_id, body) = body;
    if head.headers.contains_key(header::SET_COOKIE) {
        group[0].call.state.saw_cookie();
    }
    let outcome = outcome_of(head.status, &head.headers);
    let reply = codec::Reply {
        status: head.status,
        headers: &head.headers,
        body: &body,
    };
    let split = group[0].call.route.codec.split(&items(&group), first_id, &reply);
    let shared = Arc::new(fan_out(&head.headers));
    match split {
        Ok(replies) => (outcome, hand_out(group, &shared, replies)),
        Err(unsplit) => {
            group[0].call.state.metrics.batch_failures.inc(unfit(&unsplit));
            let failure = Failure::of(&unsplit);
            if failure == Failure::Misfit {
                tracing::warn!(route = %group[0].call.route.name, misfit = %unsplit, "a batch reply does not fit");
            }
            let why = unsplit.to_string();
            let mismatch = || Told::Error(ErrorKind::Mismatch);
            let (outcome, told, suspects) = match unsplit {
                Unsplit::Failed(status) => (outcome, Told::Reply(status, shared, body), Vec::new()),
                Unsplit::Refused { replies, .. } => {
                    (Outcome::TooLarge, Told::Each(shared, replies), Vec::new())
                }
                Unsplit::Stranger { suspects } => (Outcome::Failed, mismatch(), suspects),
                Unsplit::Count { .. } | Unsplit::Id(_) | Unsplit::Shape(_) => {
                    (Outcome::Failed, mismatch(), Vec::new())
                }
            };
            (outcome, Failed::attempt(group, failure, suspects, told, why))
        }
    }
}

/// One round trip for the whole group; gives the reply, read to its end, and the first id used.
async fn exchange(
    upstream: &Upstream,
    group: &[Box<Pending>],
) -> Result<(response::Parts, (u64, Bytes)), Error> {
    let first_id = upstream.next_ids(group.iter().map(|member| member.count).sum());
    let encoded = group[0].call.route.codec.encode(&items(group), first_id);
    let mut request = Some(merged(&group[0], group.len(), encoded)?);
    let response = upstream.backend.send(&mut request, &of_all(group)).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, REPLY_CAP).collect().await.map_err(|broken| {
        let kind = if broken.is::<http_body_util::LengthLimitError>() {
            ErrorKind::ReplyTooLarge
        } else {
            ErrorKind::UpstreamReset
        };
        Error::caused(kind, broken)
    })?;
    Ok((head, (first_id, body.to_bytes())))
}

/// The bounds of a batch: it goes on for as long as one of its callers waits.
fn of_all(group: &[Box<Pending>]) -> Sending {
    let each = group.iter().map(|member| member.sending(UpstreamCall::Batch));
    let longer = |one: Sending, other: Sending| Sending {
        // Whoever has none waits for ever.
        deadline: one
            .deadline
            .zip(other.deadline)
            .map(|(one, other)| one.max(other)),
        blames: one.blames && other.blames,
        ..one
    };
    each.reduce(longer).unwrap_or_default()
}

fn items(group: &[Box<Pending>]) -> SmallVec<[&AnyItem; 64]> {
    group.iter().map(|member| &member.item).collect()
}

/// The batch request: the first member's head, which all members share but for what the key
/// leaves out, with the merged target and body.
fn merged(first: &Pending, members: usize, encoded: Encoded) -> Result<Request<Body>, Error> {
    let mut request = Request::new(Body::chunks(encoded.body));
    *request.method_mut() = first.call.head.method.clone();
    *request.version_mut() = first.call.head.version;
    *request.uri_mut() = match encoded.path_and_query {
        None => first.call.head.uri.clone(),
        Some(target) => retarget(&first.call.head.uri, target)?,
    };
    let headers = request.headers_mut();
    *headers = first.call.head.headers.clone();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    // A reply in one coding could not be split; without a word on it the upstream sends none.
    headers.remove(header::ACCEPT_ENCODING);
    // One caller's deadline is not that of the others.
    headers.remove(grpc::TIMEOUT);
    headers.insert("x-jitney-batch-size", HeaderValue::from(members));
    Ok(request)
}

fn retarget(uri: &Uri, target: String) -> Result<Uri, Error> {
    let invalid = |e| Error::caused(ErrorKind::BadRequest("the merged target is not a URI"), e);
    let target = PathAndQuery::try_from(target).map_err(|e| invalid(http::Error::from(e)))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|e| invalid(http::Error::from(e)))
}

/// Gives everyone its share; keeps those that have to be asked alone.
fn hand_out(group: Group, shared: &Arc<HeaderMap>, replies: Vec<MemberReply>) -> Attempt {
    let mut unanswered = Vec::new();
    for (member, reply) in group.into_iter().zip(replies) {
        match reply {
            MemberReply::Ready { status, body } => member.answer(share(status, shared, body)),
            // Under `replay: Never` nothing reaches the upstream twice, so nobody knows.
            MemberReply::AskAlone
                if !may_replay(
                    Failure::Misfit,
                    member.call.route.on_failure,
                    &member.call.head.method,
                ) =>
            {
                member.answer(Err(Error::new(ErrorKind::Mismatch)));
            }
            MemberReply::AskAlone => unanswered.push(member),
        }
    }
    if unanswered.is_empty() {
        Attempt::Answered
    } else {
        Attempt::Unanswered(unanswered)
    }
}

fn share(status: StatusCode, shared: &Arc<HeaderMap>, body: Chunks) -> Result<Reply, Error> {
    Ok(Reply::Share(status, Arc::clone(shared), reply::joined(body)))
}

impl Failed {
    const fn attempt(
        group: Group,
        failure: Failure,
        suspects: Vec<usize>,
        told: Told,
        why: String,
    ) -> Attempt {
        Attempt::Failed(Self {
            group,
            failure,
            suspects,
            cover: None,
            why,
            told,
        })
    }

    /// What is to be done, leave for extra calls already taken.
    pub(super) fn remedy(&mut self) -> Remedy {
        let Some(first) = self.group.first() else {
            return Remedy::FanOut;
        };
        let mut conduct = first.call.state.conduct.lock();
        let budget = &mut conduct.budget;
        let case = isolate::Case {
            failure: self.failure,
            rules: first.call.route.on_failure,
            method: &first.call.head.method,
            members: self.group.len(),
            suspects: self.suspects.len(),
            sends: self.group.iter().map(|member| member.sends).max().unwrap_or(0),
            covered: self.cover.as_mut().is_some_and(|cover| cover.spend(budget)),
        };
        isolate::remedy(&case, budget)
    }

    /// Remembers whom the reply points at.
    pub(super) fn blame_suspects(&self) {
        for suspect in self
            .suspects
            .iter()
            .filter_map(|position| self.group.get(*position))
        {
            suspect.call.state.blame(suspect.culprit());
        }
    }

    /// Counts calls made to find who is to blame.
    pub(super) fn count_extra(&self, calls: usize) {
        if let Some(first) = self.group.first() {
            first.call.state.metrics.bisect_calls.add(calls as u64);
        }
    }

    /// The failure stands: every member hears of it.
    pub(super) fn tell_everyone(self) {
        match self.told {
            Told::Reply(status, shared, body) => {
                for member in self.group {
                    member.answer(Ok(Reply::Share(status, Arc::clone(&shared), body.clone())));
                }
            }
            Told::Each(shared, replies) => {
                for (member, reply) in self.group.into_iter().zip(replies) {
                    member.answer(match reply {
                        MemberReply::Ready { status, body } => share(status, &shared, body),
                        MemberReply::AskAlone => Err(Error::new(ErrorKind::Mismatch)),
                    });
                }
            }
            Told::Error(kind) => {
                for member in self.group {
                    member.answer(Err(Error::new(kind)));
                }
            }
        }
    }
}

fn outcome_of(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::Overloaded {
            retry_after: retry_after(headers),
        },
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG => Outcome::TooLarge,
        status if status.is_client_error() || status.is_server_error() => Outcome::Failed,
        _ => Outcome::Ok,
    }
}

const fn outcome_of_error(kind: ErrorKind) -> Outcome {
    if matches!(
        kind,
        ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::TryTimeout | ErrorKind::Shed(..)
    ) {
        Outcome::Overloaded { retry_after: None }
    } else if matches!(kind, ErrorKind::NoEndpoint) {
        // Never sent: no member is to blame, and nothing was learned of the upstream.
        Outcome::Abandoned
    } else {
        Outcome::Failed
    }
}

const fn broken(kind: ErrorKind) -> BatchFailure {
    if matches!(kind, ErrorKind::TryTimeout | ErrorKind::DeadlineExceeded) {
        BatchFailure::Timeout
    } else if matches!(kind, ErrorKind::ReplyTooLarge) {
        BatchFailure::Size
    } else {
        BatchFailure::Connection
    }
}

const fn unfit(unsplit: &Unsplit) -> BatchFailure {
    match unsplit {
        Unsplit::Failed(StatusCode::PAYLOAD_TOO_LARGE) => BatchFailure::Size,
        Unsplit::Failed(_) | Unsplit::Refused { .. } => BatchFailure::Status,
        Unsplit::Count { .. } => BatchFailure::Count,
        Unsplit::Id(_) | Unsplit::Stranger { .. } => BatchFailure::Id,
        Unsplit::Shape(_) => BatchFailure::Shape,
    }
}

/// The largest reply to a batch that is held in memory.
pub(super) const REPLY_CAP: usize = 64 << 20;

/// Up to here the reply to a lone call is read before it is handed on.
const SHORT_REPLY: u64 = 64 << 10;
