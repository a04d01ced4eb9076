//! `replicate list`: what a replica holds and what of it can be restored.

use std::io::Write;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::commands::restore::{Surroundings, print_text, print_value};
use crate::error::{Error, ExitCode};
use crate::inventory::{Gap, Inventory, Listed, Moment, Window};
use crate::layout::{ObjectName, SegmentName};
use crate::position::{Commit, CommitKind, Generation, TimeMs, Txid};
use crate::restore::point::{self, Point, format_time};
use crate::restore::{
    DisplayMoment, DisplayWindow, Fault, Planner, Reading, RestoreError, commit_json, kind_word, no_object, reason,
};
use crate::retention::Gaps;
use crate::segment::Index;
use crate::store::Store;

mod files;

/// Which of its faces a replica shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListWhat {
    /// What can be restored, with gaps and repairs.
    Summary,
    /// One line per generation.
    Generations,
    Snapshots,
    Segments,
    /// Every commit that can be named.
    Commits,
    /// What was kept of the files beside the database.
    Files,
}

/// What is asked for, as plain data.
#[derive(Debug, Clone)]
pub struct ListOptions {
    pub what: ListWhat,
    /// Leave out what is older, as in `--at`.
    pub from: Option<String>,
    /// Leave out what is newer.
    pub to: Option<String>,
    pub json: bool,
}

/// Segments whose commit tables are read for a summary, newest first: one small request each.
const MAX_SUMMARY_SEGMENTS: usize = 512;
/// Commit tables that are read at a time.
const READS_AT_A_TIME: usize = 8;

/// The times between which things are listed, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    from: TimeMs,
    to: TimeMs,
}

impl Span {
    pub fn new(options: &ListOptions, around: &Surroundings) -> Result<Span, Error> {
        let time = |text: &Option<String>, open: TimeMs| match text.as_deref() {
            None => Ok(open),
            Some(text) => match point::parse(text, around.now, &around.zone)? {
                Point::At(time) => Ok(time),
                Point::Newest => Ok(around.now),
                Point::Txid(_) | Point::Commit(..) => {
                    Err(Error::usage(format!("{text:?} is a commit; --from and --to take times")))
                }
            },
        };
        Ok(Span { from: time(&options.from, TimeMs(0))?, to: time(&options.to, TimeMs(u64::MAX))? })
    }

    pub fn holds(self, time: TimeMs) -> bool {
        (self.from..=self.to).contains(&time)
    }

    /// Those segments that may hold a commit of this span: one ends at or after it begins, and the one before it ends at or
    /// before it ends.
    fn segments(self, inventory: &Inventory) -> Vec<Listed<SegmentName>> {
        let mut all = inventory.segments.clone();
        all.sort_unstable_by_key(|s| (s.name.last, s.name.first));
        let mut begin = TimeMs(0);
        let mut found = Vec::new();
        for segment in all {
            if segment.name.time >= self.from && begin <= self.to {
                found.push(segment);
            }
            begin = begin.max(segment.name.time);
        }
        found.sort_unstable_by_key(|s| (s.name.first, s.name.level));
        found
    }
}

/// Prints what is asked for. Objects that cannot be read are named, and then the exit code is that of a damaged replica.
pub async fn run(
    store: Arc<dyn Store>,
    options: &ListOptions,
    around: &Surroundings,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let span = Span::new(options, around)?;
    let reading = Reading::new(store);
    let engine = reading.marker().await.map_err(no_object)?;
    let generations = reading.generations().await.map_err(no_object)?;
    let Some(engine) = engine else {
        return Err(RestoreError::Nothing(format!("there is no replica in {}", reading.describe())).into());
    };
    let mut damage = Vec::new();
    let mut facts = Vec::new();
    for generation in generations {
        let inventory = reading.inventory(generation).await.map_err(no_object)?;
        let windows = match options.what {
            ListWhat::Snapshots | ListWhat::Segments | ListWhat::Files => Vec::new(),
            _ => Planner::new(reading.clone()).windows(&inventory).await,
        };
        let gaps = match options.what {
            ListWhat::Summary | ListWhat::Generations => reading.gaps(&inventory).await.map_err(no_object)?,
            _ => Gaps::default(),
        };
        let lister = Lister { reading: &reading, inventory: &inventory, gaps, windows, span };
        let (text, value) = match options.what {
            ListWhat::Summary => lister.summary(&mut damage).await?,
            ListWhat::Generations => lister.generation(),
            ListWhat::Snapshots => lister.snapshots(),
            ListWhat::Segments => lister.segments(),
            ListWhat::Commits => lister.commits(&mut damage).await?,
            ListWhat::Files => lister.files(&mut damage).await?,
        };
        match options.json {
            true => facts.push(value),
            false => print_text(out, &text)?,
        }
    }
    if options.json {
        let source = reading.describe();
        let value = json!({ "source": source, "engine": engine.to_string(), "generations": facts, "damage": damage });
        print_value(out, &value)?;
    }
    if damage.is_empty() {
        return Ok(());
    }
    let text = format!("{} objects cannot be read:\n  {}", damage.len(), damage.join("\n  "));
    Err(Error::new(ExitCode::Damaged, text).next_step("see all that is wrong: replicate verify --deep"))
}

struct Lister<'a> {
    reading: &'a Reading,
    inventory: &'a Inventory,
    gaps: Gaps,
    windows: Vec<Window>,
    span: Span,
}

/// A commit and whether a restore can end there.
struct Line {
    commit: Commit,
    restorable: bool,
}

impl Lister<'_> {
    fn generation_id(&self) -> Generation {
        self.inventory.generation
    }

    fn base_facts(&self) -> Value {
        json!({
            "generation": self.generation_id().to_string(),
            "began": format_time(self.generation_id().began()),
            "newest": self.inventory.newest.map(|m| moment_json(&m)),
            "snapshots": self.inventory.snapshots.len(),
            "segments": self.inventory.segments.len(),
            "terms": self.inventory.terms.len(),
            "ignored_of_dead_terms": self.inventory.dead_segments.len() + self.inventory.dead_snapshots.len(),
            "gaps": self.gaps.lost.iter().map(gap_json).collect::<Vec<_>>(),
            "pruned": self.gaps.pruned.iter().map(gap_json).collect::<Vec<_>>(),
        })
    }

    fn generation(&self) -> (String, Value) {
        let windows = &self.windows;
        let mut value = self.base_facts();
        value["windows"] =
            windows.iter().map(|w| json!({ "from": moment_json(&w.from), "to": moment_json(&w.to) })).collect();
        let mut text =
            format!("generation {}, begun {}\n", self.generation_id(), format_time(self.generation_id().began()));
        let (snapshots, segments) = (self.inventory.snapshots.len(), self.inventory.segments.len());
        text.push_str(&format!("  {snapshots} snapshots, {segments} segments\n"));
        for window in windows {
            text.push_str(&format!("  restorable  {}\n", DisplayWindow(window)));
        }
        if windows.is_empty() {
            text.push_str("  not restorable: no whole snapshot yet\n");
        }
        for gap in &self.gaps.pruned {
            text.push_str(&format!("  pruned      txid:{} to txid:{}\n", gap.first.0, gap.last.0));
        }
        for gap in &self.gaps.lost {
            text.push_str(&format!(
                "  GAP         txid:{} to txid:{}: no segment holds them\n",
                gap.first.0, gap.last.0
            ));
        }
        let dead = self.inventory.dead_segments.len() + self.inventory.dead_snapshots.len();
        if dead > 0 {
            text.push_str(&format!("  ignored     {dead} objects that a dead term wrote\n"));
        }
        (text, value)
    }

    async fn summary(&self, damage: &mut Vec<String>) -> Result<(String, Value), Error> {
        let (mut text, mut value) = self.generation();
        let mut segments = self.span.segments(self.inventory);
        let unread = segments.len().saturating_sub(MAX_SUMMARY_SEGMENTS);
        let examined_from = segments.get(unread).map(|s| s.name.first);
        segments.drain(..unread);
        let commits = self.read(segments, damage).await?;
        let repairs: Vec<&Line> =
            commits.iter().filter(|line| matches!(line.commit.kind, CommitKind::Repair(_))).collect();
        for line in &repairs {
            let moment = Moment { txid: line.commit.txid, time: line.commit.time };
            let why = reason(line.commit.kind).unwrap_or_default();
            text.push_str(&format!(
                "  repair      {}: single commits before it are missing: {why}\n",
                DisplayMoment(&moment)
            ));
        }
        if let Some(first) = examined_from.filter(|_| unread > 0) {
            let txid = first.0;
            text.push_str(&format!("  repairs before txid:{txid} were not looked for: list --commits shows all, --from and --to narrow it\n"));
        }
        value["repairs"] = repairs.iter().map(|line| commit_json(&line.commit)).collect();
        value["repairs_examined_from"] = json!(examined_from.map(|txid| txid.0));
        Ok((text, value))
    }

    fn snapshots(&self) -> (String, Value) {
        let listed = self.inventory.snapshots.iter().filter(|s| self.span.holds(s.name.time));
        let mut text = format!("generation {}\n", self.generation_id());
        let mut values = Vec::new();
        for snapshot in listed {
            let moment = Moment { txid: snapshot.name.txid, time: snapshot.name.time };
            let key = ObjectName::Snapshot(snapshot.name).key();
            text.push_str(&format!("  snapshot  {}  {key}\n", DisplayMoment(&moment)));
            let mut value = moment_json(&moment);
            value["object"] = json!(key.as_str());
            values.push(value);
        }
        (text, json!({ "generation": self.generation_id().to_string(), "snapshots": values }))
    }

    fn segments(&self) -> (String, Value) {
        let mut text = format!("generation {}\n", self.generation_id());
        let mut values = Vec::new();
        for segment in self.span.segments(self.inventory) {
            let SegmentName { level, first, last, time, .. } = segment.name;
            let key = ObjectName::Segment(segment.name).key();
            let (time, bytes) = (format_time(time), segment.size);
            let range = format!("txid:{} to txid:{}", first.0, last.0);
            text.push_str(&format!("  level {}  {range}  until {time}  {bytes} bytes  {key}\n", level.0));
            values.push(json!({
                "object": key.as_str(), "level": level.0, "first": first.0, "last": last.0, "time": time, "bytes": bytes,
            }));
        }
        (text, json!({ "generation": self.generation_id().to_string(), "segments": values }))
    }

    async fn commits(&self, damage: &mut Vec<String>) -> Result<(String, Value), Error> {
        let mut text = format!("generation {}\n", self.generation_id());
        let mut values = Vec::new();
        for Line { commit, restorable } in self.read(self.span.segments(self.inventory), damage).await? {
            let moment = Moment { txid: commit.txid, time: commit.time };
            let (bytes, kind) = (commit.lengths.main, kind_word(commit.kind));
            text.push_str(&format!("  {}  {bytes} bytes  {:016x}  {kind}", DisplayMoment(&moment), commit.checksum));
            if let Some(why) = reason(commit.kind) {
                text.push_str(&format!(": single commits before it are missing: {why}"));
            }
            text.push_str(if restorable { "\n" } else { "  NOT RESTORABLE\n" });
            let mut value = commit_json(&commit);
            value["restorable"] = json!(restorable);
            values.push(value);
        }
        Ok((text, json!({ "generation": self.generation_id().to_string(), "commits": values })))
    }

    /// The commits of these segments, each once, in order, from their commit tables alone.
    async fn read(&self, segments: Vec<Listed<SegmentName>>, damage: &mut Vec<String>) -> Result<Vec<Line>, Error> {
        let reading = self.reading;
        let indexes = stream::iter(segments).map(|segment| async move {
            match reading.index(&segment).await {
                Ok(index) => Ok(Ok(index)),
                Err(Fault::Object { object, problem }) => Ok(Err(format!("{object}: {problem}"))),
                Err(fault) => Err(no_object(fault)),
            }
        });
        let indexes: Vec<Result<Index, String>> = indexes.buffered(READS_AT_A_TIME).try_collect().await?;
        let mut last = Txid::ZERO;
        let mut lines = Vec::new();
        for index in indexes {
            let index = match index {
                Ok(index) => index,
                Err(problem) => {
                    damage.push(problem);
                    continue;
                }
            };
            for entry in index.commits {
                let commit = entry.commit;
                if commit.txid > last {
                    last = commit.txid;
                    let restorable = self.windows.iter().any(|w| (w.from.txid..=w.to.txid).contains(&commit.txid));
                    if self.span.holds(commit.time) {
                        lines.push(Line { commit, restorable });
                    }
                }
            }
        }
        Ok(lines)
    }
}

fn gap_json(gap: &Gap) -> Value {
    json!({
        "first": gap.first.0, "last": gap.last.0,
        "after": gap.before.map(|m| moment_json(&m)), "before": gap.after.map(|m| moment_json(&m)),
    })
}

fn moment_json(moment: &Moment) -> Value {
    json!({ "txid": moment.txid.0, "time": format_time(moment.time) })
}
