//! What `jsonArray` merges and how it splits, by its conventions' own bytes.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{JsonArray, JsonArraySettings, PRESETS};
use crate::Bypass;
use crate::codec::tests::{Sent, check_bypass, merge, post, read};
use crate::codec::{Codec, CodecError, Preset, Reply, Unsplit};

fn preset(name: &str) -> JsonArray {
    JsonArray::preset(name).unwrap()
}

/// Merges `calls`, compares the batch's body, and compares what each call is told of `reply`.
#[track_caller]
fn check(codec: &JsonArray, calls: &[&str], merged: &str, reply: &str, told: &[&str]) {
    let calls: Vec<Sent> = calls.iter().map(post).collect();
    let batch = merge(codec, &calls);
    assert_eq!(String::from_utf8(batch.request().1).unwrap(), merged);
    let told: Vec<String> = told.iter().map(|body| format!("200 {body}")).collect();
    assert_eq!(batch.told(reply).unwrap(), told);
}

#[track_caller]
fn check_unsplit(codec: &JsonArray, calls: &[&str], replies: &[(&str, Unsplit)]) {
    let calls: Vec<Sent> = calls.iter().map(post).collect();
    let batch = merge(codec, &calls);
    for (reply, unsplit) in replies {
        assert_eq!(batch.told(reply).as_ref(), Err(unsplit), "{reply}");
    }
}

#[test]
fn each_preset_is_a_codec_and_declares_replay() {
    for preset in PRESETS {
        assert!(
            preset.codec().is_ok() && preset.declares_replay(),
            "{}",
            preset.name
        );
        assert_eq!(Preset::find(preset.name), Some(preset));
    }
    assert_eq!(JsonArray::preset("kserve").unwrap_err().field, "preset");
}

#[test]
fn items_join_and_results_part_by_position() {
    check(
        &preset("kserve-v1"),
        &[
            r#"{"instances":[1]}"#,
            r#"{"instances":[2,3]}"#,
            r#"{"instances":[4]}"#,
        ],
        r#"{"instances":[1,2,3,4]}"#,
        r#"{"predictions":[10,[20],{"x":30},"40"],"model_version":"7"}"#,
        &[
            r#"{"predictions":[10],"model_version":"7"}"#,
            r#"{"predictions":[[20],{"x":30}],"model_version":"7"}"#,
            r#"{"predictions":["40"],"model_version":"7"}"#,
        ],
    );
}

#[test]
fn odd_bytes_of_items_and_results_stay_as_they_are() {
    check(
        &preset("tf-serving"),
        &[
            "{\"instances\":[ 9007199254740993 ,\t1.0 ]}",
            r#"{"instances":[{"a":1,"a":2}]}"#,
            r#"{"instances":["\ud800\u0061"]}"#,
        ],
        "{\"instances\":[9007199254740993 ,\t1.0,{\"a\":1,\"a\":2},\"\\ud800\\u0061\"]}",
        "{\"predictions\": [1.00, 1e400, {\"b\": 1, \"b\": 2}, \"\\udfff\"]}\n",
        &[
            "{\"predictions\": [1.00, 1e400]}\n",
            "{\"predictions\": [{\"b\": 1, \"b\": 2}]}\n",
            "{\"predictions\": [\"\\udfff\"]}\n",
        ],
    );
}

#[test]
fn nested_items_and_results_are_found() {
    let settings = JsonArraySettings {
        items: "/a/b~1c/1".into(),
        results: "/out/0".into(),
        invariants: vec!["/model".into()],
        ..JsonArraySettings::default()
    };
    check(
        &JsonArray::new(&settings).unwrap(),
        &[r#"{"a":{"b/c":[0,[1]]}}"#, r#"{"a":{"b/c":[0,[2]]}}"#],
        r#"{"a":{"b/c":[0,[1,2]]}}"#,
        r#"{"out":[["x","y"],true]}"#,
        &[r#"{"out":[["x"],true]}"#, r#"{"out":[["y"],true]}"#],
    );
}

#[test]
fn embeddings_are_rebased_and_their_usage_shared_out() {
    let head = r#"{"model":"e","input":"#;
    check(
        &preset("openai-embeddings"),
        &[
            &format!(r#"{head}"aaaa"}}"#),
            &format!(r#"{head}["bb","cccc"]}}"#),
        ],
        r#"{"model":"e","input":["aaaa","bb","cccc"]}"#,
        r#"{"object":"list","data":[{"index":2,"embedding":[3]},{"embedding":[1],"index":0},{"index":1}],"model":"e","usage":{"prompt_tokens":10,"total_tokens":11}}"#,
        &[
            r#"{"object":"list","data":[{"embedding":[1],"index":0}],"model":"e","usage":{"prompt_tokens":4,"total_tokens":4}}"#,
            r#"{"object":"list","data":[{"index":1,"embedding":[3]},{"index":0}],"model":"e","usage":{"prompt_tokens":6,"total_tokens":7}}"#,
        ],
    );
}

#[test]
fn token_arrays_are_items_and_never_join_texts() {
    let codec = preset("tei-embed");
    check(
        &codec,
        &[r#"{"inputs":[1,2]}"#, r#"{"inputs":[[3],[4,5]]}"#],
        r#"{"inputs":[[1,2],[3],[4,5]]}"#,
        "[[0.1],[0.2],[0.3]]",
        &["[[0.1]]", "[[0.2],[0.3]]"],
    );
    let keys: Vec<_> = [
        r#"{"inputs":"a"}"#,
        r#"{"inputs":["a"]}"#,
        r#"{"inputs":[1]}"#,
        r#"{"inputs":[[1]]}"#,
    ]
    .iter()
    .map(|body| read(&codec, &post(body)).unwrap().invariants)
    .collect();
    assert!(keys[0] == keys[1] && keys[2] == keys[3] && keys[0] != keys[2]);
    for body in [
        r#"{"inputs":["a",[1]]}"#,
        r#"{"inputs":[1,"a"]}"#,
        r#"{"inputs":[[1],2]}"#,
        r#"{"inputs":[1.5]}"#,
    ] {
        assert_eq!(
            read(&codec, &post(body)).err(),
            Some(Bypass::Unparsable),
            "{body}"
        );
    }
}

#[test]
fn bodies_that_differ_outside_the_items_are_of_different_keys() {
    let codec = preset("kserve-v1");
    let keys: Vec<_> = [
        r#"{"instances":[1]}"#,
        r#"{"instances": [1]}"#,
        r#"{"instances":[1],"x":1}"#,
        r#"{"x":1,"instances":[1]}"#,
    ]
    .iter()
    .map(|body| read(&codec, &post(body)).unwrap().invariants)
    .collect();
    for (n, key) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(key));
    }
}

#[test]
fn what_does_not_fit_travels_alone() {
    let deep = format!("{{\"instances\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    check_bypass(
        &preset("kserve-v1"),
        &[
            (&deep, Bypass::Unparsable),
            ("", Bypass::Unparsable),
            ("not json", Bypass::Unparsable),
            ("[1]", Bypass::Unparsable),
            (r#"{"inputs":[1]}"#, Bypass::Unparsable),
            (r#"{"instances":1}"#, Bypass::Unparsable),
            (r#"{"instances":"a"}"#, Bypass::Unparsable),
            (r#"{"instances":[1]"#, Bypass::Unparsable),
            (r#"{"instances":[1]}}"#, Bypass::Unparsable),
            (r#"{"instances":[1,]}"#, Bypass::Unparsable),
            (r#"{"instances":[NaN]}"#, Bypass::Unparsable),
            (r#"{"instances":[]}"#, Bypass::Empty),
            (r#"{"instances":[ ]}"#, Bypass::Empty),
            (r#"{"instances":[1],"instances":[2]}"#, Bypass::DuplicateMember),
            (r#"{"a":1,"instances":[2],"\u0061":2}"#, Bypass::DuplicateMember),
        ],
    );
    let invalid = post(b"{\"instances\":[\"\xff\"]}");
    assert_eq!(
        read(&preset("kserve-v1"), &invalid).err(),
        Some(Bypass::Unparsable)
    );
}

#[test]
fn replies_that_do_not_fit_are_not_split() {
    let shape = |what| Unsplit::Shape(what);
    check_unsplit(
        &preset("kserve-v1"),
        &[r#"{"instances":[1]}"#, r#"{"instances":[2]}"#],
        &[
            (
                r#"{"predictions":[1]}"#,
                Unsplit::Count {
                    expected: 2,
                    found: 1,
                },
            ),
            (
                r#"{"predictions":[1,2,3]}"#,
                Unsplit::Count {
                    expected: 2,
                    found: 3,
                },
            ),
            (
                r#"{"predictions":[]}"#,
                Unsplit::Count {
                    expected: 2,
                    found: 0,
                },
            ),
            (r#"{"predictions":[1,2]"#, shape("not JSON")),
            ("<html>", shape("not JSON")),
            ("", shape("not JSON")),
            (r#"{"error":"x"}"#, shape("no results")),
            (r#"{"predictions":null}"#, shape("the results are not an array")),
            (
                r#"{"predictions":[1,2],"predictions":[3,4]}"#,
                shape("a member appears twice"),
            ),
        ],
    );
    let twice = Unsplit::Id("an index twice, or of no item");
    check_unsplit(
        &preset("openai-embeddings"),
        &[r#"{"input":"a"}"#, r#"{"input":"b"}"#],
        &[
            (r#"{"data":[{"index":0},{"index":0}]}"#, twice.clone()),
            (r#"{"data":[{"index":0},{"index":2}]}"#, twice),
            (
                r#"{"data":[{"index":0},{}]}"#,
                Unsplit::Id("a result without an index"),
            ),
            (
                r#"{"data":[{"index":0},7]}"#,
                Unsplit::Id("a result without an index"),
            ),
            (
                r#"{"data":[{"index":0},{"index":1.0}]}"#,
                Unsplit::Id("an index that is not a whole number"),
            ),
            (
                r#"{"data":[{"index":0},{"index":1,"index":1}]}"#,
                shape("a member appears twice"),
            ),
        ],
    );
}

#[test]
fn a_failed_batch_is_not_split() {
    let codec = preset("kserve-v1");
    let calls = [post(r#"{"instances":[1]}"#), post(r#"{"instances":[2]}"#)];
    let split = merge(&codec, &calls).split(503, br#"{"predictions":[1,2]}"#);
    assert_eq!(split, Err(Unsplit::Failed(StatusCode::SERVICE_UNAVAILABLE)));
    assert!(codec.all_or_nothing());
}

#[test]
fn settings_are_checked() {
    let fault = |settings: JsonArraySettings| -> CodecError { JsonArray::new(&settings).unwrap_err() };
    let default = JsonArraySettings::default;
    assert_eq!(
        fault(JsonArraySettings {
            items: "instances".into(),
            ..default()
        })
        .field,
        "items"
    );
    assert_eq!(
        fault(JsonArraySettings {
            results: "/a~2".into(),
            ..default()
        })
        .field,
        "results"
    );
    assert_eq!(
        fault(JsonArraySettings {
            index: "i".into(),
            ..default()
        })
        .field,
        "index"
    );
    let usage = JsonArraySettings {
        results: "/data".into(),
        usage: vec!["/data/n".into()],
        ..default()
    };
    assert_eq!(fault(usage).field, "usage");
    let inside = JsonArraySettings {
        items: "/a".into(),
        invariants: vec!["/a/b".into()],
        ..default()
    };
    assert_eq!(
        fault(inside).to_string(),
        r#"invariants: "/a/b" is not a JSON pointer outside the items"#
    );
}

#[test]
fn a_large_call_is_divided_and_its_replies_put_together_again() {
    let codec = preset("kserve-v1");
    let sent = post(r#"{"instances": [1, 2 ,3,{"a":[4]}, "5"] ,"parameters":{}}"#);
    let item = read(&codec, &sent).unwrap().item;
    let parts = codec.divide(&item, 2).unwrap();
    assert_eq!(
        parts,
        [
            r#"{"instances": [1, 2] ,"parameters":{}}"#,
            r#"{"instances": [3,{"a":[4]}] ,"parameters":{}}"#,
            r#"{"instances": ["5"] ,"parameters":{}}"#,
        ]
    );
    let headers = HeaderMap::new();
    let bodies = [
        r#"{"predictions":[1,2],"v":7}"#,
        r#"{"predictions":[3, [4]],"v":7}"#,
        r#"{"predictions":["5"],"v":7}"#,
    ]
    .map(Bytes::from);
    let replies: Vec<Reply<'_>> = bodies
        .iter()
        .map(|body| Reply {
            status: StatusCode::OK,
            headers: &headers,
            body,
        })
        .collect();
    let whole = codec.rejoin(&replies).unwrap().concat();
    assert_eq!(whole, br#"{"predictions":[1,2,3, [4],"5"],"v":7}"#);
    let other = Bytes::from_static(br#"{"predictions":[6],"v":8}"#);
    let odd = Reply {
        body: &other,
        ..replies[0]
    };
    assert_eq!(codec.rejoin(&[replies[0], odd]), None);
}

#[test]
fn only_plain_conventions_are_divided_and_counted() {
    for name in ["openai-embeddings", "tei-embed"] {
        let codec = preset(name);
        let sent = post(r#"{"input":["a","b"],"inputs":["a","b"]}"#);
        let item = read(&codec, &sent).unwrap().item;
        assert_eq!(codec.divide(&item, 1), None);
    }
}

#[test]
fn a_lone_reply_with_another_number_of_results_does_not_fit() {
    let codec = preset("kserve-v1");
    let item = read(&codec, &post(r#"{"instances":[1,2]}"#)).unwrap().item;
    let headers = HeaderMap::new();
    for (body, fits) in [
        (r#"{"predictions":[1,2]}"#, true),
        (r#"{"predictions":[1]}"#, false),
        ("<html>", false),
        (r#"{"predictions":[NaN,1]}"#, true),
        (r#"{"error":"with status 200"}"#, true),
    ] {
        let body = Bytes::from(body);
        let reply = Reply {
            status: StatusCode::OK,
            headers: &headers,
            body: &body,
        };
        assert_eq!(codec.check(&item, &reply).is_ok(), fits);
    }
}
