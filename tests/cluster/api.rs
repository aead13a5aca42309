//! An API server alone: what it takes, and what it refuses.

pub(crate) mod chart;
mod check;
mod definitions;
mod documents;

use serde_json::Value;

use crate::kubectl::kubectl;

#[test]
fn the_server_answers_with_its_version() {
    let version: Value = serde_json::from_str(&kubectl(&["version", "--output", "json"])).unwrap();
    let (client, server) = (&version["clientVersion"], &version["serverVersion"]);
    assert_eq!(client["gitVersion"], server["gitVersion"], "of one build");
}
