//! A call of more items than one batch may have, where its convention lets it be divided: its
//! parts travel like calls of their own, and their replies are put together again.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header, response};
use jitney_core::Bypass;
use jitney_core::codec::{self, Codec};
use jitney_core::policy::{Mode, Replay};

use super::attempt::REPLY_CAP;
use super::pending::Answer;
use super::submission::Submission;
use super::submit::{Announced, GoesAlone, Seat, enqueue};
use crate::body::{self, Body, Taken};
use crate::error::{Error, ErrorKind};
use crate::reply::{self, Reply};

/// Submits a call that carries too much for one batch: in parts, or whole and alone.
pub(super) async fn submit(call: Box<Submission>) -> Result<Answer, GoesAlone> {
    let Some(seats) = seats(&call) else {
        return Err(GoesAlone {
            request: call.into_request(),
            why: Bypass::TooLarge,
            running: None,
        });
    };
    let mut replies = Vec::with_capacity(seats.len());
    for seat in seats {
        match whole(seat).await {
            Ok(reply) if reply.0.status == StatusCode::OK => replies.push(reply),
            // What is wrong with one part is wrong with the call.
            Ok((head, body)) => return Ok(answer(Ok(Response::from_parts(head, Body::full(body))))),
            Err(error) => return Ok(Answer::error(error)),
        }
    }
    Ok(answer(rejoined(&call, &replies)))
}

fn answer(reply: Result<Response<Body>, Error>) -> Answer {
    Answer {
        reply: reply.map(Reply::Whole),
        journey: None,
    }
}

/// A seat for each part; `None` when the call has to travel whole.
fn seats(call: &Submission) -> Option<Vec<Seat>> {
    // Parts may fail where others succeed, so each must be one that may be sent again.
    if call.route.on_failure.replay != Replay::Declared || call.route.mode != Mode::Active {
        return None;
    }
    let limits = &call.route.limits;
    let mut seats = Vec::new();
    for body in call.parts()? {
        // A call that would fill the queue by itself is none that others should wait behind.
        if (seats.len() + 1) * limits.max_size > limits.max_queue_size {
            return None;
        }
        let mut part = Box::new(call.clone());
        part.head
            .headers
            .insert(header::CONTENT_LENGTH, body.len().into());
        part.head.headers.remove(header::TRANSFER_ENCODING);
        part.body = body;
        let announced = Announced::not(Arc::clone(&call.upstream), call.state.class);
        // Dropping the seats taken so far takes their parts out of the queue again.
        seats.push(enqueue(part, announced).ok()?);
    }
    Some(seats)
}

/// The reply to one part, read to its end.
async fn whole(seat: Seat) -> Result<(response::Parts, Bytes), Error> {
    let (head, body) = seat.answer().await.reply?.into_response().into_parts();
    match body::take(body, REPLY_CAP).await {
        Ok(Taken::Whole(body)) => Ok((head, body)),
        Ok(Taken::Over(_) | Taken::Crowded(_) | Taken::WithTrailers(_)) => {
            Err(ErrorKind::ReplyTooLarge.into())
        }
        Err(broken) => Err(Error::caused(ErrorKind::UpstreamReset, broken)),
    }
}

fn rejoined(call: &Submission, replies: &[(response::Parts, Bytes)]) -> Result<Response<Body>, Error> {
    let views: Vec<codec::Reply<'_>> = replies
        .iter()
        .map(|(head, body)| codec::Reply {
            status: head.status,
            headers: &head.headers,
            body,
        })
        .collect();
    let body = call.route.codec.rejoin(&views).ok_or(ErrorKind::Mismatch)?;
    let mut headers = replies
        .first()
        .map(|(head, _)| head.headers.clone())
        .unwrap_or_default();
    headers.remove(header::CONTENT_LENGTH);
    let whole = Reply::Share(StatusCode::OK, Arc::new(headers), reply::joined(body));
    Ok(whole.into_response())
}
