//! N+1 over a SQL-backed REST service whose batch reply is a map: product numbers with a space in
//! them, popular products that many callers ask for at once, and discontinued ones that are 404.

mod products;

use std::process::ExitCode;

use jitney_examples::{Call, Reply, Scene, Workload, play, shop};

fn main() -> anyhow::Result<ExitCode> {
    let scene = Scene {
        title: "Pages of 20 orders; for each order its product is asked for, some of which are gone (404).",
        policy: "n_plus_one/policy.yaml",
        workload: ProductPages,
        try_out: &["/products/KT%200001", "/products/AX%200000"],
    };
    play(scene, products::run)
}

/// A page of orders, and the product of each.
struct ProductPages;

impl Workload for ProductPages {
    const WIDTH: usize = shop::PAGE as usize;

    fn list(&self, page: usize) -> Call {
        Call::get(format!("/orders/{}", page % shop::PAGES as usize))
    }

    fn each(&self, _: usize, list: &Reply) -> anyhow::Result<Vec<Call>> {
        let skus: Vec<String> = serde_json::from_slice(&list.body)?;
        Ok(skus
            .iter()
            .map(|sku| Call::get(format!("/products/{}", sku.replace(' ', "%20"))))
            .collect())
    }
}
