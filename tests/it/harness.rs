//! The harness keeps its own promises: what arrives is recorded as it came, faults are faults.

use std::time::Duration;

use jitney_tests::caller::{self, request};
use jitney_tests::model;
use jitney_tests::upstream::Ending;
use jitney_tests::{Caller, Reply, TestUpstream};

#[tokio::test]
async fn upstream_records_the_bytes_as_they_came() {
    let upstream = TestUpstream::start(model::kserve).await;
    let sent = b"POST /v1/models/m:predict HTTP/1.1\r\nHoSt: x\r\ncontent-length: 22\r\n\r\n{\"instances\": [ 1.0 ]}";
    let reply = caller::raw(upstream.address, sent, Duration::from_millis(200))
        .await
        .unwrap();
    assert_eq!(upstream.raw(0), sent);
    assert_eq!(upstream.seen()[0].body, r#"{"instances": [ 1.0 ]}"#);
    assert!(
        String::from_utf8_lossy(&reply).ends_with(&model::predictions(&["1.0"], "")),
        "{reply:?}"
    );
}

#[tokio::test]
async fn upstream_speaks_h2() {
    let upstream = TestUpstream::start(model::users).await;
    let mut caller = Caller::h2(upstream.address).await.unwrap();
    let answer = caller
        .call(request("GET", "http://users.test/users/7", &[], ""))
        .await
        .unwrap();
    assert_eq!(answer.text(), model::user("7", ""));
    assert_eq!(upstream.seen()[0].version, http::Version::HTTP_2);
}

#[tokio::test]
async fn faults_are_faults() {
    let endings = [Ending::Cut(3), Ending::HangUp];
    for ending in endings {
        let upstream = TestUpstream::start(move |_| Reply::json(200, "0123456789").ending(ending)).await;
        assert!(
            caller::get(upstream.address, "/").await.is_err(),
            "{ending:?} gave a whole reply"
        );
    }
    let upstream = TestUpstream::start(|_| Reply::json(200, "0123456789").ending(Ending::Cut(3))).await;
    let part = caller::raw(
        upstream.address,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    assert!(part.ends_with(b"012"), "{}", String::from_utf8_lossy(&part));
}

#[test]
fn elements_are_slices() {
    let body = br#"{"a":1,"instances" : [1.0, {"x":[1,2],"y":"]\"," } ,"\ud800",[]], "b":[9]}"#;
    let found = model::elements(body, b"\"instances\"").unwrap();
    assert_eq!(
        found,
        [&b"1.0"[..], br#"{"x":[1,2],"y":"]\"," }"#, br#""\ud800""#, b"[]"]
    );
    assert_eq!(
        model::elements(b"{\"instances\":[]}", b"\"instances\"")
            .unwrap()
            .len(),
        0
    );
    assert!(model::elements(b"{\"instances\":[1", b"\"instances\"").is_none());
}

#[tokio::test]
async fn json_rpc_model_answers_as_the_standard_says() {
    let upstream = TestUpstream::start(model::json_rpc).await;
    let ask = async |body: &'static str| caller::post(upstream.address, "/", body).await.unwrap().text();
    assert_eq!(
        ask(r#"{"jsonrpc":"2.0","method":"echo","params":[1.0],"id":null}"#).await,
        r#"{"jsonrpc":"2.0","result":{"params":[1.0],"by":""},"id":null}"#
    );
    assert_eq!(ask(r#"{"jsonrpc":"2.0","method":"echo"}"#).await, "");
    assert!(
        ask(r#"[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"fail","id":2}]"#)
            .await
            .starts_with(r#"[{"jsonrpc":"2.0","error":"#)
    );
}
