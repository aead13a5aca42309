//! `check`, `token`, `trust` and `crds`: what documents, the state and the program itself say, without running
//! anything.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use jitney_api::push::{meant, resources, strays};
use jitney_api::{
    Diagnostic, Documents, Sources, Workload, check_pushed, custom_resource_definitions, to_yaml,
};

use crate::config::{self, CheckArgs, Mesh, SourcesError, TokenArgs};
use crate::files::known;
use crate::identity::{Alive, AliveError, Folder, FolderError, Tokens, TokensError, Trust, TrustError};
use crate::kubernetes::{SourceError, connect, look};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InquireError {
    /// The answer cannot be written.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// It is not known what to check.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// There is no cluster.
    #[error(transparent)]
    Cluster(#[from] SourceError),
    /// It cannot be looked at.
    #[error("{0}")]
    Look(String),
    /// The state folder does not let us.
    #[error(transparent)]
    State(#[from] FolderError),
    /// There are no tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// It cannot be noted what will be signed.
    #[error(transparent)]
    Alive(#[from] AliveError),
    /// There is no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Whoever has its certificate is believed by every sidecar.
    #[error("{0} is the control plane itself, which needs no token")]
    Reserved(Workload),
}

/// Prints each fault and warning of documents.
///
/// # Errors
/// When the cluster cannot be looked at, or the output not be written.
pub fn check(args: &CheckArgs) -> Result<ExitCode, InquireError> {
    match args.sources()? {
        config::Sources::Files(paths) => check_files(&paths),
        config::Sources::Kubernetes(namespaces) => check_cluster(&namespaces, &args.control_plane_namespace),
    }
}

/// Of what is applied to a cluster: what a control plane would say of it, who runs it, and whether one looks.
fn check_cluster(namespaces: &[String], control_plane: &str) -> Result<ExitCode, InquireError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let looked = runtime.block_on(async {
        let client = connect().await?;
        let looked = look(&client, namespaces, control_plane);
        looked.await.map_err(InquireError::Look)
    })?;
    complain(&looked.found)?;
    let mut out = io::stdout().lock();
    for running in &looked.running {
        writeln!(out, "{running}")?;
    }
    let counts = looked
        .counts
        .map(|(kinds, count)| format!("{count} {}", kinds.plural()));
    let verdict = if looked.is_faulty() { "faults" } else { "no faults" };
    writeln!(out, "{}: {verdict}", counts.join(", "))?;
    Ok(ExitCode::from(u8::from(looked.is_faulty())))
}

fn check_files(paths: &[PathBuf]) -> Result<ExitCode, InquireError> {
    let sources = match Sources::load(paths) {
        Ok(sources) => sources,
        Err(faults) => {
            complain(&faults)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let documents = Documents::read(&sources);
    let found = check_pushed(&documents);
    complain(&found)?;
    if found.iter().any(Diagnostic::is_error) {
        return Ok(ExitCode::FAILURE);
    }
    let conflicts = resources(&documents).conflicts.into_iter();
    let strays = strays(&documents).into_iter().map(|stray| stray.warning);
    let odd = conflicts.map(|conflict| conflict.warning).chain(strays);
    complain(&odd.collect::<Vec<_>>())?;
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let documents = counted(documents.documents.len(), "document");
    let files = counted(sources.files.len(), "file");
    writeln!(io::stdout(), "{documents} in {files}: no faults")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a token. The key that it is signed with is made if there is none, so that tokens can be had
/// before the control plane runs.
///
/// # Errors
/// When the state cannot be used, or the output not be written.
pub fn print_token(args: &TokenArgs) -> Result<ExitCode, InquireError> {
    if args.workload == Workload::control_plane() {
        return Err(InquireError::Reserved(args.workload.clone()));
    }
    let state = open(&args.mesh)?;
    // No control plane of this state takes a token of another mesh.
    Trust::check(&state, &args.mesh.trust_domain)?;
    if let Some(told) = Tokens::lost(&state)? {
        writeln!(io::stderr(), "warning: {told}")?;
    }
    let tokens = Tokens::open(&state, &args.mesh.trust_domain)?;
    if let Some(known) = known::kept(&state)?.filter(|known| !known.contains(&args.workload)) {
        let (workload, meant) = (&args.workload, meant(&args.workload, &known));
        writeln!(
            io::stderr(),
            "warning: no document of the control plane knows the workload {workload}{meant}"
        )?;
    }
    let token = tokens.mint(&args.workload, args.lifetime, SystemTime::now());
    writeln!(io::stdout(), "{token}")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the roots, which are made if there are none, so that sidecars can be started first.
///
/// # Errors
/// When the state cannot be used, or the output not be written.
pub fn print_roots(mesh: &Mesh) -> Result<ExitCode, InquireError> {
    let state = open(mesh)?;
    let now = SystemTime::now();
    if !Trust::is_kept(&state)? {
        // First, so that all that the root will sign is known to be noted.
        Alive::open(&state, true, now)?;
    }
    let trust = Trust::open(&state, &mesh.trust_domain, now)?;
    write!(io::stdout(), "{}", trust.roots().pem())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the custom resource definitions, each as a document of one YAML stream.
///
/// # Errors
/// When the output cannot be written.
pub fn print_definitions() -> Result<ExitCode, InquireError> {
    let documents = custom_resource_definitions().into_iter();
    let documents: Vec<_> = documents.map(|(_, definition)| to_yaml(&definition)).collect();
    write!(io::stdout(), "{}", documents.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The state folder. Where nothing is in it an authority is made, which no control plane has that was started
/// elsewhere: that is said.
fn open(mesh: &Mesh) -> Result<Folder, InquireError> {
    let state = Folder::open(&mesh.state)?;
    if state.names()?.is_empty() {
        let folder = mesh.state.display();
        writeln!(
            io::stderr(),
            "made a new authority in {folder}: run the control plane with --state {folder}"
        )?;
    }
    Ok(state)
}

fn complain(faults: &[Diagnostic]) -> io::Result<()> {
    faults
        .iter()
        .try_for_each(|fault| writeln!(io::stderr(), "{fault}"))
}
