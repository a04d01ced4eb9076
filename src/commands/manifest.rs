//! `replicate manifest`: what a restore needs, with checksums that other tools can compare.

use std::fs::OpenOptions;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use super::progress::Bar;
use super::reading::surroundings;
use super::restore::{Surroundings, request};
use super::source::{Source, open};
use super::{print, runtime};
use crate::audit::{ChecksumManifest, checksum_manifest};
use crate::cli::{ManifestArgs, ManifestFormat};
use crate::config::{Environment, ReplicaConfig};
use crate::error::{Error, ExitCode};
use crate::restore::{DEFAULT_JOBS, Planner, Reading, kept_files};

pub fn execute(args: &ManifestArgs, environment: Environment<'_>) -> Result<(), Error> {
    let source = Source::resolve(&args.source, environment)?;
    let around = surroundings();
    let manifest = runtime()?.block_on(from_any(&source.replicas, args, &around))?;
    let text = match args.format {
        ManifestFormat::Json => format!("{:#}\n", manifest.to_json()),
        ManifestFormat::Sha256sum => manifest.to_sha256sum(),
    };
    match &args.output {
        None => print(&text),
        Some(path) => write_new(path, &text),
    }
}

/// The first replica that can; where none can, the first one's error.
async fn from_any(
    replicas: &[ReplicaConfig],
    args: &ManifestArgs,
    around: &Surroundings,
) -> Result<ChecksumManifest, Error> {
    let mut first_error = None;
    for replica in replicas {
        let error = match from_one(replica, args, around).await {
            Ok(manifest) => return Ok(manifest),
            Err(error) => error,
        };
        if !matches!(error.exit(), ExitCode::NothingToRestore | ExitCode::Damaged | ExitCode::Unreachable) {
            return Err(error);
        }
        tracing::warn!(replica = replica.shown_url(), "no manifest of this replica: {}", error.report());
        first_error.get_or_insert(error);
    }
    Err(first_error.unwrap_or_else(|| Error::usage("no replica is configured")))
}

async fn from_one(
    replica: &ReplicaConfig,
    args: &ManifestArgs,
    around: &Surroundings,
) -> Result<ChecksumManifest, Error> {
    let store = open(replica)?;
    let request = request(&store, args.at.as_deref(), args.generation.as_deref(), around).await?;
    let reading = Reading::new(store);
    let plan = Planner::new(reading.clone()).plan(&request).await?;
    let files = match args.with_files {
        true => Some(kept_files(&reading, &plan, &request).await?),
        false => None,
    };
    let jobs = args.jobs.map_or(DEFAULT_JOBS, usize::from);
    let progress = Arc::new(Bar::new(std::io::stderr().is_terminal()));
    Ok(checksum_manifest(&reading, plan, files, jobs, around.now, progress).await?)
}

/// Creates a file; one that is there stays as it is.
fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(ExitCode::Refused, format!("{} exists", path.display()))
            .next_step("name another file with -o, or remove it"),
        _ => Error::failed(format!("cannot write {}", path.display())).because(error),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
