//! Pages that are loaded in a closed loop, each compared with the one that was made without Jitney.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use jitney_examples::client::Connection;
use jitney_examples::{Call, Reply, shop};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How much work is done, and how much of it at once.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Pages that are loaded without Jitney and again through the mesh, before anything is changed
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pages: u32,
    /// Pages that are loaded at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    renderers: u16,
    /// For how many seconds each change is watched
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
}

impl Options {
    /// Pages by which every connection is open.
    pub(crate) const fn first(self) -> usize {
        self.renderers as usize * 2
    }

    /// Pages of a comparison.
    pub(crate) const fn pages(self) -> usize {
        self.pages as usize
    }

    /// How long each change is watched.
    pub(crate) const fn watched(self) -> Duration {
        Duration::from_secs(self.seconds as u64)
    }
}

/// The pages as they are without Jitney.
#[derive(Debug)]
pub(crate) struct Book(Vec<OnceLock<Reply>>);

impl Book {
    /// A book in which nothing is written yet.
    pub(crate) fn new(options: Options) -> Arc<Self> {
        let pages = options.pages().min(shop::PAGES as usize);
        Arc::new(Self((0..pages).map(|_| OnceLock::new()).collect()))
    }

    /// Whether a page is as it was the first time.
    fn is_same(&self, page: usize, reply: &Reply) -> bool {
        // Invariant: the first time is without Jitney, where each page is loaded once at least.
        self.0[page].get_or_init(|| reply.clone()) == reply
    }
}

/// What has been loaded so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    next: AtomicUsize,
    equal: AtomicUsize,
    failed: AtomicUsize,
    different: AtomicUsize,
    first_fault: OnceLock<String>,
}

impl Tally {
    /// Pages that were asked for, and came or failed.
    pub(crate) fn pages(&self) -> usize {
        self.equal() + self.failed() + self.different.load(Ordering::Relaxed)
    }

    /// Pages that were equal to those made without Jitney.
    pub(crate) fn equal(&self) -> usize {
        self.equal.load(Ordering::Relaxed)
    }

    /// Pages to which there was no reply.
    pub(crate) fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first thing that went wrong.
    pub(crate) fn first_fault(&self) -> Option<&str> {
        self.first_fault.get().map(String::as_str)
    }
}

/// Pages that are being loaded.
#[derive(Debug)]
pub(crate) struct Load {
    /// What has been loaded so far.
    pub(crate) tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    renderers: JoinSet<Vec<Duration>>,
}

impl Load {
    /// Begins to load pages from a shop, the whole book again and again, and `most` at most.
    pub(crate) fn begin(
        shop: SocketAddr,
        book: &Arc<Book>,
        options: Options,
        most: usize,
        bar: &ProgressBar,
    ) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let mut renderers = JoinSet::new();
        for _ in 0..options.renderers {
            let renderer = Renderer {
                shop,
                book: Arc::clone(book),
                tally: Arc::clone(&tally),
                stop: Arc::clone(&stop),
                bar: bar.clone(),
            };
            renderers.spawn(renderer.render(most));
        }
        Self {
            tally,
            stop,
            renderers,
        }
    }

    /// Waits until the pages that are under way have come, and begins no other; how long each page
    /// took, sorted.
    pub(crate) async fn end(self) -> anyhow::Result<(Arc<Tally>, Vec<Duration>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.over().await
    }

    /// Waits until every page has been loaded; how long each took, sorted.
    pub(crate) async fn over(mut self) -> anyhow::Result<(Arc<Tally>, Vec<Duration>)> {
        let mut took = Vec::new();
        while let Some(renderer) = self.renderers.join_next().await {
            took.extend(renderer?);
        }
        took.sort_unstable();
        Ok((self.tally, took))
    }
}

/// Loads one page at a time.
struct Renderer {
    shop: SocketAddr,
    book: Arc<Book>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Renderer {
    async fn render(self, most: usize) -> Vec<Duration> {
        let (mut took, mut connection) = (Vec::new(), None);
        let end = Instant::now() + LONGEST;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < end {
            let number = self.tally.next.fetch_add(1, Ordering::Relaxed);
            if number >= most {
                break;
            }
            let (page, start) = (number % self.book.0.len(), Instant::now());
            let fault = match self.load(page, &mut connection).await {
                Ok(reply) if reply.status == 200 && self.book.is_same(page, &reply) => {
                    self.tally.equal.fetch_add(1, Ordering::Relaxed);
                    took.push(start.elapsed());
                    self.bar.inc(1);
                    continue;
                }
                Ok(reply) => {
                    self.tally.different.fetch_add(1, Ordering::Relaxed);
                    format!("page {page}: not the one made without Jitney: {reply:?}")
                }
                Err(error) => {
                    self.tally.failed.fetch_add(1, Ordering::Relaxed);
                    connection = None;
                    format!("page {page}: {error:#}")
                }
            };
            let _only_the_first = self.tally.first_fault.set(fault);
            // What is broken is not to be asked as fast as it can refuse.
            sleep(AFTER_FAULT).await;
        }
        took
    }

    async fn load(&self, page: usize, connection: &mut Option<Connection>) -> anyhow::Result<Reply> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::open(self.shop).await?),
        };
        connection.call(Call::get(format!("/pages/{page}"))).await
    }
}

/// However many pages are still to come.
const LONGEST: Duration = Duration::from_secs(600);
const AFTER_FAULT: Duration = Duration::from_millis(100);
