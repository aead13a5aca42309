//! The products service: order pages, products one by one, and a map of products by a list of
//! their numbers. It knows nothing of Jitney.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jitney_examples::service::{found, json, listen, serve};
use jitney_examples::shop::Shop;
use rusqlite::params_from_iter;
use serde::Serialize;

/// Serves the products of the database `path` until the process ends.
pub(crate) async fn run(path: PathBuf) -> anyhow::Result<()> {
    let (shop, lookups) = (Shop::open(path), Arc::new(AtomicU64::new(0)));
    serve(listen().await?, move |request| {
        answer(shop.clone(), Arc::clone(&lookups), request)
    })
    .await
}

async fn answer(shop: Shop, lookups: Arc<AtomicU64>, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    if path == "/stats" {
        return json(
            StatusCode::OK,
            format!(r#"{{"lookups":{}}}"#, lookups.load(Ordering::Relaxed)),
        );
    }
    let reply = if let Some(page) = path.strip_prefix("/orders/") {
        orders(&shop, page).await
    } else if path == "/products" {
        lookups.fetch_add(1, Ordering::Relaxed);
        let skus = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("sku="))
            .map(plain)
            .collect();
        products(&shop, skus)
            .await
            .and_then(|products| Ok(Some(serde_json::to_vec(&products)?)))
    } else if let Some(sku) = path.strip_prefix("/products/") {
        lookups.fetch_add(1, Ordering::Relaxed);
        let found = products(&shop, vec![plain(sku)]).await;
        found.and_then(|found| Ok(found.values().next().map(serde_json::to_vec).transpose()?))
    } else {
        Ok(None)
    };
    found(reply)
}

/// Product numbers hold one character that a path cannot: the space.
fn plain(sku: &str) -> String {
    sku.replace("%20", " ")
}

/// A product as the service shows it.
#[derive(Serialize)]
struct Product {
    sku: String,
    title: String,
    cents: i64,
}

/// The products with these numbers; what is discontinued is not among them.
async fn products(shop: &Shop, skus: Vec<String>) -> anyhow::Result<BTreeMap<String, Product>> {
    let marks = vec!["?"; skus.len()].join(",");
    shop.ask(move |database| {
        let sql = format!("SELECT sku, title, cents FROM products WHERE sku IN ({marks})");
        let mut found = database.prepare(&sql)?;
        let found = found.query_map(params_from_iter(skus), |row| {
            let product = Product {
                sku: row.get(0)?,
                title: row.get(1)?,
                cents: row.get(2)?,
            };
            Ok((product.sku.clone(), product))
        })?;
        found.collect()
    })
    .await
}

/// The orders on one page: which product was ordered.
async fn orders(shop: &Shop, page: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Ok(page) = page.parse::<i64>() else {
        return Ok(None);
    };
    let skus = shop.ask(move |database| {
        let mut orders = database.prepare("SELECT sku FROM orders WHERE page = ? ORDER BY id")?;
        orders
            .query_map([page], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    });
    Ok(Some(serde_json::to_vec(&skus.await?)?))
}
