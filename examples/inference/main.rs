//! A model server: the real Python `kserve` package with a small custom model, protocol v1. It is
//! installed once, into a virtual environment in the user's cache folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use jitney_examples::client::get;
use jitney_examples::process::Process;
use jitney_examples::{Call, Reply, Scene, Workload, play_with};

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some("--install") {
        python(&folder().join("requirements.txt"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let scene = Scene {
        title: "Pages of 20 drawings; for each the model is asked which digit it shows.",
        policy: "inference/policy.yaml",
        workload: Drawings,
        try_out: &["/v1/models/digits"],
    };
    play_with(scene, model_server, predictions)
}

/// Starts the model server, and installs it before if it is not there yet.
fn model_server() -> anyhow::Result<Process> {
    let mut command = Command::new(python(&folder().join("requirements.txt"))?);
    command.arg(folder().join("model.py"));
    Process::start("the model server", command)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inference")
}

/// The Python of a virtual environment that has what `requirements` names.
fn python(requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read_to_string(requirements)?;
    let package = wanted
        .lines()
        .find(|line| line.starts_with("kserve=="))
        .context("requirements.txt names kserve")?;
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME")?;
    let environment = cache.join("jitney").join(package.replace("==", "-"));
    let (python, done) = (environment.join("bin/python"), environment.join("installed"));
    if !done.exists() {
        #[expect(
            clippy::print_stderr,
            reason = "it takes a minute, once, and the user should know why"
        )]
        {
            eprintln!("installing {package} into {} …", environment.display());
        }
        succeed(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&environment),
        )?;
        succeed(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--requirement"])
                .arg(requirements),
        )?;
        std::fs::write(done, package)?;
    }
    Ok(python)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// How many predictions the server was asked for: its own metric.
async fn predictions(server: SocketAddr) -> anyhow::Result<u64> {
    let metrics = get(server, "/metrics").await?.body;
    let metrics = std::str::from_utf8(&metrics)?;
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("request_predict_seconds_count{model_name=\"digits\"} "));
    // The series appears with the first prediction.
    let count: f64 = count.map_or(Ok(0.0), str::parse)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of whole calls"
    )]
    Ok(count as u64)
}

/// Pages of drawings of 8 by 8 pixels.
struct Drawings;

impl Workload for Drawings {
    const WIDTH: usize = 20;

    fn list(&self, _: usize) -> Call {
        Call::get("/v1/models/digits")
    }

    fn each(&self, page: usize, list: &Reply) -> anyhow::Result<Vec<Call>> {
        ensure!(list.status == 200, "the model is not ready");
        Ok((0..Self::WIDTH)
            .map(|place| {
                let pixel = |at: usize| (((page * Self::WIDTH + place) * 31 + at * at * 7) % 17).to_string();
                let pixels: Vec<String> = (0..64).map(pixel).collect();
                Call::post(
                    "/v1/models/digits:predict",
                    format!(r#"{{"instances":[[{}]]}}"#, pixels.join(",")),
                )
            })
            .collect())
    }
}
