//! Upstreams that speak the conventions and echo what they were asked, and by whom: written
//! apart from the codecs, so that a mistake is not made twice.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::upstream::{Reply, Seen};

/// KServe v1: every instance comes back as it was, with the caller's `authorization`.
/// An instance that contains `"bad"` fails the whole request.
pub fn kserve(request: &Seen) -> Reply {
    let Some(instances) = elements(&request.body, b"\"instances\"") else {
        return Reply::json(400, r#"{"error":"no instances"}"#);
    };
    if instances.iter().any(|instance| contains(instance, b"\"bad\"")) {
        return Reply::json(400, r#"{"error":"an instance is bad"}"#);
    }
    let mut body = b"{\"predictions\":[".to_vec();
    for (position, instance) in instances.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&prediction(instance, request.header("authorization")));
    }
    body.extend_from_slice(b"],\"model_version\":\"7\"}");
    Reply::json(200, body)
}

/// What [`kserve`] predicts for one instance of one caller.
pub fn prediction(instance: &[u8], authorization: &str) -> Vec<u8> {
    [
        b"{\"echo\":",
        instance,
        b",\"by\":\"",
        authorization.as_bytes(),
        b"\"}",
    ]
    .concat()
}

/// What [`kserve`] answers to a call of its own.
pub fn predictions(instances: &[&str], authorization: &str) -> String {
    let each = instances
        .iter()
        .map(|instance| prediction(instance.as_bytes(), authorization));
    let each: Vec<String> = each
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect();
    format!(r#"{{"predictions":[{}],"model_version":"7"}}"#, each.join(","))
}

/// A users service: `GET /users/{id}` and `GET /users?ids=a,b`. Ids that begin with `none` are unknown.
pub fn users(request: &Seen) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let by = request.header("authorization");
    if let Some(id) = path.strip_prefix("/users/") {
        return if id.starts_with("none") {
            Reply::json(404, r#"{"error":"no such user"}"#)
        } else {
            Reply::json(200, user(id, by))
        };
    }
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("ids="))
        .unwrap_or("");
    let known = asked
        .split(',')
        .filter(|id| !id.is_empty() && !id.starts_with("none"));
    let found: Vec<String> = known.map(|id| user(id, by)).collect();
    Reply::json(200, format!("[{}]", found.join(",")))
}

/// The element of [`users`] for one id.
pub fn user(id: &str, authorization: &str) -> String {
    let mut element = String::from("{\"id\":");
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit()) && (id == "0" || !id.starts_with('0'));
    // A String takes every text.
    let _written = if is_number {
        write!(element, "{id}")
    } else {
        write!(element, "\"{}\"", decoded(id))
    };
    element.push_str(&format!(
        ",\"name\":\"user {}\",\"by\":\"{authorization}\"}}",
        decoded(id)
    ));
    element
}

/// JSON-RPC 2.0: the result is the parameters and the caller's `authorization`; the method `fail`
/// gives an error object; a batch is answered back to front, as the standard allows.
pub fn json_rpc(request: &Seen) -> Reply {
    let by = request.header("authorization");
    if request.body.trim_ascii_start().starts_with(b"[") {
        let Ok(calls) = serde_json::from_slice::<Vec<RpcCall<'_>>>(&request.body) else {
            return Reply::json(200, PARSE_ERROR);
        };
        let replies: Vec<String> = calls.iter().rev().filter_map(|call| call.reply(by)).collect();
        return Reply::json(200, format!("[{}]", replies.join(",")));
    }
    match serde_json::from_slice::<RpcCall<'_>>(&request.body) {
        Ok(call) => call
            .reply(by)
            .map_or_else(|| Reply::json(204, ""), |reply| Reply::json(200, reply)),
        Err(_) => Reply::json(200, PARSE_ERROR),
    }
}

const PARSE_ERROR: &str = r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}"#;

#[derive(Deserialize)]
struct RpcCall<'a> {
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    // A member that is null is there all the same: only an absent one makes a notification.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl RpcCall<'_> {
    fn reply(&self, by: &str) -> Option<String> {
        let id = self.id?.get();
        let params = self.params.map_or("null", RawValue::get);
        Some(if self.method == "fail" {
            format!(
                r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"failed","data":{params}}},"id":{id}}}"#
            )
        } else {
            format!(r#"{{"jsonrpc":"2.0","result":{{"params":{params},"by":"{by}"}},"id":{id}}}"#)
        })
    }
}

/// The elements of the array after `name`, as slices: no decoding, so that every byte shows.
pub fn elements<'b>(body: &'b [u8], name: &[u8]) -> Option<Vec<&'b [u8]>> {
    let at = body.windows(name.len()).position(|window| window == name)? + name.len();
    let open = at + body[at..].iter().position(|byte| *byte == b'[')? + 1;
    let (mut depth, mut quoted, mut start) = (0_usize, false, open);
    let mut found = Vec::new();
    let mut bytes = (open..).zip(&body[open..]);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if quoted => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b',' | b']' if depth == 0 => {
                let element = body[start..at].trim_ascii();
                if !element.is_empty() {
                    found.push(element);
                }
                if *byte == b']' {
                    return Some(found);
                }
                start = at + 1;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// True when `part` occurs in `whole`.
pub fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// A text with its percent-encoded bytes decoded.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
