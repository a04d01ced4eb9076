//! `replicate verify`: is this replica whole?

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::commands::progress::Bar;
use crate::commands::restore::{Surroundings, print_text, print_value};
use crate::error::{Error, ExitCode};
use crate::position::{Generation, Txid};
use crate::restore::{DEFAULT_JOBS, DisplayMoment, MAX_JOBS, Reading};
use crate::store::Store;
use crate::verify::{Report, Verification, verify};

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Read and recompute everything, instead of names, tables and sizes.
    pub deep: bool,
    /// A newest commit that is older than this is a finding.
    pub max_age: Option<Duration>,
    /// Everything up to here was shipped, as the state directory of a configured database knows.
    pub shipped: Option<(Generation, Txid)>,
    pub jobs: usize,
    pub json: bool,
    /// Show how far it has come, on stderr.
    pub progress: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions { deep: false, max_age: None, shipped: None, jobs: DEFAULT_JOBS, json: false, progress: false }
    }
}

/// Findings a message names; the others are on stdout.
const MAX_NAMED_FINDINGS: usize = 3;

/// Verifies and prints what was found. A replica with findings is an error, with the exit code of a damaged one.
pub async fn run(
    store: Arc<dyn Store>,
    options: &VerifyOptions,
    around: &Surroundings,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let how = Verification {
        deep: options.deep,
        max_age: options.max_age,
        shipped: options.shipped,
        jobs: options.jobs.clamp(1, MAX_JOBS),
        now: around.now,
        progress: Arc::new(Bar::new(options.progress)),
    };
    let report = verify(&Reading::new(store), &how).await?;
    drop(how);
    match options.json {
        true => print_value(out, &report.to_json(options.deep))?,
        false => print_text(out, &text(&report, options.deep))?,
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = report.findings.iter().take(MAX_NAMED_FINDINGS).map(ToString::to_string).collect();
    let more = match report.findings.len() - named.len() {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let text = format!("{} findings:\n  {}{more}", report.findings.len(), named.join("\n  "));
    Err(Error::new(ExitCode::Damaged, text).next_step("see what can be restored: replicate list"))
}

fn text(report: &Report, deep: bool) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("DAMAGED  {finding}\n"));
    }
    for note in &report.notes {
        text.push_str(&format!("note     {note}\n"));
    }
    text.push_str(&format!(
        "{} generations, {} snapshots, {} parts, {} segments\n",
        report.generations, report.snapshots, report.parts, report.segments
    ));
    if let Some((generation, newest)) = &report.newest {
        text.push_str(&format!("newest   {generation}, {}\n", DisplayMoment(newest)));
    }
    text.push_str(&match (report.findings.is_empty(), deep) {
        (true, true) => format!(
            "sound: {} bytes read, every checksum recomputed over {} commits\n",
            report.read_bytes, report.commits
        ),
        (true, false) => "sound by names, sizes and tables; --deep reads and recomputes everything\n".to_owned(),
        (false, _) => format!("{} findings\n", report.findings.len()),
    });
    text
}
