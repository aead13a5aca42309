//! What has to hold whatever a caller or an upstream sends: a codec never panics, and a reply that
//! it splits is split as `serde_json`, which knows nothing of codecs, says it should be.
//!
//! The fuzz targets run this on what they make up, the suite on the committed corpus. The first byte
//! of an input picks the batch; the rest is a caller's body, and an upstream's reply to the batch.

#![allow(dead_code, reason = "each fuzz target uses one of the properties")]
#![allow(clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use jitney_core::codec::{
    AnyCodec, AnyItem, Call, Codec, JsonArray, JsonRpc, KeyedGet, KeyedGetSettings, MemberReply, Read, Reply,
};
use serde_json::value::RawValue;

/// The first id of each batch; inputs name ids from here on.
const FIRST_ID: u64 = 100;

type Object<'t> = BTreeMap<String, &'t RawValue>;

/// Any reply to batches of the presets.
pub(super) fn json_array(data: &[u8]) {
    let Some((&pick, text)) = data.split_first() else {
        return;
    };
    let (name, results, bodies): (_, _, [&str; 3]) = match pick % 3 {
        0 => (
            "kserve-v1",
            Some("predictions"),
            [
                r#"{"instances":[1]}"#,
                r#"{"instances":[2, 3]}"#,
                r#"{"instances":[4]}"#,
            ],
        ),
        1 => (
            "openai-embeddings",
            Some("data"),
            [
                r#"{"input":"aa"}"#,
                r#"{"input":["b","cccc"]}"#,
                r#"{"input":"d"}"#,
            ],
        ),
        _ => (
            "tei-embed",
            None,
            [
                r#"{"inputs":[1]}"#,
                r#"{"inputs":[[2],[3,4]]}"#,
                r#"{"inputs":[[5]]}"#,
            ],
        ),
    };
    let codec = AnyCodec::JsonArray(JsonArray::preset(name).unwrap());
    reading(&codec, &post(text));
    let calls = bodies.map(|body| post(body.as_bytes()));
    let Some(told) = splitting(&codec, &calls, text) else {
        return;
    };
    let told: Vec<String> = told.into_iter().map(ready).collect();
    let whole = Listed::read(std::str::from_utf8(text).unwrap(), results);
    let Some(whole) = whole else { return };
    let counts = [1, 2, 1];
    assert_eq!(whole.elements.len(), 4);
    let mut usage = BTreeMap::<&str, u64>::new();
    for (member, told) in told.iter().enumerate() {
        let first = counts[..member].iter().sum();
        let own = Listed::read(told, results).unwrap();
        own.check(
            &whole,
            first..first + counts[member],
            name == "openai-embeddings",
            &mut usage,
        );
    }
    for (counter, sum) in usage {
        assert_eq!(
            Some(sum),
            whole.usage(counter),
            "{counter} is not shared out whole"
        );
    }
}

/// A list of results, and what is around it.
struct Listed<'t> {
    elements: Vec<&'t str>,
    around: Object<'t>,
}

impl<'t> Listed<'t> {
    /// `None` where `serde_json` cannot decode a name, such as one with a lone surrogate.
    fn read(text: &'t str, results: Option<&str>) -> Option<Self> {
        let mut around = Object::new();
        let list = match results {
            None => text,
            Some(name) => {
                around = serde_json::from_str(text).ok()?;
                around.remove(name).unwrap().get()
            }
        };
        Some(Self {
            elements: array(list),
            around,
        })
    }

    fn usage(&self, counter: &str) -> Option<u64> {
        let usage: Object<'_> = serde_json::from_str(self.around.get("usage")?.get()).ok()?;
        usage.get(counter)?.get().parse().ok()
    }

    /// Compares a member's list with its part of the whole.
    fn check(
        &self,
        whole: &Self,
        positions: std::ops::Range<usize>,
        indexed: bool,
        usage: &mut BTreeMap<&'static str, u64>,
    ) {
        if !indexed {
            assert_eq!(self.elements, whole.elements[positions]);
            assert_eq!(texts(&self.around), texts(&whole.around));
            return;
        }
        let own: Option<Vec<_>> = self
            .elements
            .iter()
            .map(|element| without_index(element))
            .collect();
        let all: Option<Vec<_>> = whole
            .elements
            .iter()
            .map(|element| without_index(element))
            .collect();
        let (Some(own), Some(all)) = (own, all) else {
            return;
        };
        let expected: Vec<_> = all
            .into_iter()
            .filter(|(index, _)| positions.contains(index))
            .map(|(index, rest)| (index - positions.start, rest))
            .collect();
        assert_eq!(own, expected);
        let but_usage = |object: &Object<'t>| {
            let mut texts = texts(object);
            texts.retain(|(name, _)| name != "usage");
            texts
        };
        assert_eq!(but_usage(&self.around), but_usage(&whole.around));
        for counter in ["prompt_tokens", "total_tokens"] {
            if whole.usage(counter).is_some() {
                *usage.entry(counter).or_default() += self.usage(counter).unwrap();
            }
        }
    }
}

fn texts(object: &Object<'_>) -> Vec<(String, String)> {
    object
        .iter()
        .map(|(name, value)| (name.clone(), value.get().to_owned()))
        .collect()
}

fn without_index(element: &str) -> Option<(usize, Vec<(String, String)>)> {
    let mut members: Object<'_> = serde_json::from_str(element).ok()?;
    let index = members.remove("index")?.get().parse().unwrap();
    Some((index, texts(&members)))
}

/// Any reply to a JSON-RPC batch.
pub(super) fn json_rpc(data: &[u8]) {
    let Some((&pick, text)) = data.split_first() else {
        return;
    };
    let codec = AnyCodec::JsonRpc(JsonRpc);
    reading(&codec, &post(text));
    let call = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
    let own = format!(
        r#"[{},{{"jsonrpc":"2.0","method":"n"}}, {}]"#,
        call("\"b\""),
        call("5")
    );
    let bodies = if pick % 2 == 0 {
        vec![call("1.0"), own, call("\"\\u0031\"")]
    } else {
        vec![call("7"), call("7")]
    };
    let ids: &[&[&str]] = if pick % 2 == 0 {
        &[&["1.0"], &["\"b\"", "5"], &["\"\\u0031\""]]
    } else {
        &[&["7"], &["7"]]
    };
    let calls: Vec<_> = bodies.iter().map(|body| post(body.as_bytes())).collect();
    let Some(told) = splitting(&codec, &calls, text) else {
        return;
    };
    let all: Option<Vec<_>> = array(std::str::from_utf8(text).unwrap())
        .into_iter()
        .map(without_id)
        .collect();
    let Some(all) = all else { return };
    assert_eq!(all.len(), ids.iter().map(|ids| ids.len()).sum::<usize>());
    let mut next = FIRST_ID;
    for (told, ids) in told.into_iter().zip(ids) {
        let told = ready(told);
        let own = if ids.len() > 1 {
            array(&told)
        } else {
            vec![told.trim()]
        };
        let own: Vec<_> = own
            .into_iter()
            .map(|answer| without_id(answer).unwrap())
            .collect();
        let numbers = next..next + ids.len() as u64;
        next = numbers.end;
        let expected: Vec<_> = all
            .iter()
            .filter_map(|(id, rest)| {
                let number = id.parse::<u64>().unwrap();
                let at = usize::try_from(number.checked_sub(numbers.start)?).unwrap();
                Some(((*ids.get(at)?).to_owned(), rest.clone()))
            })
            .collect();
        assert_eq!(own, expected);
    }
}

fn without_id(answer: &str) -> Option<(String, Vec<(String, String)>)> {
    let mut members: Object<'_> = serde_json::from_str(answer).ok()?;
    let id = members.remove("id")?.get().to_owned();
    Some((id, texts(&members)))
}

/// Any reply to a GET of several keys.
pub(super) fn keyed_get(data: &[u8]) {
    let Some((&pick, text)) = data.split_first() else {
        return;
    };
    let key = (pick % 2 == 0).then(|| "/id".to_owned());
    let codec = AnyCodec::KeyedGet(
        KeyedGet::new(&KeyedGetSettings {
            variables: vec!["id".to_owned()],
            batch_path: ["/users?ids={id}", "/users{?id*}", "/users/{+id}"][usize::from(pick / 2 % 3)]
                .to_owned(),
            key: key.clone(),
            ..KeyedGetSettings::default()
        })
        .unwrap(),
    );
    if let Some(call) = std::str::from_utf8(text).ok().and_then(get) {
        reading(&codec, &call);
    }
    let calls: Vec<_> = ["7", "8", "%37", "a%22b"].into_iter().filter_map(get).collect();
    let keys = ["7", "8", "7", "a\"b"];
    let Some(told) = splitting(&codec, &calls, text) else {
        return;
    };
    let text = std::str::from_utf8(text).unwrap();
    let elements: BTreeMap<String, &str> = if key.is_some() {
        let keyed: Option<Vec<_>> = array(text)
            .into_iter()
            .map(|element| Some((key_of(element)?, element)))
            .collect();
        let Some(keyed) = keyed else { return };
        let count = keyed.len();
        let elements: BTreeMap<_, _> = keyed.into_iter().collect();
        assert_eq!(elements.len(), count, "one key twice");
        elements
    } else {
        let Ok(members) = serde_json::from_str::<Object<'_>>(text) else {
            return;
        };
        members
            .into_iter()
            .map(|(name, value)| (name, value.get()))
            .collect()
    };
    assert!(
        elements
            .keys()
            .map(String::as_str)
            .collect::<BTreeSet<_>>()
            .is_subset(&BTreeSet::from(keys))
    );
    for (told, key) in told.into_iter().zip(keys) {
        match elements.get(key) {
            None => assert_eq!(told, MemberReply::AskAlone),
            Some(element) => assert_eq!(ready(told).trim(), *element),
        }
    }
}

fn key_of(element: &str) -> Option<String> {
    let members: Object<'_> = serde_json::from_str(element).ok()?;
    let key = members.get("id")?.get();
    if key.starts_with('"') {
        serde_json::from_str(key).ok()
    } else {
        Some(key.to_owned())
    }
}

fn array(text: &str) -> Vec<&str> {
    serde_json::from_str::<Vec<&RawValue>>(text)
        .unwrap()
        .into_iter()
        .map(RawValue::get)
        .collect()
}

/// The text of a reply that has to be one.
fn ready(told: MemberReply) -> String {
    match told {
        MemberReply::Ready {
            status: StatusCode::OK,
            body,
        } => String::from_utf8(body.concat()).unwrap(),
        other @ (MemberReply::Ready { .. } | MemberReply::AskAlone) => panic!("not ready: {other:?}"),
    }
}

/// A call that owns its parts.
struct Sent {
    method: Method,
    uri: Uri,
    body: Bytes,
}

fn post(body: &[u8]) -> Sent {
    Sent {
        method: Method::POST,
        uri: Uri::from_static("/"),
        body: Bytes::copy_from_slice(body),
    }
}

fn get(id: &str) -> Option<Sent> {
    let uri: Uri = format!("/users/{id}").parse().ok()?;
    let own = uri.path().strip_prefix("/users/")?;
    let whole = !own.is_empty() && !own.contains('/');
    whole.then_some(Sent {
        method: Method::GET,
        uri,
        body: Bytes::new(),
    })
}

fn read(codec: &AnyCodec, sent: &Sent) -> Option<Read<AnyItem>> {
    let id = sent.uri.path().rsplit('/').next().unwrap();
    let (method, uri, body) = (&sent.method, &sent.uri, &sent.body);
    codec
        .read(&Call {
            method,
            uri,
            headers: &HeaderMap::new(),
            captures: &[("id", id)],
            body,
        })
        .ok()
}

/// A call that is read can be merged with itself, within the bytes that were announced.
fn reading(codec: &AnyCodec, sent: &Sent) {
    let Some(one) = read(codec, sent) else { return };
    let merged = codec.encode(&[&one.item, &one.item], FIRST_ID);
    let body = merged.body.concat();
    let size = merged.path_and_query.as_deref().map_or(body.len(), str::len);
    assert!(
        size <= one.shared_bytes + 2 * one.bytes,
        "more bytes than announced"
    );
    match merged.path_and_query {
        None => assert!(
            serde_json::from_slice::<&RawValue>(&body).is_ok(),
            "merged into what is not JSON"
        ),
        Some(target) => assert!(
            target.parse::<Uri>().is_ok(),
            "merged into what is no target: {target}"
        ),
    }
}

/// Splits `reply` for calls that are all batchable.
fn splitting(codec: &AnyCodec, calls: &[Sent], reply: &[u8]) -> Option<Vec<MemberReply>> {
    let reads: Vec<_> = calls.iter().map(|sent| read(codec, sent).unwrap()).collect();
    let items: Vec<_> = reads.iter().map(|read| &read.item).collect();
    let body = Bytes::copy_from_slice(reply);
    let reply = Reply {
        status: StatusCode::OK,
        headers: &HeaderMap::new(),
        body: &body,
    };
    let told = codec.split(&items, FIRST_ID, &reply).ok()?;
    assert_eq!(told.len(), calls.len());
    Some(told)
}
