//! The fuzz targets' corpora, replayed: what a fuzzer once found interesting stays tested on every
//! toolchain.

use std::path::Path;

#[path = "../fuzz/properties.rs"]
mod properties;

#[track_caller]
fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| property(&input)).is_err() {
            panic!("{} breaks a property of {target}", path.display());
        }
        count += 1;
    }
    assert!(count >= 10, "{count} inputs in {}", folder.display());
}

#[test]
fn json_array_holds_on_its_corpus() {
    replay("json_array", properties::json_array);
}

#[test]
fn json_rpc_holds_on_its_corpus() {
    replay("json_rpc", properties::json_rpc);
}

#[test]
fn keyed_get_holds_on_its_corpus() {
    replay("keyed_get", properties::keyed_get);
}
