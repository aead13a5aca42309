//! The shop: a page shows twenty orders with the user of each, and asks for every one of them alone,
//! which is the N+1 pattern. It knows nothing of Jitney, only where to ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::service::{json, serve};
use crate::{Call, shop};

/// What the shop tells of itself at `/stats`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Made {
    /// Calls that it made.
    pub calls: u64,
    /// Those that failed: no reply, or an error in it.
    pub failed: u64,
}

/// Serves pages until the process ends; where it asks for orders and for users is given as `host:port`.
///
/// # Errors
/// When accepting fails.
pub async fn run(listener: TcpListener, orders: String, users: String) -> anyhow::Result<()> {
    let front = Arc::new(Front {
        orders: Arc::new(Service::at(orders)),
        users: Arc::new(Service::at(users)),
        calls: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    serve(listener, move |request| answer(Arc::clone(&front), request)).await
}

struct Front {
    orders: Arc<Service>,
    users: Arc<Service>,
    calls: AtomicU64,
    failed: AtomicU64,
}

async fn answer(front: Arc<Front>, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let page = path.strip_prefix("/pages/").and_then(|page| page.parse().ok());
    let reply = match page {
        Some(page) if page < shop::PAGES => front.page(page).await,
        _ if path == "/stats" => serde_json::to_string(&front.made()).map_err(anyhow::Error::from),
        _ => return json(StatusCode::NOT_FOUND, r#"{"error":"not found"}"#),
    };
    match reply {
        Ok(body) => json(StatusCode::OK, body),
        Err(error) => json(
            StatusCode::BAD_GATEWAY,
            serde_json::json!({"error": format!("{error:#}")}).to_string(),
        ),
    }
}

/// What the shop must know of an order to find its user.
#[derive(Deserialize)]
struct Order {
    user: u32,
}

impl Front {
    fn made(&self) -> Made {
        Made {
            calls: self.calls.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// A page, in which every reply stands byte for byte as it came.
    async fn page(&self, page: u32) -> anyhow::Result<String> {
        let ids = page * shop::PAGE..(page + 1) * shop::PAGE;
        let targets = ids.map(|id| format!("/orders/{id}")).collect();
        let orders = self.each(&self.orders, targets).await?;
        let user = |order: &String| Ok(format!("/users/{}", serde_json::from_str::<Order>(order)?.user));
        let targets = orders.iter().map(user).collect::<anyhow::Result<_>>()?;
        let users = self.each(&self.users, targets).await?;
        let lines = orders.iter().zip(users);
        let lines = lines.map(|(order, user)| format!(r#"{{"order":{order},"user":{user}}}"#));
        let lines = lines.collect::<Vec<_>>().join(",\n");
        Ok(format!("{{\"page\":{page},\"lines\":[\n{lines}\n]}}\n"))
    }

    /// The replies of a service to calls that are made all at once.
    async fn each(&self, service: &Arc<Service>, targets: Vec<String>) -> anyhow::Result<Vec<String>> {
        let mut replies = vec![String::new(); targets.len()];
        let mut going = JoinSet::new();
        for (place, target) in targets.into_iter().enumerate() {
            let service = Arc::clone(service);
            going.spawn(async move { (place, service.get(target).await) });
        }
        let mut fault = None;
        while let Some(done) = going.join_next().await {
            let (place, reply) = done?;
            self.calls.fetch_add(1, Ordering::Relaxed);
            match reply {
                Ok(reply) => replies[place] = reply,
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    fault = Some(error);
                }
            }
        }
        fault.map_or(Ok(replies), Err)
    }
}

/// Where calls are sent, and the connections to it that are free at the moment.
struct Service {
    address: String,
    free: Mutex<Vec<Connection>>,
}

impl Service {
    const fn at(address: String) -> Self {
        Self {
            address,
            free: Mutex::new(Vec::new()),
        }
    }

    /// The body of the reply to a call that is made once: that a connection breaks is a failure.
    async fn get(&self, target: String) -> anyhow::Result<String> {
        let mut connection = match self.free() {
            Some(connection) => connection,
            None => Connection::open(self.address.as_str()).await?,
        };
        let reply = connection.call(Call::get(&target)).await;
        let reply = reply.with_context(|| target.clone())?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MOST_FREE {
            free.push(connection);
        }
        drop(free);
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        ensure!(reply.status == 200, "{target}: {}: {body}", reply.status);
        Ok(body)
    }

    fn free(&self) -> Option<Connection> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| free.pop()).find(Connection::is_open)
    }
}

/// What 64 pages at once use.
const MOST_FREE: usize = 64 * shop::PAGE as usize;
