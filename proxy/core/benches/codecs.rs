//! What reading, merging and splitting cost per call, in nanoseconds: the best of rounds over one
//! batch of calls of about 100 bytes. `cargo bench -p jitney-core --bench codecs`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use jitney_core::codec::{AnyCodec, Call, Codec, JsonArray, JsonRpc, KeyedGet, KeyedGetSettings, Reply};

type Fault = Box<dyn std::error::Error>;

/// Calls in a batch.
const CALLS: usize = 32;
/// Batches timed together, and how often.
const BATCHES: u32 = 20;
const ROUNDS: usize = 300;
/// The first id of each batch.
const FIRST_ID: u64 = 1_000_000;

/// One convention's calls, and the upstream's reply to all of them.
struct Case {
    name: &'static str,
    codec: AnyCodec,
    calls: Vec<(Method, Uri, Bytes)>,
    reply: Bytes,
}

fn main() -> Result<(), Fault> {
    println!(
        "{:24}{:>8}{:>8}{:>8}{:>8}   ns per call, {CALLS} calls in a batch",
        "", "read", "encode", "split", "sum"
    );
    for case in [predictions()?, embeddings()?, rpc()?, users()?] {
        run(&case)?;
    }
    Ok(())
}

fn run(case: &Case) -> Result<(), Fault> {
    let headers = HeaderMap::new();
    let read_all = || {
        let read = |(method, uri, body): &(Method, Uri, Bytes)| {
            let id = uri.path().rsplit('/').next().unwrap_or_default();
            let call = Call {
                method,
                uri,
                headers: &headers,
                captures: &[("id", id)],
                body,
            };
            case.codec.read(&call)
        };
        case.calls.iter().map(read).collect::<Result<Vec<_>, _>>()
    };
    let reads = read_all().map_err(|bypass| bypass.as_str())?;
    let items: Vec<_> = reads.iter().map(|read| &read.item).collect();
    let reply = Reply {
        status: StatusCode::OK,
        headers: &headers,
        body: &case.reply,
    };
    case.codec.split(&items, FIRST_ID, &reply)?;
    let read = per_call(|| drop(black_box(read_all())));
    let encode = per_call(|| drop(black_box(case.codec.encode(&items, FIRST_ID))));
    let split = per_call(|| drop(black_box(case.codec.split(&items, FIRST_ID, &reply))));
    println!(
        "{:24}{read:8.0}{encode:8.0}{split:8.0}{:8.0}",
        case.name,
        read + encode + split
    );
    Ok(())
}

/// Nanoseconds per call of a batch that `work` handles once.
fn per_call(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..BATCHES).for_each(|_| work());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCHES)
    };
    // What other programs take from a round is not the codec's, so the best one counts.
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min) / CALLS as f64
}

fn posts(body: impl Fn(usize) -> String) -> Vec<(Method, Uri, Bytes)> {
    (0..CALLS)
        .map(|n| (Method::POST, Uri::from_static("/"), body(n).into()))
        .collect()
}

fn joined(text: impl Fn(usize) -> String) -> String {
    (0..CALLS).map(text).collect::<Vec<_>>().join(",")
}

fn predictions() -> Result<Case, Fault> {
    let item =
        |n: usize| format!(r#"{{"user":{n},"features":[0.25,1.5,-3.125,{n}.0],"segment":"returning"}}"#);
    let result =
        |n: usize| format!(r#"{{"score":0.{n},"label":"returning","features":[0.25,1.5,-3.125,{n}.0]}}"#);
    Ok(Case {
        name: "jsonArray kserve-v1",
        codec: AnyCodec::JsonArray(JsonArray::preset("kserve-v1")?),
        calls: posts(|n| format!(r#"{{"instances":[{}]}}"#, item(n))),
        reply: format!(r#"{{"predictions":[{}],"model_version":"7"}}"#, joined(result)).into(),
    })
}

fn embeddings() -> Result<Case, Fault> {
    let result = |n: usize| {
        format!(r#"{{"object":"embedding","index":{n},"embedding":[0.0123,-0.0456,0.0789,0.{n}]}}"#)
    };
    let reply = format!(
        r#"{{"object":"list","data":[{}],"model":"m","usage":{{"prompt_tokens":320,"total_tokens":320}}}}"#,
        joined(result)
    );
    Ok(Case {
        name: "jsonArray openai",
        codec: AnyCodec::JsonArray(JsonArray::preset("openai-embeddings")?),
        calls: posts(|n| {
            format!(r#"{{"model":"text-embedding-3-small","input":"what a passenger {n} says of the ride"}}"#)
        }),
        reply: reply.into(),
    })
}

fn rpc() -> Result<Case, Fault> {
    let result = |n: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":"0x{n:064x}"}}"#,
            FIRST_ID + n as u64
        )
    };
    Ok(Case {
        name: "jsonRpc",
        codec: AnyCodec::JsonRpc(JsonRpc),
        calls: posts(|n| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{n},"method":"eth_getBalance","params":["0x{n:040x}","latest"]}}"#
            )
        }),
        reply: format!("[{}]", joined(result)).into(),
    })
}

fn users() -> Result<Case, Fault> {
    let settings = KeyedGetSettings {
        variables: vec!["id".into()],
        batch_path: "/users?ids={id}".into(),
        key: Some("/id".into()),
        ..KeyedGetSettings::default()
    };
    let user = |n: usize| {
        format!(
            r#"{{"id":{},"name":"user {n}","email":"user{n}@example.org","city":"Lagos","rides":{n}}}"#,
            n + 1000
        )
    };
    let call = |n: usize| Ok((Method::GET, format!("/users/{}", n + 1000).parse()?, Bytes::new()));
    Ok(Case {
        name: "keyedGet",
        codec: AnyCodec::KeyedGet(KeyedGet::new(&settings)?),
        calls: (0..CALLS).map(call).collect::<Result<_, Fault>>()?,
        reply: format!("[{}]", joined(user)).into(),
    })
}
