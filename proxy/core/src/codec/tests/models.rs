//! A tiny model of an upstream for each convention: it answers a direct call and a batch, and what
//! it answers shows which item it is for.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::RawValue;

use super::{Sent, get, post};
use crate::codec::{AnyCodec, JsonArray, JsonRpc, KeyedGet, KeyedGetSettings};

/// A convention, its calls and its upstream.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) codec: AnyCodec,
    /// A call of the convention, all of one key.
    pub(super) call: BoxedStrategy<Sent>,
    pub(super) upstream: fn(&str, &[u8]) -> Option<Answer>,
    /// Results say whose they are, so that they may come in any order.
    pub(super) named: bool,
}

/// An upstream's reply, with its elements apart so that they can be shuffled.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) elements: Vec<String>,
    pub(super) tail: String,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        format!("{}{}{}", self.head, self.elements.join(","), self.tail)
    }
}

pub(super) fn all() -> Vec<Model> {
    let keyed = |key: Option<&str>| {
        AnyCodec::KeyedGet(
            KeyedGet::new(&KeyedGetSettings {
                variables: vec!["shop".into(), "id".into()],
                batch_path: "/{shop}/users?ids={id}".into(),
                elements: "/users".into(),
                key: key.map(str::to_owned),
                ..KeyedGetSettings::default()
            })
            .unwrap(),
        )
    };
    let preset = |name| AnyCodec::JsonArray(JsonArray::preset(name).unwrap());
    vec![
        Model {
            name: "kserve-v1",
            codec: preset("kserve-v1"),
            call: list(fragment())
                .prop_map(|items| post(format!("{{\"instances\":{items},\"p\":1.0}}")))
                .boxed(),
            upstream: predict,
            named: false,
        },
        Model {
            name: "tei-embed",
            codec: preset("tei-embed"),
            call: texts(r#"{"inputs":"#),
            upstream: embed_plain,
            named: false,
        },
        Model {
            name: "openai-embeddings",
            codec: preset("openai-embeddings"),
            call: texts(r#"{"model":"m","input":"#),
            upstream: embed_indexed,
            named: true,
        },
        Model {
            name: "jsonRpc",
            codec: AnyCodec::JsonRpc(JsonRpc),
            call: rpc(),
            upstream: answer_rpc,
            named: true,
        },
        Model {
            name: "keyedGet array",
            codec: keyed(Some("/id")),
            call: key(),
            upstream: users_array,
            named: true,
        },
        Model {
            name: "keyedGet object",
            codec: keyed(None),
            call: key(),
            upstream: users_object,
            named: true,
        },
    ]
}

/// Hostile but valid JSON.
pub(super) fn fragment() -> BoxedStrategy<String> {
    let leaf = select(
        [
            "9007199254740993",
            "1.0",
            "-0",
            "1e400",
            "0.10000000000000000001",
            r#""a<b&c""#,
            r#""\ud800""#,
            r#""\u0000\"\\""#,
            r#"{"a":1,"a":2}"#,
            r#"{"z":1,"id":[100,101],"index":0}"#,
            r#""]}""#,
            "null",
            "true",
            "[]",
            "{ }",
            "\"é\u{2028}\"",
            "[[[[1]]],{\"predictions\":[1]}]",
            "\"],[\"",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
    let blank = || select(vec!["", " ", "\n\t", "  \r\n"]);
    leaf.prop_recursive(3, 12, 3, move |inner| {
        (
            blank(),
            blank(),
            proptest::collection::vec(inner, 1..4),
            any::<bool>(),
        )
            .prop_map(|(a, b, items, object)| {
                let separator = format!("{a},{b}");
                let named: Vec<String> = items.iter().map(|item| format!("\"k\"{a}:{b}{item}")).collect();
                if object {
                    format!("{{{a}{}{b}}}", named.join(&separator))
                } else {
                    format!("[{a}{}{b}]", items.join(&separator))
                }
            })
    })
    .boxed()
}

fn list(item: BoxedStrategy<String>) -> BoxedStrategy<String> {
    proptest::collection::vec(item, 1..4)
        .prop_map(|items| format!("[{}]", items.join(",")))
        .boxed()
}

/// One text, or several.
fn texts(head: &'static str) -> BoxedStrategy<Sent> {
    let text = || "\"([a-z\\]\\[,]|\\\\\"|\\\\u00e9){0,8}\"".boxed();
    prop_oneof![text(), list(text())]
        .prop_map(move |input| post(format!("{head}{input}}}")))
        .boxed()
}

fn rpc() -> BoxedStrategy<Sent> {
    let id = select(vec![
        "1",
        "1.0",
        "-3e2",
        r#""a""#,
        r#""\u0031""#,
        r#""100""#,
        "100",
        "101",
    ]);
    let one = (id, fragment())
        .prop_map(|(id, params)| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m","params":{params}}}"#));
    let note = r#"{"jsonrpc":"2.0","method":"n"}"#;
    let own = one
        .clone()
        .prop_map(move |one| format!("[{note},{one},{}]", one.replace("\"id\":", "\"id\":7")));
    prop_oneof![3 => one, 1 => own]
        .prop_filter("an id that was changed into none", |text| {
            serde_json::from_str::<&RawValue>(text).is_ok()
        })
        .prop_map(post)
        .boxed()
}

fn key() -> BoxedStrategy<Sent> {
    select(vec![
        "1", "2", "%31", "007", "a%2Cb", "a&b", "%C3%A9", "x", "unknown", "a.b~c", "0",
    ])
    .prop_map(|id| get(&format!("/s/users/{id}?v=1")))
    .boxed()
}

/// A body that is an object, taken apart.
fn object(text: &[u8]) -> HashMap<String, &RawValue> {
    serde_json::from_slice(text).unwrap()
}

/// The elements of an array, or the one value.
fn array(text: &str) -> Vec<&str> {
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(elements) => elements.into_iter().map(RawValue::get).collect(),
        Err(_) => vec![text],
    }
}

fn predict(_: &str, body: &[u8]) -> Option<Answer> {
    let instances = object(body)["instances"].get();
    Some(Answer {
        head: "{\"predictions\":[".into(),
        elements: array(instances)
            .iter()
            .map(|instance| format!("{{\"echo\":{instance}}}"))
            .collect(),
        tail: "],\"model_version\":\"7\"}\n".into(),
    })
}

fn embed_plain(_: &str, body: &[u8]) -> Option<Answer> {
    let inputs = object(body)["inputs"].get();
    let elements = array(inputs).iter().map(|input| format!("[{input}]")).collect();
    Some(Answer {
        head: "[".into(),
        elements,
        tail: "]".into(),
    })
}

fn embed_indexed(_: &str, body: &[u8]) -> Option<Answer> {
    let input = object(body)["input"].get();
    let inputs = array(input);
    let embed = |(n, input): (usize, &&str)| format!("{{\"embedding\":{input},\"index\":{n}}}");
    let tokens: usize = inputs.iter().map(|input| input.len()).sum();
    Some(Answer {
        head: "{\"object\":\"list\",\"data\":[".into(),
        elements: inputs.iter().enumerate().map(embed).collect(),
        tail: format!("],\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}"),
    })
}

fn answer_rpc(_: &str, body: &[u8]) -> Option<Answer> {
    let answer = |request: &str| {
        let request = object(request.as_bytes());
        let id = request.get("id")?.get();
        Some(format!(
            "{{\"jsonrpc\":\"2.0\",\"result\":{},\"id\":{id}}}",
            request["params"].get()
        ))
    };
    let text = std::str::from_utf8(body).unwrap();
    let elements = array(text).into_iter().filter_map(answer).collect();
    let batch = text.starts_with('[');
    Some(Answer {
        head: if batch { "[" } else { "" }.into(),
        elements,
        tail: if batch { "]\n" } else { "\n" }.into(),
    })
}

/// The users that a direct call, or a batch, asks for: key and text. Only a direct call knows that
/// `007` is another name of user 7.
fn users(target: &str) -> (bool, Vec<(String, String)>) {
    let (path, query) = target.split_once('?').unwrap();
    assert!(query.ends_with("v=1"), "{target}");
    let batch = path == "/s/users";
    let asked = if batch {
        query.split('&').next().unwrap().strip_prefix("ids=").unwrap()
    } else {
        &path[9..]
    };
    let user = |id: &str| {
        let id = percent_decoded(id);
        let id = if id == "007" && !batch { "7".to_owned() } else { id };
        (id != "unknown" && id != "007")
            .then(|| (id.clone(), format!("{{\"id\":{},\"n\":1.0}}", key_text(&id))))
    };
    (batch, asked.split(',').filter_map(user).collect())
}

fn key_text(id: &str) -> String {
    if id.parse::<u32>().is_ok() {
        id.to_owned()
    } else {
        serde_json::to_string(id).unwrap()
    }
}

fn percent_decoded(id: &str) -> String {
    let mut parts = id.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

fn users_array(target: &str, _: &[u8]) -> Option<Answer> {
    let (batch, users) = users(target);
    let elements: Vec<String> = users.into_iter().map(|(_, text)| text).collect();
    if batch {
        return Some(Answer {
            head: "{\"users\":[".into(),
            elements,
            tail: "],\"next\":null}\n".into(),
        });
    }
    (!elements.is_empty()).then(|| Answer {
        head: String::new(),
        elements,
        tail: "\n".into(),
    })
}

fn users_object(target: &str, body: &[u8]) -> Option<Answer> {
    let (batch, users) = users(target);
    if !batch {
        return users_array(target, body);
    }
    let member = |(id, text): (String, String)| format!("{}:{text}", serde_json::to_string(&id).unwrap());
    let elements = users.into_iter().map(member).collect();
    Some(Answer {
        head: "{\"users\":{".into(),
        elements,
        tail: "}}\n".into(),
    })
}
