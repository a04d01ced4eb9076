//! `replicate verify`: is this replica whole?

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::commands::progress::Bar;
use crate::commands::restore::{Surroundings, print_text, print_value};
use crate::drill::Scratch;
use crate::error::{Error, ExitCode};
use crate::position::{Generation, Txid};
use crate::restore::point::Point;
use crate::restore::{
    DEFAULT_JOBS, DisplayMoment, Execution, MAX_JOBS, Reading, Request, RestoreError, no_object, restore,
};
use crate::store::Store;
use crate::verify::sample::Sample;
use crate::verify::{Finding, Report, Verification, verify};

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Read and recompute everything, instead of names, tables and sizes.
    pub deep: bool,
    /// Of everything, only so much, in hundredths of a percent; another part each day.
    pub sample: Option<u32>,
    /// A newest commit that is older than this is a finding.
    pub max_age: Option<Duration>,
    /// Everything up to here was shipped, as the state directory of a configured database knows.
    pub shipped: Option<(Generation, Txid)>,
    /// Where the newest commit is restored to, and removed again, when everything is read.
    pub scratch: PathBuf,
    pub jobs: usize,
    pub json: bool,
    /// Show how far it has come, on stderr.
    pub progress: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            deep: false,
            sample: None,
            max_age: None,
            shipped: None,
            scratch: std::env::temp_dir(),
            jobs: DEFAULT_JOBS,
            json: false,
            progress: false,
        }
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
        sample: options.sample.map(|share| Sample::of(share, around.now)),
        max_age: options.max_age,
        shipped: options.shipped,
        jobs: options.jobs.clamp(1, MAX_JOBS),
        now: around.now,
        progress: Arc::new(Bar::new(options.progress)),
    };
    let reading = Reading::new(store);
    let mut report = verify(&reading, &how).await?;
    // A sample is for what is too much to read at once.
    if options.deep && how.sample.is_none() && report.findings.is_empty() && report.newest.is_some() {
        drill(&reading, &how, options, around, &mut report).await?;
    }
    let sample = how.sample;
    drop(how);
    match options.json {
        true => print_value(out, &report.to_json(options.deep, sample))?,
        false => print_text(out, &text(&report, options.deep, sample))?,
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

/// Restores the newest commit as `restore` would, has the engine check it where this build has the engine, and removes it.
async fn drill(
    reading: &Reading,
    how: &Verification,
    options: &VerifyOptions,
    around: &Surroundings,
    report: &mut Report,
) -> Result<(), Error> {
    let engine = reading.marker().await.map_err(no_object)?.and_then(around.engine);
    let scratch = Scratch::new(&options.scratch, around.random)?;
    let execution = Execution {
        target: scratch.path().join("database"),
        overwrite: false,
        jobs: how.jobs,
        engine: around.engine,
        check: engine.is_some(),
        // It is thrown away at once.
        fold: false,
        spare_bytes: 0,
        now: around.now,
        random: around.random,
        progress: how.progress.clone(),
    };
    let problem = match restore(reading, &Request { point: Point::Newest, generation: None }, &execution).await {
        Ok(restored) => {
            let (commit, by) =
                (restored.plan.commit.txid.0, if restored.checked { ", and its engine accepts it" } else { "" });
            report.notes.push(format!("{}/{commit} was restored to prove it{by}", restored.plan.generation));
            return Ok(());
        }
        Err(RestoreError::NoSpace { folder, needed_bytes, .. }) => {
            let folder = folder.display();
            report
                .notes
                .push(format!("the newest commit was not restored: {needed_bytes} bytes are not free in {folder}"));
            return Ok(());
        }
        // A generation without a whole snapshot yet was noted already.
        Err(RestoreError::Nothing(_)) => return Ok(()),
        Err(error @ (RestoreError::Damaged(_) | RestoreError::NotAccepted { .. })) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    let generation = report.newest.map(|(generation, _)| generation);
    report.findings.push(Finding {
        generation,
        object: None,
        problem: format!("the newest commit does not restore: {problem}"),
    });
    Ok(())
}

fn text(report: &Report, deep: bool, sample: Option<Sample>) -> String {
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
    if report.file_sets > 0 {
        text.push_str(&format!("{} file sets, {} blobs\n", report.file_sets, report.blobs));
    }
    if let Some((generation, newest)) = &report.newest {
        text.push_str(&format!("newest   {generation}, {}\n", DisplayMoment(newest)));
    }
    if let (true, Some(sample)) = (report.findings.is_empty() && deep, sample) {
        let (percent, days, read) = (f64::from(sample.share) / 100.0, sample.days(), report.read_bytes);
        text.push_str(&format!("sound in a sample of {percent} %: {read} bytes read; everything in {days} days\n"));
        return text;
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
