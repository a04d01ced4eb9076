//! Which requests go wrong, and how.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Put,
    Get,
    Head,
    List,
    Delete,
    DeleteMany,
    BeginUpload,
    Part,
    Complete,
    Abort,
    Other,
}

impl Op {
    pub fn writes(self) -> bool {
        matches!(self, Op::Put | Op::BeginUpload | Op::Part | Op::Complete)
    }
}

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// An error of this status and code; seconds of `Retry-After`.
    Answer(u16, &'static str, Option<u64>),
    /// The connection is closed.
    Reset,
    /// No answer, ever.
    Hang,
    /// The answer comes later.
    Slow(Duration),
    /// The body of the answer ends in its middle.
    Truncate,
    /// One byte in the body of the answer is another one.
    FlipByte,
}

/// Whether the request was carried out by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    /// The answer is lost, the object is there.
    After,
}

/// Requests that go wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `None`: every one.
    pub op: Option<Op>,
    /// Part of the object's name.
    pub name: Option<String>,
    pub when: When,
    pub fault: Fault,
    pub probability: f64,
    /// So many fitting requests pass first.
    pub skip: u32,
    /// So many times in all.
    pub times: u32,
}

impl Rule {
    /// Every request, always.
    pub fn new(when: When, fault: Fault) -> Rule {
        Rule { op: None, name: None, when, fault, probability: 1.0, skip: 0, times: u32::MAX }
    }

    pub fn op(self, op: Op) -> Rule {
        Rule { op: Some(op), ..self }
    }

    pub fn name(self, part: &str) -> Rule {
        Rule { name: Some(part.to_owned()), ..self }
    }

    pub fn probability(self, probability: f64) -> Rule {
        Rule { probability, ..self }
    }

    pub fn skip(self, skip: u32) -> Rule {
        Rule { skip, ..self }
    }

    pub fn times(self, times: u32) -> Rule {
        Rule { times, ..self }
    }
}

/// The rules, what they decided, and what was asked.
#[derive(Debug)]
pub struct Faults(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    random: u64,
    log: Vec<(Op, String)>,
    counts: HashMap<Op, usize>,
    injected: usize,
}

/// Requests remembered one by one; beyond it they are only counted.
const LOG_MAX: usize = 200_000;

impl Faults {
    pub fn new(seed: u64) -> Faults {
        Faults(Mutex::new(Inner {
            rules: Vec::new(),
            random: seed,
            log: Vec::new(),
            counts: HashMap::new(),
            injected: 0,
        }))
    }

    /// Notes a request and decides what is to happen to it.
    pub fn decide(&self, op: Op, name: &str) -> Option<(When, Fault)> {
        let mut inner = self.inner();
        if inner.log.len() < LOG_MAX {
            inner.log.push((op, name.to_owned()));
        }
        *inner.counts.entry(op).or_default() += 1;
        let Inner { rules, random, .. } = &mut *inner;
        let fitting =
            rules.iter_mut().filter_map(|rule| rule.fits(op, name, random).then_some((rule.when, rule.fault)));
        let decided = { fitting }.next()?;
        inner.injected += 1;
        Some(decided)
    }

    /// A number below `bound`, for the place of a fault.
    pub fn below(&self, bound: usize) -> usize {
        (next(&mut self.inner().random) % bound.max(1) as u64) as usize
    }

    pub fn add(&self, rule: Rule) {
        self.inner().rules.push(rule);
    }

    pub fn clear(&self) {
        self.inner().rules.clear();
    }

    pub fn total(&self) -> usize {
        self.inner().counts.values().sum()
    }

    pub fn count(&self, op: Op) -> usize {
        self.inner().counts.get(&op).copied().unwrap_or_default()
    }

    pub fn injected(&self) -> usize {
        self.inner().injected
    }

    pub fn log(&self) -> Vec<(Op, String)> {
        self.inner().log.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while faults are decided")
    }
}

impl Rule {
    fn fits(&mut self, op: Op, name: &str, random: &mut u64) -> bool {
        let meant =
            self.op.is_none_or(|wanted| wanted == op) && self.name.as_ref().is_none_or(|part| name.contains(part));
        if !meant || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        // 53 bits are what a float holds.
        let chance = (next(random) >> 11) as f64 / (1u64 << 53) as f64;
        let happens = chance < self.probability;
        self.times -= u32::from(happens);
        happens
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
