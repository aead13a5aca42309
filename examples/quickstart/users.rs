//! The users service: orders by page, users one by one, and users by a list of ids, as many
//! services have it. It knows nothing of Jitney.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jitney_examples::service::{found, json, listen, serve};
use jitney_examples::shop::Shop;
use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};
use serde::Serialize;

/// Serves the users of the database `path` until the process ends.
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
    } else if let Some(ids) = query.strip_prefix("ids=").filter(|_| path == "/users") {
        lookups.fetch_add(1, Ordering::Relaxed);
        users(&shop, ids)
            .await
            .and_then(|users| Ok(Some(serde_json::to_vec(&users)?)))
    } else if let Some(id) = path.strip_prefix("/users/") {
        lookups.fetch_add(1, Ordering::Relaxed);
        users(&shop, id)
            .await
            .and_then(|users| Ok(users.first().map(serde_json::to_vec).transpose()?))
    } else {
        Ok(None)
    };
    found(reply)
}

/// A user as the service shows it.
#[derive(Serialize)]
struct User {
    id: i64,
    name: String,
    email: String,
    city: String,
}

impl User {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            email: row.get(2)?,
            city: row.get(3)?,
        })
    }
}

/// The users with these ids, separated by commas. One question, however many.
async fn users(shop: &Shop, ids: &str) -> anyhow::Result<Vec<User>> {
    let ids: Vec<Value> = ids
        .split(',')
        .filter_map(|id| id.parse().ok())
        .map(Value::Integer)
        .collect();
    let marks = vec!["?"; ids.len()].join(",");
    shop.ask(move |database| {
        let sql = format!("SELECT id, name, email, city FROM users WHERE id IN ({marks})");
        database
            .prepare(&sql)?
            .query_map(params_from_iter(ids), User::read)?
            .collect()
    })
    .await
}

/// The orders on one page: which user ordered.
async fn orders(shop: &Shop, page: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Ok(page) = page.parse::<i64>() else {
        return Ok(None);
    };
    let users = shop.ask(move |database| {
        let mut orders = database.prepare("SELECT user FROM orders WHERE page = ? ORDER BY id")?;
        orders
            .query_map([page], |row| row.get::<_, i64>(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()
    });
    Ok(Some(serde_json::to_vec(&users.await?)?))
}
