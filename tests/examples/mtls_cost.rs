//! What mTLS between two sidecars takes of the processor, beside what rustls alone takes for the same bytes:
//! `cargo run --release --example mtls_cost`.
//!
//! Two pairs of sidecars, one `Strict` and one `Disabled`, are called in turns, over HTTP/2 on every hop of both; the
//! difference is what mTLS adds. Rustls alone is a client and a server of it in this process, which hand each other
//! what those calls carry, message by message, without a socket between.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jitney_tests::caller::request;
use jitney_tests::usage::Usage;
use jitney_tests::{Caller, Reply, TestControlPlane, TestProxy, TestUpstream};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::task::JoinSet;

/// Bytes of a reply, and how many calls make a round.
const SIZES: [(usize, usize); 3] = [(100, 32_000), (16 << 10, 8_000), (256 << 10, 1_000)];
const ROUNDS: usize = 5;
const CALLERS: usize = 16;
/// What a call's request is on the wire, about, and what a reply has beside its body.
const HEAD: usize = 120;

/// A caller's sidecar and a callee's.
struct Pair {
    _plane: TestControlPlane,
    callee: TestProxy,
    caller: TestProxy,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let upstream = TestUpstream::start_unrecorded(|seen| {
        let size = seen.target.trim_start_matches('/').parse().unwrap_or(0);
        Reply::json(200, vec![b'a'; size])
    })
    .await;
    let service = upstream.address.to_string();
    let plain = Pair::start(&service, "Disabled").await?;
    let secured = Pair::start(&service, "Strict").await?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "reply bytes   plain     mTLS     adds   rustls alone   adds / rustls"
    )?;
    for (size, calls) in SIZES {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let without = plain.cost(size, calls).await?;
            let with = secured.cost(size, calls).await?;
            let alone = tokio::task::spawn_blocking(move || rustls_alone(size, 4 * calls)).await??;
            rounds.push([without, with, with - without, alone]);
        }
        let [without, with, adds, alone] = [0, 1, 2, 3].map(|column| median(&rounds, column));
        let ratio = adds / alone;
        writeln!(
            out,
            "{size:>11} {without:>6.1} µs {with:>5.1} µs {adds:>5.1} µs {alone:>11.1} µs {ratio:>15.2}"
        )?;
    }
    Ok(())
}

fn median(rounds: &[[f64; 4]], column: usize) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn micros(time: Duration, of: usize) -> anyhow::Result<f64> {
    Ok(time.as_secs_f64() * 1e6 / f64::from(u32::try_from(of)?))
}

impl Pair {
    async fn start(service: &str, mode: &str) -> anyhow::Result<Self> {
        let [inbound, outbound] = [free_port()?, free_port()?];
        let documents = format!(
            r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["127.0.0.1:{inbound}"], workload: users}}
---
kind: Listener
metadata: {{name: users-inbound, namespace: shop}}
spec: {{address: "127.0.0.1:{inbound}", backend: users, local: "{service}"}}
---
kind: Listener
metadata: {{name: front-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{outbound}", backend: users, workload: front}}
---
kind: Runtime
metadata: {{name: users, namespace: shop}}
spec: {{mtls: {{mode: {mode}}}}}
---
kind: Runtime
metadata: {{name: front, namespace: shop}}
spec: {{mtls: {{mode: {mode}}}}}
"#
        );
        let plane = TestControlPlane::start(&documents).await;
        let sidecar = |workload: &str| plane.sidecar(&format!("shop/{workload}"), workload);
        let callee = sidecar("users").pushed().start().await;
        let caller = sidecar("front").pushed().start().await;
        let pair = Self {
            _plane: plane,
            callee,
            caller,
        };
        pair.call(100, CALLERS).await?;
        let backends = pair.caller.admin("/backends").await.text();
        let is_secured = backends.contains(r#""secured": "shop/users""#);
        anyhow::ensure!(is_secured == (mode == "Strict"), "{mode}: {backends}");
        Ok(pair)
    }

    /// Microseconds of both processes for each call.
    async fn cost(&self, size: usize, calls: usize) -> anyhow::Result<f64> {
        let before = self.processor()?;
        self.call(size, calls).await?;
        micros(self.processor()? - before, calls)
    }

    fn processor(&self) -> anyhow::Result<Duration> {
        let of = |sidecar: &TestProxy| Ok::<_, anyhow::Error>(Usage::of(sidecar.pid())?.processor);
        Ok(of(&self.caller)? + of(&self.callee)?)
    }

    async fn call(&self, size: usize, calls: usize) -> anyhow::Result<()> {
        let mut calling = JoinSet::new();
        for _ in 0..CALLERS {
            let address = self.caller.address;
            calling.spawn(async move {
                let mut caller = Caller::h2(address).await?;
                for _ in 0..calls / CALLERS {
                    let target = format!("http://users/{size}");
                    let answer = caller.call(request("GET", &target, &[], "")).await?;
                    let is_whole = answer.status == 200 && answer.body.len() == size;
                    anyhow::ensure!(is_whole, "{} {}", answer.status, answer.text());
                }
                Ok(())
            });
        }
        calling.join_all().await.into_iter().collect()
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Microseconds for each call, of which both ends are counted, as they are with sidecars.
fn rustls_alone(size: usize, calls: usize) -> anyhow::Result<f64> {
    let (mut client, mut server) = connected()?;
    let (request, reply) = (vec![b'a'; HEAD], vec![b'a'; size + HEAD]);
    let (mut wire, mut read) = (Vec::new(), vec![0; 64 << 10]);
    let before = Usage::of(std::process::id())?.processor;
    for _ in 0..calls {
        client.writer().write_all(&request)?;
        carry(&mut client, &mut server, &mut wire, &mut read, request.len())?;
        for piece in reply.chunks(16 << 10) {
            server.writer().write_all(piece)?;
            carry(&mut server, &mut client, &mut wire, &mut read, piece.len())?;
        }
    }
    micros(Usage::of(std::process::id())?.processor - before, calls)
}

fn connected() -> anyhow::Result<(ClientConnection, ServerConnection)> {
    let signed = rcgen::generate_simple_self_signed(["users".to_owned()])?;
    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())?;
    let mut client = ClientConnection::new(Arc::new(client), "users".try_into()?)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server, &mut wire)?;
        pass(&mut server, &mut client, &mut wire)?;
    }
    Ok((client, server))
}

/// What one end has to say, to the other.
fn pass<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
    wire: &mut Vec<u8>,
) -> anyhow::Result<()> {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire)?;
    }
    let mut left = &wire[..];
    while !left.is_empty() {
        to.read_tls(&mut left)?;
        to.process_new_packets()?;
    }
    Ok(())
}

fn carry<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
    wire: &mut Vec<u8>,
    read: &mut [u8],
    length: usize,
) -> anyhow::Result<()> {
    pass(from, to, wire)?;
    let piece = read.get_mut(..length).context("a piece that fits")?;
    to.reader().read_exact(piece)?;
    Ok(())
}
