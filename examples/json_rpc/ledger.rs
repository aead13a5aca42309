//! The ledger: JSON-RPC 2.0 over HTTP with batches, on SQLite. It knows nothing of Jitney.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jitney_examples::service::{json, listen, serve};
use jitney_examples::shop::Shop;
use rusqlite::{Connection, OptionalExtension as _};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Serves the ledger of the database `path` until the process ends.
pub(crate) async fn run(path: PathBuf) -> anyhow::Result<()> {
    let (shop, lookups) = (Shop::open(path), Arc::new(AtomicU64::new(0)));
    serve(listen().await?, move |request| {
        answer(shop.clone(), Arc::clone(&lookups), request)
    })
    .await
}

/// One call of a request.
#[derive(Deserialize)]
struct Call {
    method: String,
    params: [i64; 1],
    id: Option<Box<RawValue>>,
}

async fn answer(shop: Shop, lookups: Arc<AtomicU64>, request: Request<Bytes>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/stats" {
        return json(
            StatusCode::OK,
            format!(r#"{{"lookups":{}}}"#, lookups.load(Ordering::Relaxed)),
        );
    }
    let is_batch = request.body().trim_ascii_start().starts_with(b"[");
    let calls = if is_batch {
        serde_json::from_slice::<Vec<Call>>(request.body())
    } else {
        serde_json::from_slice::<Call>(request.body()).map(|call| vec![call])
    };
    let Ok(calls) = calls else {
        let error = r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}"#;
        return json(StatusCode::OK, error);
    };
    lookups.fetch_add(
        u64::from(calls.iter().any(|call| call.method == "spent")),
        Ordering::Relaxed,
    );
    // One connection for all of them; the last is answered first, as the standard allows.
    let replies = shop.ask(move |database| calls.iter().rev().map(|call| call.reply(database)).collect());
    match replies.await {
        Ok(replies) => {
            let replies: Vec<Option<String>> = replies;
            let texts: Vec<String> = replies.into_iter().flatten().collect();
            json(
                StatusCode::OK,
                if is_batch {
                    format!("[{}]", texts.join(","))
                } else {
                    texts.join("")
                },
            )
        }
        Err(error) => json(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(r#"{{"error":"{error}"}}"#),
        ),
    }
}

impl Call {
    /// The reply object, or nothing for a notification.
    fn reply(&self, database: &Connection) -> rusqlite::Result<Option<String>> {
        let Some(id) = &self.id else { return Ok(None) };
        let result = match self.method.as_str() {
            "page" => page(database, self.params[0]).map(Some)?,
            "spent" => spent(database, self.params[0])?.map(|cents| cents.to_string()),
            _ => None,
        };
        Ok(Some(result.map_or_else(
            || {
                format!(
                    r#"{{"jsonrpc":"2.0","error":{{"code":-32602,"message":"Invalid params"}},"id":{id}}}"#
                )
            },
            |result| format!(r#"{{"jsonrpc":"2.0","result":{result},"id":{id}}}"#),
        )))
    }
}

/// Who ordered what is on a page: a JSON array of users.
fn page(database: &Connection, page: i64) -> rusqlite::Result<String> {
    let mut orders = database.prepare("SELECT user FROM orders WHERE page = ? ORDER BY id")?;
    let users = orders
        .query_map([page], |row| row.get::<_, i64>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(format!(
        "[{}]",
        users.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
    ))
}

/// What a user has spent, in cents; nothing for a user that does not exist.
fn spent(database: &Connection, user: i64) -> rusqlite::Result<Option<i64>> {
    let mut sum = database.prepare_cached(
        "SELECT COALESCE(SUM(products.cents), 0) FROM users
         LEFT JOIN orders ON orders.user = users.id LEFT JOIN products USING (sku)
         WHERE users.id = ? GROUP BY users.id",
    )?;
    sum.query_row([user], |row| row.get(0)).optional()
}
