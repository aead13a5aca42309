//! What mTLS between two sidecars has the processor do, beside what rustls alone does for the same bytes:
//! `cargo run --release --example mtls_cost`. Needs valgrind.
//!
//! Two pairs of sidecars, one `Strict` and one `Disabled`, are called in turns, over HTTP/2 on every hop of both; the
//! difference is what mTLS adds. Rustls alone is a client and a server of it in one process, which hand each other
//! what those calls carry, message by message, without a socket between. All are counted in instructions, by callgrind:
//! the difference of two times is less than what such times differ by. What the kernel does is not in it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use jitney_tests::caller::request;
use jitney_tests::programs::program;
use jitney_tests::{Caller, Reply, TestControlPlane, TestProxy, TestUpstream};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Bytes of a reply, and how many calls are counted.
const SIZES: [(usize, usize); 3] = [(100, 1_600), (16 << 10, 800), (256 << 10, 160)];
const CALLERS: usize = 16;
/// What a call's request is on the wire, about, and what a reply has beside its body.
const HEAD: usize = 120;

/// What this program is when it is called with it: rustls alone, for so many bytes and calls.
const RUSTLS: &str = "rustls";
/// And the one that counts: with sidecars that run under callgrind.
const COUNT: &str = "count";

fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => under_callgrind(),
        [RUSTLS, size, calls] => rustls_alone(size.parse()?, calls.parse()?),
        [COUNT, folder] => tokio::runtime::Runtime::new()?.block_on(count(Path::new(folder))),
        _ => anyhow::bail!("it takes no arguments"),
    }
}

/// Runs this program once more, with sidecars that write what they execute into a folder.
fn under_callgrind() -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let sidecar = folder.path().join("jitney-proxy");
    let script = format!(
        "#!/bin/sh\nexec valgrind {} {} \"$@\"\n",
        options(folder.path()).join(" "),
        program("jitney-proxy").display()
    );
    fs::write(&sidecar, script)?;
    fs::set_permissions(&sidecar, fs::Permissions::from_mode(0o700))?;
    let control_plane = "jitney-control-plane";
    symlink(program(control_plane), folder.path().join(control_plane))?;
    let counted = Command::new(std::env::current_exe()?)
        .arg(COUNT)
        .arg(folder.path())
        .env("JITNEY_PROGRAMS", folder.path())
        .status()?;
    anyhow::ensure!(counted.success(), "{counted}");
    Ok(())
}

fn options(folder: &Path) -> [String; 3] {
    let out = format!("--callgrind-out-file={}/%p", folder.display());
    ["--quiet".to_owned(), "--tool=callgrind".to_owned(), out]
}

async fn count(folder: &Path) -> anyhow::Result<()> {
    let upstream = TestUpstream::start_unrecorded(|seen| {
        let size = seen.target.trim_start_matches('/').parse().unwrap_or(0);
        Reply::json(200, vec![b'a'; size])
    })
    .await;
    let service = upstream.address.to_string();
    let plain = Pair::start(&service, "Disabled").await?;
    let secured = Pair::start(&service, "Strict").await?;
    let mut out = std::io::stdout();
    writeln!(out, "thousands of instructions a call")?;
    writeln!(
        out,
        "reply bytes    plain     mTLS     adds   rustls alone   adds / rustls"
    )?;
    for (size, calls) in SIZES {
        let without = plain.cost(folder, size, calls).await?;
        let with = secured.cost(folder, size, calls).await?;
        // Of two runs, the longer has the same start and end.
        let alone = |calls| rustls_counted(folder, size, calls);
        let alone = per_call(alone(2 * calls)? - alone(calls)?, calls)?;
        let adds = with - without;
        let ratio = adds / alone;
        writeln!(
            out,
            "{size:>11} {without:>8.1} {with:>8.1} {adds:>8.1} {alone:>14.1} {ratio:>15.2}"
        )?;
    }
    Ok(())
}

/// Thousands.
fn per_call(instructions: u64, calls: usize) -> anyhow::Result<f64> {
    let thousandths = u32::try_from(instructions / u64::try_from(calls)?)?;
    Ok(f64::from(thousandths) / 1e3)
}

fn rustls_counted(folder: &Path, size: usize, calls: usize) -> anyhow::Result<u64> {
    let mut process = Command::new("valgrind")
        .args(options(folder))
        .arg(std::env::current_exe()?)
        .args([RUSTLS, &size.to_string(), &calls.to_string()])
        .spawn()
        .context("valgrind")?;
    anyhow::ensure!(process.wait()?.success(), "rustls alone fails");
    total(&folder.join(process.id().to_string()))
}

/// What a process has executed since it was asked before, or since it began.
fn executed(folder: &Path, pid: u32) -> anyhow::Result<u64> {
    let of_process = || -> anyhow::Result<Vec<PathBuf>> {
        let prefix = format!("{pid}.");
        let names = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        let all = names
            .into_iter()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        Ok(all.map(|entry| entry.path()).collect())
    };
    let before = of_process()?;
    let asked = Command::new("callgrind_control")
        .args(["--dump", &pid.to_string()])
        .output()?;
    anyhow::ensure!(asked.status.success(), "callgrind_control: {asked:?}");
    let written = of_process()?.into_iter().find(|file| !before.contains(file));
    total(&written.context("callgrind wrote nothing")?)
}

fn total(file: &Path) -> anyhow::Result<u64> {
    let written = fs::read_to_string(file)?;
    let line = written.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(line
        .with_context(|| format!("{} has no totals", file.display()))?
        .trim()
        .parse()?)
}

/// A caller's sidecar and a callee's.
struct Pair {
    _plane: TestControlPlane,
    callee: TestProxy,
    caller: TestProxy,
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

    /// Thousands of instructions of both processes for each call.
    async fn cost(&self, folder: &Path, size: usize, calls: usize) -> anyhow::Result<f64> {
        let of_both = || {
            let of = |sidecar: &TestProxy| executed(folder, sidecar.pid());
            Ok::<_, anyhow::Error>(of(&self.caller)? + of(&self.callee)?)
        };
        of_both()?;
        self.call(size, calls).await?;
        per_call(of_both()?, calls)
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

/// Both ends are counted, as they are with sidecars.
fn rustls_alone(size: usize, calls: usize) -> anyhow::Result<()> {
    let (mut client, mut server) = connected()?;
    let (request, reply) = (vec![b'a'; HEAD], vec![b'a'; size + HEAD]);
    let (mut wire, mut read) = (Vec::new(), vec![0; 64 << 10]);
    for _ in 0..calls {
        client.writer().write_all(&request)?;
        carry(&mut client, &mut server, &mut wire, &mut read, request.len())?;
        for piece in reply.chunks(16 << 10) {
            server.writer().write_all(piece)?;
            carry(&mut server, &mut client, &mut wire, &mut read, piece.len())?;
        }
    }
    Ok(())
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
