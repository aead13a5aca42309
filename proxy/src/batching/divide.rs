//! A call of more items than one batch may have, where its convention lets it be divided: its
//! parts travel like calls of their own, and their replies are put together again.

use bytes::Bytes;
use http::{Response, StatusCode, header, response};
use jitney_core::Bypass;
use jitney_core::codec::{Call, Codec, Reply};
use jitney_core::policy::{Mode, Replay};
use jitney_core::route::Head;

use super::attempt::REPLY_CAP;
use super::submit::{Announced, Arrived, Seat, Submitted};
use crate::body::{self, Body, Taken};
use crate::error::{Error, ErrorKind};
use crate::reply;

/// Submits a call that carries too much for one batch: in parts, or whole and alone.
pub(super) async fn submit(call: Arrived<'_>) -> Submitted {
    let Some(seats) = seats(&call) else {
        return call.alone(Bypass::TooLarge, None);
    };
    let mut replies = Vec::with_capacity(seats.len());
    for seat in seats {
        match whole(seat).await {
            Ok(reply) if reply.0.status == StatusCode::OK => replies.push(reply),
            // What is wrong with one part is wrong with the call.
            Ok((head, body)) => {
                return Submitted::Answered(Ok(Response::from_parts(head, Body::full(body))), None);
            }
            Err(error) => return Submitted::Answered(Err(error), None),
        }
    }
    Submitted::Answered(rejoined(&call, &replies), None)
}

/// A seat for each part; `None` when the call has to travel whole.
fn seats<'a>(call: &Arrived<'a>) -> Option<Vec<Seat<'a>>> {
    // Parts may fail where others succeed, so each must be one that may be sent again.
    if call.route.on_failure.replay != Replay::Declared || call.route.mode != Mode::Active {
        return None;
    }
    let limits = &call.route.limits;
    let mut seats = Vec::new();
    for body in parts(call)? {
        // A call that would fill the queue by itself is none that others should wait behind.
        if (seats.len() + 1) * limits.max_size > limits.max_queue_size {
            return None;
        }
        let mut head = call.head.clone();
        head.headers.insert(header::CONTENT_LENGTH, body.len().into());
        head.headers.remove(header::TRANSFER_ENCODING);
        let part = Arrived {
            upstream: call.upstream,
            route: call.route.clone(),
            state: call.state.clone(),
            head,
            body,
            deadline: call.deadline,
        };
        // Dropping the seats taken so far takes their parts out of the queue again.
        seats.push(part.enqueue(Announced::not(call.upstream)).ok()?);
    }
    Some(seats)
}

fn parts(call: &Arrived<'_>) -> Option<Vec<Bytes>> {
    let head = Head {
        method: &call.head.method,
        uri: &call.head.uri,
        headers: &call.head.headers,
    };
    let captures = call.route.captures(&head)?;
    let view = Call {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        captures: &captures,
        body: &call.body,
    };
    let read = call.route.codec.read(&view).ok()?;
    call.route.codec.divide(&read.item, call.route.limits.max_size)
}

/// The reply to one part, read to its end.
async fn whole(seat: Seat<'_>) -> Result<(response::Parts, Bytes), Error> {
    let (head, body) = seat.answer().await.reply?.into_parts();
    match body::take(body, REPLY_CAP).await {
        Ok(Taken::Whole(body)) => Ok((head, body)),
        Ok(Taken::Over(_) | Taken::WithTrailers(_)) => Err(ErrorKind::ReplyTooLarge.into()),
        Err(broken) => Err(Error::caused(ErrorKind::UpstreamReset, broken)),
    }
}

fn rejoined(call: &Arrived<'_>, replies: &[(response::Parts, Bytes)]) -> Result<Response<Body>, Error> {
    let views: Vec<Reply<'_>> = replies
        .iter()
        .map(|(head, body)| Reply {
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
    Ok(reply::of_member(StatusCode::OK, &headers, body))
}
