//! What holds for every codec: a batch gives what direct calls give, and a reply that was tampered
//! with never gives one member what belongs to another.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::models::{self, Answer, Model, fragment};
use super::{FIRST_ID, Merged, Sent, merge, post, read, text};
use crate::codec::{AnyCodec, Codec, Read, Reply, Unsplit};

/// A model and calls for one batch.
fn batches() -> impl Strategy<Value = (Model, Vec<Sent>)> {
    select(models::all()).prop_flat_map(|model| {
        let calls = proptest::collection::vec(model.call.clone(), 2..7);
        (Just(model), calls)
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Model {
    /// What a direct call gets; `None`: a 404.
    fn direct(&self, sent: &Sent) -> Option<Answer> {
        (self.upstream)(&sent.uri.to_string(), &sent.body)
    }

    /// What a batch gets.
    fn answer(&self, batch: &Merged<'_, AnyCodec>) -> Answer {
        let (target, body) = batch.request();
        (self.upstream)(&target, &body).unwrap()
    }

    /// True when `told` is what the direct call gives, its elements in any order.
    fn is_direct(&self, sent: &Sent, told: &str) -> bool {
        match self.direct(sent) {
            // The upstream has the last word on an id that a batch does not know.
            None => told == "alone",
            Some(_) if told == "alone" => sent.uri.path().ends_with("/007"),
            Some(mut answer) => permutations(answer.elements.len()).into_iter().any(|order| {
                let elements = answer.elements.clone();
                let in_order = order.iter().map(|&n| elements[n].clone()).collect();
                let before = std::mem::replace(&mut answer.elements, in_order);
                let same = told == format!("200 {}", answer.text());
                answer.elements = before;
                same
            }),
        }
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(count - 1);
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    shorter
        .iter()
        .flat_map(|order| (0..count).map(move |at| insert(order, at)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_batch_gives_what_direct_calls_give((model, calls) in batches()) {
        let batch = merge(&model.codec, &calls);
        let answer = model.answer(&batch);
        let told = batch.told(answer.text()).unwrap();
        for (call, told) in calls.iter().zip(&told) {
            let direct = model.direct(call).map(|answer| format!("200 {}", answer.text()));
            prop_assert!(Some(told) == direct.as_ref() || told == "alone" && model.is_direct(call, told), "{}: {}", model.name, told);
        }
    }

    #[test]
    fn results_that_are_named_may_come_in_any_order((model, calls) in batches(), seed in any::<[Index; 8]>()) {
        prop_assume!(model.named);
        let batch = merge(&model.codec, &calls);
        let mut answer = model.answer(&batch);
        let count = answer.elements.len();
        for (n, index) in seed.iter().enumerate().take_while(|_| count > 0) {
            answer.elements.swap(n % count, index.index(count));
        }
        for (call, told) in calls.iter().zip(batch.told(answer.text()).unwrap()) {
            prop_assert!(model.is_direct(call, &told), "{}: {}", model.name, told);
        }
    }

    #[test]
    fn a_reply_with_a_result_more_or_less_is_never_split_wrongly(
        (model, calls) in batches(), at in any::<Index>(), more in any::<bool>(), times in 1usize..3,
    ) {
        let batch = merge(&model.codec, &calls);
        let mut answer = model.answer(&batch);
        prop_assume!(!answer.elements.is_empty());
        for _ in 0..times.min(answer.elements.len()) {
            let at = at.index(answer.elements.len());
            let element = answer.elements.remove(at);
            if more {
                answer.elements.extend([element.clone(), element]);
            }
        }
        let told = batch.told(answer.text());
        if more || model.codec.name() != "keyedGet" {
            prop_assert!(told.is_err(), "{}: {:?}", model.name, told);
        } else {
            for (call, told) in calls.iter().zip(told.unwrap()) {
                prop_assert!(told == "alone" || model.is_direct(call, &told), "{}: {}", model.name, told);
            }
        }
    }

    #[test]
    fn a_reply_that_was_cut_is_never_split((model, calls) in batches(), cut in any::<Index>()) {
        let batch = merge(&model.codec, &calls);
        let whole = model.answer(&batch).text();
        let body = whole.trim_end().as_bytes();
        let told = batch.split(200, &body[..cut.index(body.len())]);
        prop_assert!(matches!(told, Err(Unsplit::Shape(_))), "{}: {:?}", model.name, told);
    }

    #[test]
    fn a_reply_with_wrong_bytes_ends_nothing(
        (model, calls) in batches(), changes in proptest::collection::vec(any::<(Index, u8)>(), 1..4),
    ) {
        let batch = merge(&model.codec, &calls);
        let mut body = model.answer(&batch).text().into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        // Whether it splits depends on the byte; `split` checks that there is one reply for each.
        drop(batch.split(200, &body));
    }

    #[test]
    fn any_body_is_read_or_travels_alone(body in any::<Vec<u8>>(), json in fragment()) {
        for model in models::all() {
            drop(read(&model.codec, &post(&body)));
            drop(read(&model.codec, &post(&json)));
        }
    }

    #[test]
    fn failed_batches_and_coded_replies_are_not_split((model, calls) in batches(), status in 300u16..600) {
        let batch = merge(&model.codec, &calls);
        let body = model.answer(&batch).text();
        let failed = StatusCode::from_u16(status).unwrap();
        prop_assert_eq!(batch.split(status, body.as_bytes()), Err(Unsplit::Failed(failed)));
        let headers = HeaderMap::from_iter([(http::header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        let reply = Reply { status: StatusCode::OK, headers: &headers, body: &Bytes::from(body) };
        prop_assert!(model.codec.split(&batch.items(), FIRST_ID, &reply).is_err());
    }
}

#[test]
fn large_slices_are_shared_and_stay_whole() {
    let large = "x".repeat(100_000);
    let codec = AnyCodec::JsonArray(crate::codec::JsonArray::preset("tei-embed").unwrap());
    let calls = [
        post(format!("{{\"inputs\":[\"{large}\"]}}")),
        post(r#"{"inputs":["small"]}"#),
    ];
    let batch = merge(&codec, &calls);
    assert_eq!(
        batch.request().1,
        format!("{{\"inputs\":[\"{large}\",\"small\"]}}").into_bytes()
    );
    let body = Bytes::from(format!("[\"{large}\",2]"));
    let reply = Reply {
        status: StatusCode::OK,
        headers: &HeaderMap::new(),
        body: &body,
    };
    let replies = codec.split(&batch.items(), FIRST_ID, &reply).unwrap();
    assert_eq!(
        replies.iter().map(text).collect::<Vec<_>>(),
        [format!("200 [\"{large}\"]"), "200 [2]".to_owned()]
    );
    let crate::codec::MemberReply::Ready { body: chunks, .. } = &replies[0] else {
        panic!("not ready")
    };
    assert!(
        chunks.iter().any(|chunk| chunk.as_ptr() == body[1..].as_ptr()),
        "the large result was copied"
    );
}

#[test]
fn items_of_another_codec_are_refused() {
    let (array, rpc) = (models::all().remove(0).codec, models::all().remove(3).codec);
    let call = post(r#"{"instances":[1],"p":1.0}"#);
    let reads: Vec<Read<_>> = vec![read(&array, &call).unwrap(), read(&array, &call).unwrap()];
    let items: Vec<_> = reads.iter().map(|read| &read.item).collect();
    let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"[]"));
    let reply = Reply {
        status: StatusCode::OK,
        headers: &headers,
        body: &body,
    };
    assert!(rpc.split(&items, FIRST_ID, &reply).is_err());
}
