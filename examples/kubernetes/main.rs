//! The shop's three services as programs of their own, for pods: they know nothing of Jitney and ask each
//! other by the names of Services.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use jitney_examples::table::{self, Table};
use jitney_examples::{client, front, shop};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// One service of a shop
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Pages of orders, each with its user: one call for each of them
    Front {
        #[command(flatten)]
        serving: Serving,
        /// Where orders are, as host:port
        #[arg(long)]
        orders: String,
        /// Where users are, as host:port
        #[arg(long)]
        users: String,
    },
    /// Rows of a table, one by one or by a list of their ids
    Table {
        #[command(flatten)]
        serving: Serving,
        table: Table,
    },
    /// Ask for pages, and count what comes back
    Load {
        /// Where the front is, as host:port
        front: String,
        /// How many pages
        #[arg(long, default_value_t = 100)]
        pages: u32,
        /// How many at once
        #[arg(long, default_value_t = 8)]
        at_once: u32,
        /// Print the replies instead, in their order
        #[arg(long)]
        print: bool,
    },
}

#[derive(clap::Args)]
struct Serving {
    /// Where to listen
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
    /// How long to go on after SIGTERM, for callers that have not heard of it
    #[arg(long, default_value_t = 3)]
    linger: u64,
}

fn main() -> anyhow::Result<()> {
    let role = Arguments::parse().role;
    Runtime::new()?.block_on(async {
        match role {
            Role::Front {
                serving,
                orders,
                users,
            } => {
                let listener = serving.listener().await?;
                serving.until_told(front::run(listener, orders, users)).await
            }
            Role::Table { serving, table } => {
                let folder = tempfile::tempdir()?;
                let database = folder.path().join("shop.db");
                shop::create(&database)?;
                let listener = serving.listener().await?;
                serving.until_told(table::run(listener, table, database)).await
            }
            Role::Load {
                front,
                pages,
                at_once,
                print,
            } => load(front, pages, at_once.clamp(1, 1024), print).await,
        }
    })
}

impl Serving {
    /// On IPv4 alone where there is no IPv6.
    async fn listener(&self) -> anyhow::Result<TcpListener> {
        match TcpListener::bind(self.listen).await {
            Err(_) if self.listen.ip().is_unspecified() => {
                let any = SocketAddr::from(([0, 0, 0, 0], self.listen.port()));
                Ok(TcpListener::bind(any).await?)
            }
            bound => Ok(bound?),
        }
    }

    /// A first process is not ended by a signal that it does not handle.
    async fn until_told(&self, serving: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let mut told = signal(SignalKind::terminate())?;
        let ended = async {
            told.recv().await;
            tokio::time::sleep(Duration::from_secs(self.linger)).await;
        };
        tokio::select! {
            done = serving => done,
            () = ended => Ok(()),
        }
    }
}

/// Asks for pages, so many at once; ends with how many came and failed.
async fn load(front: String, pages: u32, at_once: u32, print: bool) -> anyhow::Result<()> {
    let mut askers = JoinSet::new();
    for asker in 0..at_once {
        let front = front.clone();
        askers.spawn(async move {
            let mut replies = Vec::new();
            for page in (asker..pages).step_by(at_once as usize) {
                replies.push((page, ask(&front, page % shop::PAGES).await));
            }
            replies
        });
    }
    let mut replies: Vec<(u32, anyhow::Result<String>)> =
        askers.join_all().await.into_iter().flatten().collect();
    replies.sort_by_key(|(page, _)| *page);
    let failed: Vec<String> = replies
        .iter()
        .filter_map(|(page, reply)| Some(format!("page {page}: {:#}", reply.as_ref().err()?)))
        .collect();
    if print {
        replies
            .iter()
            .flat_map(|(_, reply)| reply)
            .for_each(|reply| say(reply));
    }
    let first = failed.first().map_or("", String::as_str);
    anyhow::ensure!(
        failed.is_empty(),
        "{} of {pages} pages failed: {first}",
        failed.len()
    );
    if !print {
        say(&format!("{pages} pages, 0 failed"));
    }
    Ok(())
}

async fn ask(front: &str, page: u32) -> anyhow::Result<String> {
    let mut connection = client::Connection::open(front).await?;
    let reply = connection
        .call(jitney_examples::Call::get(format!("/pages/{page}")))
        .await?;
    let body = String::from_utf8(reply.body.to_vec())?;
    anyhow::ensure!(reply.status == 200, "{}: {body}", reply.status);
    Ok(body)
}

#[expect(clippy::print_stdout, reason = "whoever runs it reads it")]
fn say(text: &str) {
    println!("{text}");
}
