//! Watch calls being gathered: an N+1 workload against a users service on SQLite, direct and
//! through Jitney, each role in a process of its own, and every reply compared.

mod users;

use std::process::ExitCode;

use jitney_examples::{Call, Reply, Scene, Workload, play, shop};

fn main() -> anyhow::Result<ExitCode> {
    let scene = Scene {
        title: "Pages of 20 orders; for each order its user is asked for, one by one: the N+1 pattern.",
        policy: "quickstart/policy.yaml",
        workload: OrderPages,
        try_out: &["/users/7", "/orders/1"],
    };
    play(scene, users::run)
}

/// A page of orders, and the user of each.
struct OrderPages;

impl Workload for OrderPages {
    const WIDTH: usize = shop::PAGE as usize;

    fn list(&self, page: usize) -> Call {
        Call::get(format!("/orders/{}", page % shop::PAGES as usize))
    }

    fn each(&self, _: usize, list: &Reply) -> anyhow::Result<Vec<Call>> {
        let users: Vec<i64> = serde_json::from_slice(&list.body)?;
        Ok(users
            .into_iter()
            .map(|user| Call::get(format!("/users/{user}")))
            .collect())
    }
}
