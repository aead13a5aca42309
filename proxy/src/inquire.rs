//! `check` and `explain`: what policies say, without running anything.

mod asked;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri, Version};
use jitney_api::{Diagnostic, Documents, Sources, check, compile_for_upstream};

use crate::admin::RawRequest;
use crate::config::{CheckArgs, ExplainArgs};
use asked::explanation;

/// Prints each fault and warning of policy files.
///
/// # Errors
/// When the output cannot be written.
pub fn check_files(args: &CheckArgs) -> io::Result<ExitCode> {
    let sources = match Sources::load(&args.paths) {
        Ok(sources) => sources,
        Err(faults) => return complain(&faults),
    };
    let documents = Documents::read(&sources);
    let found = check(&documents);
    if found.iter().any(Diagnostic::is_error) {
        return complain(&found);
    }
    complain(&found)?;
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let documents = counted(documents.documents.len(), "document");
    writeln!(
        io::stdout(),
        "{documents} in {}: no faults",
        counted(sources.files.len(), "file")
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what policies make of a call: those of files, or those that a sidecar has in force.
///
/// # Errors
/// When the body cannot be read, the sidecar does not answer, or the output cannot be written.
pub fn explain_call(args: &ExplainArgs) -> io::Result<ExitCode> {
    if let Some(admin) = &args.admin {
        let told = explanation(admin, args.backend.as_deref(), &request(args)?);
        let told = told.map_err(|error| io::Error::other(format!("--admin {admin}: {error}")))?;
        write!(io::stdout(), "{told}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let sources = match Sources::load(&args.policy) {
        Ok(sources) => sources,
        Err(faults) => return complain(&faults),
    };
    let compiled = match compile_for_upstream(&Documents::read(&sources)) {
        Ok(compiled) => compiled,
        Err(faults) => return complain(&faults),
    };
    write!(io::stdout(), "{}", request(args)?.explain(&compiled.policy))?;
    Ok(ExitCode::SUCCESS)
}

fn complain(faults: &[Diagnostic]) -> io::Result<ExitCode> {
    for fault in faults {
        writeln!(io::stderr(), "{fault}")?;
    }
    Ok(ExitCode::FAILURE)
}

/// The request as it would be sent: the target without the authority, which is in `Host`.
fn request(args: &ExplainArgs) -> io::Result<RawRequest> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    let host = args
        .url
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    if let (Some(Ok(host)), false) = (host, headers.contains_key(HOST)) {
        headers.insert(HOST, host);
    }
    let target = args.url.path_and_query().cloned();
    let body = match args.body.as_deref().map(|body| (body, body.strip_prefix('@'))) {
        None => Bytes::new(),
        Some((_, Some(file))) => fs::read(file)
            .map_err(|error| io::Error::new(error.kind(), format!("--data @{file}: {error}")))?
            .into(),
        Some((body, None)) => body.to_owned().into(),
    };
    Ok(RawRequest {
        method: args.method.clone(),
        uri: Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/"))),
        headers,
        version: Version::HTTP_11,
        body,
    })
}
