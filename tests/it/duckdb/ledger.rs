//! The ledger: a live writer records what every commit must contain; restored points are held against it.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use replicate::engine::duckdb::DuckdbSource;
use replicate::engine::{EngineError, Source};
use replicate::position::{CommitKind, Txid};

use super::python::{Writer, check, interpreter};
use super::recorder::{Recorder, monotonic};

/// One run.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    pub writers: &'a [&'a str],
    pub checker: &'a str,
    pub seconds: f64,
    pub points: usize,
    /// SIGKILLs of the writer, and restarts of capture, spread over the run.
    pub kills: u32,
    pub restarts: u32,
    /// Longest pause of the capturing side, in seconds.
    pub pause: f64,
    pub env: &'a [(&'a str, &'a str)],
    pub check_args: &'a [&'a str],
}

impl Default for Run<'_> {
    fn default() -> Self {
        Run {
            writers: &["2.0.0"],
            checker: "2.0.0",
            seconds: env_or("REPLICATE_DUCKDB_SECONDS", 6.0),
            points: env_or("REPLICATE_DUCKDB_POINTS", 12.0) as usize,
            kills: 0,
            restarts: 0,
            pause: 0.0,
            env: &[],
            check_args: &[],
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests are told how long to run")]
pub fn env_or(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What was acknowledged, and what was begun, by thread: (moment, number).
#[derive(Default)]
pub struct Acks {
    done: HashMap<String, Vec<(f64, u64)>>,
    begun: HashMap<String, Vec<(f64, u64)>>,
}

impl Acks {
    pub fn read(path: &Path) -> Acks {
        let mut acks = Acks::default();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let (Some(kind), Some(thread), Some(number), Some(at)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (Ok(number), Ok(at)) = (number.parse(), at.parse()) else { continue };
            let target = if kind == "a" { &mut acks.done } else { &mut acks.begun };
            target.entry(thread.to_owned()).or_default().push((at, number));
        }
        acks
    }

    /// The last number that this thread was told to be committed.
    pub fn last_done(&self, thread: &str) -> u64 {
        Acks::until(&self.done, thread, f64::MAX)
    }

    fn until(list: &HashMap<String, Vec<(f64, u64)>>, thread: &str, at: f64) -> u64 {
        let all = list.get(thread).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|(seen, _)| *seen <= at).map(|(_, number)| *number).max().unwrap_or(0)
    }
}

/// Moments after which everything that had been acknowledged before is in the commit named.
type Fresh = Vec<(f64, Txid)>;

impl Run<'_> {
    /// Runs the writers, captures, restores points, and fails on the first that is not what was written.
    pub fn go(&self) {
        let seed = env_or("REPLICATE_SEED", rand::random::<u32>() as f64) as u64;
        eprintln!("{:?}: REPLICATE_SEED={seed}", self.writers);
        let Some(pythons) = self.writers.iter().map(|version| interpreter(version)).collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(checker) = interpreter(self.checker) else { return };
        let dir = tempfile::Builder::new().prefix("duckdb-ledger").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (database, acks) = (dir.path().join("live.db"), dir.path().join("acks"));
        let mut random = StdRng::seed_from_u64(seed);
        let (recorder, fresh) = self.capture(&pythons, &database, &acks, dir.path(), seed, &mut random);
        let acks = Acks::read(&acks);
        self.restore(&checker, &recorder, &acks, &fresh, dir.path(), &mut random);
        if std::env::var_os("REPLICATE_KEEP").is_some() {
            eprintln!("kept: {}", dir.keep().display());
        }
    }

    fn capture(
        &self,
        pythons: &[std::path::PathBuf],
        database: &Path,
        acks: &Path,
        dir: &Path,
        seed: u64,
        random: &mut StdRng,
    ) -> (Recorder, Fresh) {
        let seed_text = seed.to_string();
        let env: Vec<(&str, &str)> = self.env.iter().copied().chain([("SEED", seed_text.as_str())]).collect();
        let each = self.seconds / f64::from(self.kills + 1);
        let start = |index: usize| Writer::start(&pythons[index.min(pythons.len() - 1)], database, acks, each, &env);
        let mut writer = start(0);
        let mut recorder = Recorder::new(&dir.join("store"));
        let mut source = None;
        let mut fresh = Vec::new();
        let (mut kills, begin) = (0, Instant::now());
        let mut next_kill = each * random.random_range(0.6..1.2);
        let mut next_restart = if self.restarts > 0 { self.seconds / f64::from(self.restarts + 1) } else { f64::MAX };
        let mut since_kill = Instant::now();
        loop {
            let running = writer.is_running();
            self.look(&mut source, database, &mut recorder, &mut fresh);
            if kills < self.kills && (since_kill.elapsed().as_secs_f64() > next_kill || !running) {
                writer.kill();
                kills += 1;
                std::thread::sleep(Duration::from_millis(random.random_range(0..500)));
                writer = start(kills as usize);
                (since_kill, next_kill) = (Instant::now(), each * random.random_range(0.6..1.2));
                continue;
            }
            if begin.elapsed().as_secs_f64() > next_restart && !recorder.copies.is_empty() {
                next_restart += self.seconds / f64::from(self.restarts + 1);
                source = None;
            }
            if self.pause > 0.0 && random.random_bool(0.05) {
                std::thread::sleep(Duration::from_secs_f64(random.random_range(0.0..self.pause)));
            }
            if !running {
                break;
            }
            if begin.elapsed().as_secs_f64() > self.seconds * 2.0 + 120.0 {
                // DuckDB 1.5 was seen to hang in a checkpoint; what it had committed until then counts all the same.
                eprintln!("the writer hangs and is killed");
                writer.kill();
            }
        }
        let said = writer.said();
        assert!(said.contains("fatal []") || self.kills > 0 || said.is_empty(), "the writer failed: {said}");
        for _ in 0..200 {
            if self.look(&mut source, database, &mut recorder, &mut fresh) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut source = source.expect("a source");
        recorder.copy(&mut source);
        eprintln!("{}", said.lines().last().unwrap_or_default());
        (recorder, fresh)
    }

    /// One poll; opens the source, takes the first copy. `true` when everything was captured.
    fn look(
        &self,
        source: &mut Option<DuckdbSource>,
        database: &Path,
        recorder: &mut Recorder,
        fresh: &mut Fresh,
    ) -> bool {
        let Some(open) = source else {
            match DuckdbSource::open(database, recorder.resume()) {
                Ok(opened) => *source = Some(opened),
                Err(EngineError::Absent { .. } | EngineError::NotCapturable { .. }) => {}
                Err(error) => panic!("open: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
            return false;
        };
        let at = monotonic();
        let poll = match open.poll(recorder) {
            Ok(poll) => poll,
            Err(EngineError::Gap { reason, detail }) => {
                eprintln!("gap: {reason:?} {detail}");
                *source = None;
                return false;
            }
            Err(error) => panic!("poll: {error}"),
        };
        if open.page_map().is_some() && recorder.copies.is_empty() {
            recorder.copy(open);
        }
        match poll.again_in {
            None if recorder.last() > Txid::ZERO => fresh.push((at, recorder.last())),
            again => std::thread::sleep(again.unwrap_or_default().min(Duration::from_millis(20))),
        }
        if poll.again_in.is_none() {
            std::thread::sleep(Duration::from_millis(15));
        }
        poll.again_in.is_none()
    }

    fn restore(
        &self,
        checker: &Path,
        recorder: &Recorder,
        acks: &Acks,
        fresh: &Fresh,
        dir: &Path,
        random: &mut StdRng,
    ) {
        let commits = &recorder.commits;
        let first = recorder.copies[0].exact;
        let kinds = commits.iter().fold(HashMap::<String, u32>::new(), |mut kinds, commit| {
            let bulk = commit.lengths.wal > 0 && commit.main_bytes > 0;
            *kinds.entry(format!("{:?}{}", commit.kind, if bulk { " with blocks" } else { "" })).or_default() += 1;
            kinds
        });
        let bytes = commits.iter().fold((0, 0), |sum, one| (sum.0 + one.main_bytes, sum.1 + one.wal_bytes));
        eprintln!("{} commits {kinds:?}, main {} MB, wal {} MB", commits.len(), bytes.0 >> 20, bytes.1 >> 20);
        let mut chosen: Vec<Txid> = Vec::new();
        let flips = commits.iter().filter(|one| one.lengths.wal == 0 || one.kind != CommitKind::Captured);
        let bulk = commits.iter().filter(|one| one.lengths.wal > 0 && one.main_bytes > 0);
        let before_flip = commits.windows(2).filter(|two| two[1].lengths.wal < two[0].lengths.wal).map(|two| &two[0]);
        for class in [flips.collect::<Vec<_>>(), bulk.collect(), before_flip.collect(), commits.iter().collect()] {
            let class: Vec<_> = class.into_iter().filter(|one| one.txid >= first).collect();
            for _ in 0..self.points.div_ceil(4).min(class.len()) {
                chosen.push(class[random.random_range(0..class.len())].txid);
            }
        }
        chosen.push(recorder.last());
        chosen.sort();
        chosen.dedup();
        let mut assembly = recorder.assemble(&recorder.copies[0], &dir.join("assembly"));
        for txid in &chosen {
            assembly.advance(recorder, *txid);
            self.point(checker, &commits[txid.0 as usize - 1], &assembly, acks, fresh, dir);
        }
        // The second copy must lead to the same files.
        let last = commits.last().expect("a commit");
        let copy = &recorder.copies[1];
        let mut again = recorder.assemble(copy, &dir.join("again"));
        again.advance(recorder, last.txid);
        again.prove(last);
        self.point(checker, last, &again, acks, fresh, dir);
        eprintln!("{} points restored and held", chosen.len() + 1);
    }

    fn point(
        &self,
        checker: &Path,
        commit: &super::recorder::Recorded,
        assembly: &super::recorder::Assembly,
        acks: &Acks,
        fresh: &Fresh,
        dir: &Path,
    ) {
        assembly.prove(commit);
        for mode in ["ro", "rw"] {
            let target = dir.join("check.db");
            assembly.copy_to(&target);
            let found = check(checker, &target, mode, self.check_args);
            let fail = |why: &str| {
                let kept = std::env::temp_dir().join("duckdb-failed-point.db");
                assembly.copy_to(&kept);
                let what = (commit.txid, commit.kind, commit.lengths, commit.main_bytes, commit.wal_bytes);
                panic!("{why}: {what:?} seen at {}: {found} (kept as {})", commit.seen, kept.display())
            };
            if found["ok"] != true {
                fail("not what was written");
            }
            for thread in ["A", "B", "D"] {
                let Some(number) = found["ctr"][thread].as_u64() else { continue };
                let newest = Acks::until(&acks.begun, thread, commit.seen);
                let floor = fresh.iter().filter(|(_, txid)| *txid <= commit.txid).map(|(at, _)| *at).next_back();
                let oldest = floor.map_or(0, |at| Acks::until(&acks.done, thread, at));
                if number > newest || number < oldest {
                    fail(&format!("{thread} is {number}, not in {oldest}..={newest}"));
                }
            }
        }
    }
}
