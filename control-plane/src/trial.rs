//! `trial`: a service that answers for several items at once, and callers who ask for one each. Between them are
//! sidecars, and the callers tell whether these have gathered their calls. `helm test` runs both.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use clap::{Args, Subcommand};
use http::header::HOST;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

mod callers;
mod service;

pub use callers::Failed;

/// What to try.
#[derive(Debug, Args)]
pub struct TrialArgs {
    /// Which side to be.
    #[command(subcommand)]
    pub side: Side,
}

/// Which side to be.
#[derive(Debug, Subcommand)]
pub enum Side {
    /// Answer for items, one by one at /items/ID or several at /items?ids=ID,ID, until SIGTERM.
    Serve(ServeArgs),
    /// Ask for items from eight callers at once until a batch was formed; ends with 1 if none was, or if any reply is wrong.
    Call(CallArgs),
}

/// How to answer.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen.
    #[arg(
        long,
        env = "JITNEY_TRIAL_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:8080"
    )]
    pub listen: SocketAddr,

    /// The admin endpoint of the sidecar beside it, whose batches it tells of.
    #[arg(
        long,
        env = "JITNEY_TRIAL_SIDECAR",
        value_name = "ADDR",
        default_value = "127.0.0.1:15020"
    )]
    pub sidecar: SocketAddr,
}

/// How to ask.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// Where the service is.
    #[arg(long, env = "JITNEY_TRIAL_SERVICE", value_name = "HOST:PORT")]
    pub service: String,

    /// How long to wait for the first reply, and how long from then on for a batch.
    #[arg(long, env = "JITNEY_TRIAL_PATIENCE", value_name = "TIME", default_value = "60s", value_parser = crate::config::duration)]
    pub patience: Duration,
}

/// Why there was no trial, or what it came to.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The address cannot be listened on.
    #[error("--listen: cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The system refused something.
    #[error("cannot {0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// Calls are not batched, or not answered as they should be.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// What a service knows of its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// Calls for several items: nobody makes these but its sidecar.
    merged: u64,
    /// Batches, as the sidecar counts them.
    batches: f64,
    /// Items in them.
    items: f64,
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
enum NoReply {
    #[error("{0}")]
    Connect(#[source] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("{0}")]
    Body(#[source] axum::Error),
    #[error("status {}: {text}", status.as_u16())]
    Status { status: StatusCode, text: String },
    #[error("no reply in {} s", DEADLINE.as_secs())]
    Late,
}

/// Does what a side does, to its end.
///
/// # Errors
/// When it cannot start, and in the caller what is wrong with the replies, or that nothing is batched.
pub fn carry_out(args: &TrialArgs) -> Result<ExitCode, TrialError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| TrialError::System("start", error))?;
    match &args.side {
        Side::Serve(args) => runtime.block_on(service::run(args))?,
        Side::Call(args) => {
            let shown = runtime.block_on(callers::run(args))?;
            writeln!(io::stdout(), "{shown}").map_err(|error| TrialError::System("write", error))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The body of a good answer of `authority`, a name or an address with a port, over a connection of its own.
async fn get(authority: &str, path: &str) -> Result<Bytes, NoReply> {
    let request = Request::get(path).header(HOST, authority).body(Body::empty())?;
    let asking = async {
        let stream = TcpStream::connect(authority).await.map_err(NoReply::Connect)?;
        let (mut to, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let asking = async move {
            let response = to.send_request(request).await?;
            let status = response.status();
            let body = to_bytes(Body::new(response.into_body()), MOST_BYTES).await;
            let body = body.map_err(NoReply::Body)?;
            match status {
                StatusCode::OK => Ok(body),
                status => Err(NoReply::Status {
                    status,
                    text: shown(&body),
                }),
            }
        };
        // The connection ends when nobody asks on it any more; its error is the answer's.
        tokio::join!(asking, connection).0
    };
    timeout(DEADLINE, asking).await.unwrap_or(Err(NoReply::Late))
}

/// An item, as it is answered for.
fn item(id: &str) -> String {
    format!(r#"{{"id":"{id}","name":"item {id}"}}"#)
}

/// The beginning of a body, in a line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]);
    text.trim().replace('\n', " ")
}

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A sidecar's metrics are a few hundred KiB at most.
const MOST_BYTES: usize = 4 << 20;
/// Bytes of a body that a message repeats.
const SHOWN_MAX: usize = 200;

#[cfg(test)]
mod tests;
