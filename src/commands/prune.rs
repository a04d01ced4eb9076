//! `replicate prune`: deletes what no retention rule keeps, or says what it would.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::reading::surroundings;
use super::restore::{print_text, print_value};
use super::runtime;
use super::source::{Source, open};
use crate::cli::PruneArgs;
use crate::config::Environment;
use crate::config::retention::{from_flags, show};
use crate::config::units::{parse_duration, show_duration};
use crate::error::{Error, ExitCode};
use crate::label::LabelError;
use crate::position::TimeMs;
use crate::prune::{Outcomes, PruneError, Pruning, Surveyor, look};
use crate::replica::ReplicaError;
use crate::retention::{Decision, Plan, Policy};
use crate::store::{Key, Store};

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    pub policy: Policy,
    pub grace: Duration,
    pub dry_run: bool,
    pub json: bool,
    pub now: TimeMs,
}

pub fn execute(args: &PruneArgs, environment: Environment<'_>) -> Result<(), Error> {
    let source = Source::resolve(&args.source, environment)?;
    let grace = parse_duration(&args.grace).map_err(Error::usage)?;
    let flags = policy_of(args)?;
    let policies: Vec<Option<Policy>> = source.policies().into_iter().map(|policy| flags.or(policy)).collect();
    if policies.iter().all(Option::is_none) {
        return Err(Error::usage(format!("nothing says what is to be kept of {}", args.source.source)).next_step(
            "set `retention` in the configuration, or give rules: --commits 24h --keep-within 30d --keep-last 2",
        ));
    }
    let runtime = runtime()?;
    let mut first_error = None;
    for (replica, policy) in source.replicas.iter().zip(policies) {
        let url = replica.shown_url();
        let Some(policy) = policy else {
            tracing::warn!(replica = url, "no retention is configured for this replica: nothing of it goes");
            continue;
        };
        let options =
            PruneOptions { policy, grace, dry_run: args.dry_run, json: args.json.on, now: surroundings().now };
        let store = open(replica)?;
        match runtime.block_on(run(store, &options, &mut std::io::stdout())) {
            Err(error) if first_error.is_none() => first_error = Some(error.context(format!("cannot prune {url}"))),
            Err(error) => tracing::error!(replica = url, "{}", error.report()),
            Ok(()) => {}
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn policy_of(args: &PruneArgs) -> Result<Option<Policy>, Error> {
    let flags = [
        ("commits", args.commits.as_deref()),
        ("keep-within", args.keep_within.as_deref()),
        ("keep-last", args.keep_last.as_deref()),
        ("keep-min", args.keep_min.as_deref()),
        ("hourly", args.hourly.as_deref()),
        ("daily", args.daily.as_deref()),
        ("weekly", args.weekly.as_deref()),
        ("monthly", args.monthly.as_deref()),
        ("yearly", args.yearly.as_deref()),
    ];
    from_flags(&flags).map_err(|error| Error::usage(error.to_string()))
}

/// Prunes one replica and prints what was decided and done.
pub async fn run(store: Arc<dyn Store>, options: &PruneOptions, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let how = Pruning { policy: &options.policy, grace: options.grace, now: options.now, too_young: &BTreeSet::new() };
    let source = store.describe();
    let mut surveyor = Surveyor::new(store);
    let (plan, done) = match options.dry_run {
        true => (surveyor.survey(how.now).await?.plan(&how, &BTreeSet::new()), None),
        false => {
            let (plan, mut done) = look(&mut surveyor, &how).await?;
            if options.grace.is_zero() && done.marked > 0 {
                // The second look is never left out.
                let (_, second) = look(&mut surveyor, &Pruning { now: TimeMs(how.now.0 + 1), ..how }).await?;
                done.add(second);
            }
            (plan, Some(done))
        }
    };
    if options.json {
        return print_value(out, &to_json(&source, options, &plan, done.as_ref()));
    }
    print_text(out, &text(&source, options, &plan, done.as_ref()))
}

impl Outcomes {
    fn add(&mut self, later: Outcomes) {
        self.deleted.extend(later.deleted);
        self.deleted_bytes += later.deleted_bytes;
        self.waiting = later.waiting;
        self.locked.extend(later.locked);
        self.interrupted |= later.interrupted;
    }
}

fn decisions(plan: &Plan) -> impl Iterator<Item = &Decision> {
    plan.generations.iter().flat_map(|generation| &generation.decisions)
}

/// Objects and bytes that stay, and those that go.
fn totals(plan: &Plan) -> [(u64, u64); 2] {
    let of = |keeps: bool| {
        let wanted = decisions(plan).filter(|decision| decision.reason.keeps() == keeps);
        wanted.fold((0, 0), |(count, bytes), decision| (count + 1, bytes + decision.size))
    };
    [of(true), of(false)]
}

fn word(decision: &Decision) -> &'static str {
    if decision.reason.keeps() { "keep" } else { "delete" }
}

fn text(source: &str, options: &PruneOptions, plan: &Plan, done: Option<&Outcomes>) -> String {
    let mut text = format!("{source}\npolicy  {}\n", show(Some(&options.policy)));
    let is_told = |decision: &&Decision| options.dry_run || !decision.reason.keeps();
    for decision in decisions(plan).filter(is_told) {
        let (size, key) = (decision.size, decision.object.key());
        text.push_str(&format!("{:<7} {key}  {size} bytes: {}\n", word(decision), decision.reason));
    }
    let [(kept, kept_bytes), (going, going_bytes)] = totals(plan);
    text.push_str(&format!("stays   {kept} objects, {kept_bytes} bytes\n"));
    text.push_str(&format!("may go  {going} objects, {going_bytes} bytes\n"));
    let Some(done) = done else {
        text.push_str("nothing was changed\n");
        return text;
    };
    text.push_str(&format!("deleted {} objects, {} bytes\n", done.deleted.len(), done.deleted_bytes));
    if done.waiting > 0 {
        let grace = show_duration(options.grace);
        text.push_str(&format!(
            "marked  {} objects: the first run more than {grace} after they were marked deletes those that still may go\n",
            done.waiting
        ));
    }
    if !done.locked.is_empty() {
        text.push_str(&format!("locked  {} objects that the store does not let go\n", done.locked.len()));
    }
    if done.interrupted {
        text.push_str("a snapshot needs something that was marked; run it again later\n");
    }
    text
}

fn to_json(source: &str, options: &PruneOptions, plan: &Plan, done: Option<&Outcomes>) -> Value {
    let [(kept, kept_bytes), (going, going_bytes)] = totals(plan);
    let policy: serde_json::Map<String, Value> = options
        .policy
        .rules(show_duration)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect();
    json!({
        "source": source,
        "policy": policy,
        "grace": show_duration(options.grace),
        "dry_run": options.dry_run,
        "decisions": decisions(plan).map(|decision| json!({
            "object": decision.object.key().as_str(),
            "bytes": decision.size,
            "decision": word(decision),
            "reason": decision.reason.to_string(),
        })).collect::<Vec<_>>(),
        "kept": { "objects": kept, "bytes": kept_bytes },
        "may_go": { "objects": going, "bytes": going_bytes },
        "done": done.map(|done| json!({
            "deleted": { "objects": done.deleted.len(), "bytes": done.deleted_bytes },
            "marked": done.marked,
            "waiting": done.waiting,
            "locked": done.locked.iter().map(Key::as_str).collect::<Vec<_>>(),
            "interrupted": done.interrupted,
        })),
    })
}

impl From<PruneError> for Error {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Reading(error) => error.into(),
            PruneError::Replica(ReplicaError::Store(error)) => error.into(),
            PruneError::Label(LabelError::Store(error)) => error.into(),
            PruneError::Label(error) => {
                Error::new(ExitCode::Damaged, format!("what a label keeps is unknown: {error}"))
                    .next_step("put the object back, or remove it; nothing is pruned before")
            }
            PruneError::Replica(error) => Error::new(ExitCode::Failed, error.to_string()).next_step("run it again"),
        }
    }
}
