//! The replies in a batch reply, and which member gets which.

use bytes::Bytes;

use super::RpcItem;
use crate::codec::bodies::{Bodies, SHARED_FROM};
use crate::codec::json::{Fault, Name, Scan, Span, whole_number};
use crate::codec::{MemberReply, Reply, Unsplit};

/// One reply object.
struct Answer {
    place: Span,
    id: Span,
    /// Which of our ids it has, counted from the first.
    number: u64,
}

/// What stands around the answers.
struct Frame {
    array: Span,
    open: Span,
    between: Span,
    close: Span,
}

/// One body for each member.
pub(super) fn share_out(
    scan: &mut Scan<'_>,
    items: &[&RpcItem],
    first_id: u64,
    body: &Bytes,
) -> Result<Bodies, Unsplit> {
    if scan.peek() != Some(b'[') {
        return Err(Unsplit::Shape("neither an array nor an object"));
    }
    let expected = items.iter().map(|item| item.ids.len()).sum();
    let mut answers: Vec<Answer> = Vec::with_capacity(expected);
    let array = scan.elements(|scan| {
        answers.push(read_answer(scan, first_id, body)?);
        Ok::<(), Unsplit>(())
    })?;
    scan.end()?;
    let (Some(first), Some(last)) = (answers.first(), answers.last()) else {
        return Err(Unsplit::Count { expected, found: 0 });
    };
    let frame = Frame {
        array,
        open: Span::new(0, first.place.start),
        between: answers
            .get(1)
            .map_or(first.place, |next| Span::new(first.place.end, next.place.start)),
        close: Span::new(last.place.end, body.len()),
    };
    put_in_order(&mut answers, expected)?;
    let copied: usize = answers
        .iter()
        .map(|answer| answer.place.len().min(SHARED_FROM) + 32)
        .sum();
    let mut out = Bodies::with_capacity(items.len(), copied);
    let (mut rest, mut number) = (answers.as_mut_slice(), 0);
    for item in items {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(item.ids.len());
        // Within a member the upstream's order is what a direct call would have seen.
        own.sort_unstable_by_key(|answer| answer.place.start);
        frame.write(&mut out, body, item, own, number);
        out.end();
        rest = others;
        number += item.ids.len() as u64;
    }
    Ok(out)
}

/// Sorts the answers by our ids, each of which has to have one.
fn put_in_order(answers: &mut [Answer], expected: usize) -> Result<(), Unsplit> {
    if answers.len() != expected {
        return Err(Unsplit::Count {
            expected,
            found: answers.len(),
        });
    }
    answers.sort_unstable_by_key(|answer| answer.number);
    let fits = answers
        .iter()
        .enumerate()
        .all(|(n, answer)| answer.number == n as u64);
    if fits {
        Ok(())
    } else {
        Err(Unsplit::Id("an id twice, or of no call"))
    }
}

impl Frame {
    /// Writes a member's answers; its first id has the given number.
    fn write(&self, out: &mut Bodies, body: &Bytes, item: &RpcItem, own: &[Answer], number: u64) {
        if item.batch {
            out.slice(body, self.open);
        } else {
            out.slice(body, Span::new(0, self.array.start));
        }
        for (n, answer) in own.iter().enumerate() {
            if n > 0 {
                out.slice(body, self.between);
            }
            let asked = usize::try_from(answer.number - number)
                .ok()
                .and_then(|n| item.ids.get(n));
            out.slice(body, Span::new(answer.place.start, answer.id.start));
            out.slice(&item.body, asked.copied().unwrap_or_default());
            out.slice(body, Span::new(answer.id.end, answer.place.end));
        }
        if item.batch {
            out.slice(body, self.close);
        } else {
            out.slice(body, Span::new(self.array.end, body.len()));
        }
    }
}

fn read_answer(scan: &mut Scan<'_>, first_id: u64, body: &[u8]) -> Result<Answer, Unsplit> {
    if scan.peek() != Some(b'{') {
        return Err(Unsplit::Shape("an element that is not an object"));
    }
    let mut id = None;
    let place = scan.members(|scan, name: Name<'_>| {
        let value = scan.value()?;
        if name.is("id") && id.replace(value).is_some() {
            return Err(Unsplit::Id("a reply with two ids"));
        }
        Ok(())
    })?;
    let id = id.ok_or(Unsplit::Id("a reply without an id"))?;
    let number = whole_number(id.of(body)).and_then(|number| number.checked_sub(first_id));
    Ok(Answer {
        place,
        id,
        number: number.ok_or(Unsplit::Id("an id that was not sent"))?,
    })
}

/// What a reply means that is one object: an error for the batch as a whole, or nothing we know.
pub(super) fn refusal(scan: &mut Scan<'_>, items: &[&RpcItem], reply: &Reply<'_>) -> Unsplit {
    match read_refusal(scan, reply.body) {
        Ok(Refusal { id, nothing_ran }) => {
            let mut out = Bodies::with_capacity(
                items.len(),
                items.len() * (reply.body.len().min(SHARED_FROM) + 32),
            );
            for item in items {
                // A batch that the client made would have been refused in the same words.
                let ids = (!item.batch).then(|| item.ids.first().copied()).flatten().zip(id);
                if let Some((own, null)) = ids {
                    out.slice(reply.body, Span::new(0, null.start));
                    out.slice(&item.body, own);
                    out.slice(reply.body, Span::new(null.end, reply.body.len()));
                } else {
                    out.slice(reply.body, Span::new(0, reply.body.len()));
                }
                out.end();
            }
            let ready = |body| MemberReply::Ready {
                status: reply.status,
                body,
            };
            Unsplit::Refused {
                nothing_ran,
                replies: out.finish().map(ready).collect(),
            }
        }
        Err(unsplit) => unsplit,
    }
}

/// An error object for a whole batch.
struct Refusal {
    /// Where its `null` id stands.
    id: Option<Span>,
    nothing_ran: bool,
}

fn read_refusal(scan: &mut Scan<'_>, body: &[u8]) -> Result<Refusal, Unsplit> {
    const ONE_OBJECT: Unsplit = Unsplit::Shape("one object that is not an error for all");
    let (mut id, mut error, mut code) = (None, false, None);
    scan.members(|scan, name: Name<'_>| {
        if name.is("result") {
            return Err(ONE_OBJECT);
        }
        if name.is("error") && scan.peek() == Some(b'{') {
            error = true;
            scan.members(|scan, name: Name<'_>| {
                let value = scan.value()?;
                if name.is("code") && code.replace(value).is_some() {
                    return Err(Fault::Duplicate);
                }
                Ok(())
            })?;
            return Ok(());
        }
        let value = scan.value()?;
        if name.is("id") && (value.of(body) != b"null" || id.replace(value).is_some()) {
            return Err(ONE_OBJECT);
        }
        Ok(())
    })?;
    scan.end()?;
    if !error {
        return Err(ONE_OBJECT);
    }
    // -32700: the text was not parsed; -32600: it was not taken for a request.
    let nothing_ran = code.is_some_and(|code: Span| matches!(code.of(body), b"-32600" | b"-32700"));
    Ok(Refusal { id, nothing_ran })
}
