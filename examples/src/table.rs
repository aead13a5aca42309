//! A service that shows one table of the shop's database: rows one by one, and rows by a list of
//! their ids, as many services have it. It knows nothing of Jitney.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, Response};
use http_body_util::Full;
use rusqlite::params_from_iter;
use rusqlite::types::Value;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::service::{found, serve};
use crate::shop::Shop;

/// A table that a service shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Table {
    /// Orders of the shop.
    Orders,
    /// Its users.
    Users,
}

/// What a service tells of itself at `/stats`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Asked {
    /// Calls that it was sent, for one row or for many.
    pub calls: u64,
    /// Rows that they asked for.
    pub rows: u64,
}

impl Asked {
    /// What was counted since an earlier time.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls - earlier.calls,
            rows: self.rows - earlier.rows,
        }
    }

    /// Rows for each call.
    #[must_use]
    pub fn mean_batch(self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "counts for people to read")]
        let mean = self.rows as f64 / self.calls.max(1) as f64;
        format!("{mean:.1}")
    }
}

impl Table {
    /// What its paths begin with.
    const fn path(self) -> &'static str {
        match self {
            Self::Orders => "/orders",
            Self::Users => "/users",
        }
    }

    /// Asks for so many rows, each of which is shown as one JSON object.
    fn question(self, ids: usize) -> String {
        let marks = vec!["?"; ids].join(",");
        let (columns, table) = match self {
            Self::Orders => ("'id', id, 'user', user, 'sku', sku", "orders"),
            Self::Users => ("'id', id, 'name', name, 'email', email, 'city', city", "users"),
        };
        format!("SELECT json_object({columns}) FROM {table} WHERE id IN ({marks})")
    }
}

/// Serves a table of the database `path` until the process ends.
///
/// # Errors
/// When accepting fails.
pub async fn run(listener: TcpListener, table: Table, path: PathBuf) -> anyhow::Result<()> {
    let service = Arc::new(Service {
        table,
        shop: Shop::open(path),
        calls: AtomicU64::new(0),
        rows: AtomicU64::new(0),
    });
    serve(listener, move |request| answer(Arc::clone(&service), request)).await
}

struct Service {
    table: Table,
    shop: Shop,
    calls: AtomicU64,
    rows: AtomicU64,
}

async fn answer(service: Arc<Service>, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    let reply = if path == "/stats" {
        serde_json::to_vec(&service.asked())
            .map(Some)
            .map_err(anyhow::Error::from)
    } else {
        match (
            path.strip_prefix(service.table.path()),
            query.strip_prefix("ids="),
        ) {
            (Some(""), Some(ids)) => {
                let rows = service.rows(ids).await;
                rows.map(|rows| Some(format!("[{}]", rows.join(",")).into_bytes()))
            }
            (Some(id), _) if id.starts_with('/') => {
                let rows = service.rows(&id[1..]).await;
                rows.map(|rows| rows.into_iter().next().map(String::into_bytes))
            }
            _ => Ok(None),
        }
    };
    found(reply)
}

impl Service {
    fn asked(&self) -> Asked {
        Asked {
            calls: self.calls.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
        }
    }

    /// The rows with these ids, separated by commas. One question, however many.
    async fn rows(&self, ids: &str) -> anyhow::Result<Vec<String>> {
        let ids: Vec<Value> = ids
            .split(',')
            .filter_map(|id| id.parse().ok())
            .map(Value::Integer)
            .collect();
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let question = self.table.question(ids.len());
        let rows = self.shop.ask(move |database| {
            database
                .prepare(&question)?
                .query_map(params_from_iter(ids), |row| row.get(0))?
                .collect()
        });
        rows.await
    }
}
