//! JSON-RPC 2.0: callers with ids of every kind, errors for one call among many, and an upstream
//! that answers a batch in whatever order it likes.

mod ledger;

use std::process::ExitCode;

use jitney_examples::{Call, Reply, Scene, Workload, play, shop};
use serde::Deserialize;

fn main() -> anyhow::Result<ExitCode> {
    let scene = Scene {
        title: "Pages of 20 orders; for each order the ledger is asked what its user has spent, over JSON-RPC.",
        policy: "json_rpc/policy.yaml",
        workload: LedgerPages,
        try_out: &[
            "/rpc -H 'content-type: application/json' -d '{\"jsonrpc\":\"2.0\",\"method\":\"spent\",\"params\":[7],\"id\":\"a\"}'",
        ],
    };
    play(scene, ledger::run)
}

/// A page of orders, and what the user of each has spent.
struct LedgerPages;

#[derive(Deserialize)]
struct Page {
    result: Vec<i64>,
}

impl Workload for LedgerPages {
    const WIDTH: usize = shop::PAGE as usize;

    fn list(&self, page: usize) -> Call {
        let page = page % shop::PAGES as usize;
        Call::post(
            "/rpc",
            format!(r#"{{"jsonrpc":"2.0","method":"page","params":[{page}],"id":{page}}}"#),
        )
    }

    fn each(&self, page: usize, list: &Reply) -> anyhow::Result<Vec<Call>> {
        let users = serde_json::from_slice::<Page>(&list.body)?.result;
        let calls = users.into_iter().enumerate().map(|(place, user)| {
            // Real clients count, name, or repeat their ids; all must come back as they were sent.
            let id = match place % 4 {
                0 => format!("{page}"),
                1 => format!("\"{page}-{place}\""),
                2 => "1".to_owned(),
                _ => "\"\\u0031\"".to_owned(),
            };
            // Nobody has the number 0: this call alone gets an error.
            let user = if place == 3 { 0 } else { user };
            Call::post(
                "/rpc",
                format!(r#"{{"jsonrpc":"2.0","method":"spent","params":[{user}],"id":{id}}}"#),
            )
        });
        Ok(calls.collect())
    }
}
