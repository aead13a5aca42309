//! An N+1 workload in a closed loop: a page asks for a list, then for each thing on it, all at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Call, Connection, Reply};

/// How much work is done, and how much of it at once.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Pages that are rendered, direct and again through Jitney
    #[arg(long, default_value_t = 1500)]
    pub pages: usize,
    /// Pages that are rendered at the same time
    #[arg(long, default_value_t = 16)]
    pub renderers: usize,
}

/// What the pages ask for.
pub trait Workload: Send + Sync + 'static {
    /// How many things are on a page: the N of N+1.
    const WIDTH: usize;

    /// The first call of a page: the list.
    fn list(&self, page: usize) -> Call;

    /// The calls that follow from the list: one for each thing on it, at most [`Self::WIDTH`].
    ///
    /// # Errors
    /// When the list is not what was asked for.
    fn each(&self, page: usize, list: &Reply) -> anyhow::Result<Vec<Call>>;
}

/// What one run gave.
#[derive(Debug)]
pub struct Run {
    /// Every reply, by page and place on it.
    pub replies: Vec<Vec<Reply>>,
    /// How long each of the N calls took, sorted.
    pub latencies: Vec<Duration>,
    /// How long the run took.
    pub elapsed: Duration,
}

/// Renders every page against `address`.
///
/// # Errors
/// When a call breaks: no reply at all, rather than an error status.
pub async fn run<W: Workload>(
    workload: &Arc<W>,
    options: Options,
    address: SocketAddr,
    bar: &ProgressBar,
) -> anyhow::Result<Run> {
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut renderers = JoinSet::new();
    for _ in 0..options.renderers {
        let mut renderer = Renderer::connect(address, W::WIDTH).await?;
        let (workload, next, bar) = (Arc::clone(workload), Arc::clone(&next), bar.clone());
        renderers.spawn(async move {
            let mut rendered = Vec::new();
            loop {
                let page = next.fetch_add(1, Ordering::Relaxed);
                if page >= options.pages {
                    return anyhow::Ok((rendered, renderer.latencies));
                }
                let replies = renderer
                    .page(&*workload, page)
                    .await
                    .with_context(|| format!("page {page}"))?;
                bar.inc(replies.len() as u64);
                rendered.push((page, replies));
            }
        });
    }
    let (mut replies, mut latencies) = (vec![Vec::new(); options.pages], Vec::new());
    while let Some(renderer) = renderers.join_next().await {
        let (rendered, its) = renderer??;
        rendered.into_iter().for_each(|(page, its)| replies[page] = its);
        latencies.extend(its);
    }
    let elapsed = start.elapsed();
    latencies.sort_unstable();
    Ok(Run {
        replies,
        latencies,
        elapsed,
    })
}

/// How long a call takes when it is the only one: the middle of 200.
///
/// # Errors
/// When a call breaks.
pub async fn lone_call<W: Workload>(workload: &W, address: SocketAddr) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(address).await?;
    let list = connection.call(workload.list(0)).await?;
    let call = workload
        .each(0, &list)?
        .into_iter()
        .next()
        .context("a page without things")?;
    let mut took = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        connection.call(call.clone()).await?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

/// Renders one page at a time over connections of its own.
struct Renderer {
    connections: Vec<Connection>,
    latencies: Vec<Duration>,
}

impl Renderer {
    async fn connect(address: SocketAddr, width: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(width);
        for _ in 0..width {
            connections.push(Connection::open(address).await?);
        }
        Ok(Self {
            connections,
            latencies: Vec::new(),
        })
    }

    async fn page<W: Workload>(&mut self, workload: &W, page: usize) -> anyhow::Result<Vec<Reply>> {
        let list = self.connections[0].call(workload.list(page)).await?;
        let calls = workload.each(page, &list)?;
        anyhow::ensure!(
            calls.len() <= self.connections.len(),
            "more things on a page than announced"
        );
        let (width, mut going) = (calls.len(), JoinSet::new());
        for (place, (call, mut connection)) in
            calls.into_iter().zip(self.connections.drain(..width)).enumerate()
        {
            going.spawn(async move {
                let start = Instant::now();
                let reply = connection.call(call).await;
                (place, start.elapsed(), reply, connection)
            });
        }
        let mut replies: Vec<(usize, Reply)> = Vec::with_capacity(going.len());
        while let Some(done) = going.join_next().await {
            let (place, took, reply, connection) = done?;
            self.latencies.push(took);
            self.connections.push(connection);
            replies.push((place, reply?));
        }
        replies.sort_unstable_by_key(|(place, _)| *place);
        Ok(replies.into_iter().map(|(_, reply)| reply).collect())
    }
}
