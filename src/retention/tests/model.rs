//! The reference: what each rule promises, as plainly as it can be said.

use super::*;

/// Every commit that can be restored: from each snapshot, trying every segment at every commit that was reached.
pub fn points(view: &GenerationView) -> BTreeSet<Txid> {
    let mut found = BTreeSet::new();
    for Listed { name, .. } in &view.inventory.snapshots {
        let Some(facts) = view.facts.get(name) else { continue };
        let there: BTreeSet<PartHash> = view.parts.iter().map(|part| part.name).collect();
        if !facts.parts.iter().all(|hash| there.contains(hash)) {
            continue;
        }
        let reached = reached(view, facts.base);
        if reached.contains(&name.txid) {
            found.extend(reached.into_iter().filter(|txid| *txid >= name.txid));
        }
    }
    found
}

fn reached(view: &GenerationView, base: Txid) -> BTreeSet<Txid> {
    let mut reached = BTreeSet::from([base]);
    let mut next = base;
    loop {
        for Listed { name, .. } in &view.inventory.segments {
            let joins = name.first.0 <= next.0 + 1 && name.last > next;
            match (joins, name.level.0) {
                (true, 0 | 1) => reached.extend((next.0 + 1..=name.last.0).map(Txid)),
                (true, _) => _ = reached.insert(name.last),
                _ => {}
            }
        }
        match reached.range(Txid(next.0 + 1)..).next() {
            Some(&more) => next = more,
            None => return reached,
        }
    }
}

/// What a policy promises of a replica.
pub struct Model<'a> {
    views: &'a [GenerationView],
    policy: &'a Policy,
    /// The end of every span of time.
    end: u64,
    all: Vec<SnapshotName>,
}

impl<'a> Model<'a> {
    pub fn new(views: &'a [GenerationView], policy: &'a Policy, now: TimeMs) -> Model<'a> {
        let newest = views.iter().filter_map(|view| view.inventory.newest).next_back();
        let end = newest.map_or(now.0, |moment| now.0.min(moment.time.0));
        let exact =
            |view: &GenerationView, name: &SnapshotName| reached(view, view.facts[name].base).contains(&name.txid);
        let mut all = Vec::new();
        for view in views {
            all.extend(view.inventory.snapshots.iter().map(|s| s.name).filter(|name| exact(view, name)));
        }
        Model { views, policy, end, all }
    }

    /// Where a span of time begins; what was not asked for never does.
    fn start(&self, span: Option<Duration>) -> u64 {
        span.map_or(u64::MAX, |span| self.end.saturating_sub(span.as_millis() as u64))
    }

    fn commits_start(&self) -> u64 {
        self.start(self.policy.commits)
    }

    fn longest_start(&self) -> u64 {
        self.commits_start().min(self.start(self.policy.keep_within))
    }

    /// By every rule that looks at snapshots alone.
    fn by_rules(&self) -> BTreeSet<SnapshotName> {
        let mut kept = BTreeSet::new();
        kept.extend(self.all.last());
        for (index, name) in self.all.iter().enumerate() {
            let newer = self.all.len() - index - 1;
            let within = |span: Option<Duration>| span.is_some() && name.time.0 >= self.start(span);
            let counted = |count: Option<Count>, newer: usize| match count {
                Some(Count::Number(number)) => newer < number as usize,
                Some(Count::Forever) => true,
                None => false,
            };
            let mut stays = within(self.policy.commits) || within(self.policy.keep_within);
            stays |= counted(self.policy.keep_last, newer);
            for unit in 0..5 {
                let own = unit_of(unit, name.time.0);
                let later: Vec<u64> = self.all[index + 1..].iter().map(|other| unit_of(unit, other.time.0)).collect();
                let distinct: BTreeSet<u64> = later.iter().copied().collect();
                stays |= !later.contains(&own) && counted(self.policy.calendar[unit], distinct.len());
            }
            if stays {
                kept.insert(*name);
            }
        }
        let least = match self.policy.keep_min {
            Some(Count::Number(number)) => number as usize,
            Some(Count::Forever) => usize::MAX,
            None => 0,
        };
        for name in self.all.iter().rev() {
            if kept.len() < least {
                kept.insert(*name);
            }
        }
        kept
    }

    /// Nothing of this generation is judged.
    pub fn is_untouchable(&self, view: &GenerationView) -> bool {
        let is_last = view.inventory.generation == self.views[self.views.len() - 1].inventory.generation;
        let has_own = self.all.iter().any(|name| name.generation == view.inventory.generation);
        self.all.is_empty() || (is_last && !has_own)
    }

    /// Exactly those of a generation that stay.
    pub fn snapshots(&self, view: &GenerationView) -> BTreeSet<SnapshotName> {
        let listed: BTreeSet<SnapshotName> = view.inventory.snapshots.iter().map(|s| s.name).collect();
        if self.is_untouchable(view) {
            return listed;
        }
        let mut kept: BTreeSet<SnapshotName> = self.by_rules().intersection(&listed).copied().collect();
        let is_last = view.inventory.generation == self.views[self.views.len() - 1].inventory.generation;
        kept.extend(listed.last().filter(|_| is_last));
        for start in [self.commits_start(), self.longest_start()] {
            let Some(before) = self.last_before(view, start) else { continue };
            let own = self.all.iter().filter(|name| listed.contains(name) && name.txid <= before);
            kept.extend(own.max_by_key(|name| name.txid));
        }
        for txid in &view.named {
            let own = self.all.iter().filter(|name| listed.contains(name) && name.txid <= *txid);
            let leading = own.filter(|name| reached(view, view.facts[name].base).contains(txid));
            kept.extend(leading.max_by_key(|name| name.txid));
        }
        // What cannot be made exact stays only where it is in a span of time.
        let longest = self.last_before(view, self.longest_start());
        let inexact = listed.iter().filter(|name| !self.all.contains(name));
        kept.extend(inexact.filter(|name| longest.is_some_and(|before| name.txid > before)));
        kept
    }

    /// The last commit known to be before `start`, if the generation goes on until then.
    fn last_before(&self, view: &GenerationView, start: u64) -> Option<Txid> {
        let moments: Vec<Moment> = view.inventory.moments().collect();
        moments.iter().any(|m| m.time.0 >= start && Some(*m) == view.inventory.newest).then_some(())?;
        let earlier = moments.iter().filter(|m| m.time.0 < start).map(|m| m.txid).max();
        Some(earlier.unwrap_or(Txid::ZERO))
    }

    /// Every point that must be restorable afterwards.
    pub fn promised(&self, view: &GenerationView) -> BTreeSet<Txid> {
        let had = points(view);
        if self.is_untouchable(view) {
            return had;
        }
        let mut promised: BTreeSet<Txid> =
            self.snapshots(view).iter().filter(|name| self.all.contains(name)).map(|name| name.txid).collect();
        promised.extend(view.named.intersection(&had));
        if let Some(before) = self.last_before(view, self.commits_start()) {
            promised.extend(had.iter().filter(|txid| **txid > before));
        }
        if let Some(before) = self.last_before(view, self.longest_start()) {
            let newest = view.inventory.newest.map_or(0, |m| m.txid.0);
            let exact = self.last_before(view, self.commits_start()).map_or(newest, |txid| txid.0);
            let is_merged = |txid: &Txid| {
                let merged = view.inventory.segments.iter().filter(|s| s.name.level.0 >= 2 && s.name.last.0 <= exact);
                merged.into_iter().any(|s| s.name.first <= *txid && *txid <= s.name.last)
            };
            promised.extend(had.iter().filter(|txid| **txid > before && !is_merged(txid)));
        }
        if self.all.last().is_some_and(|name| name.generation == view.inventory.generation) {
            promised.extend(had.last());
        }
        promised
    }
}

/// Hour, day, week, month, year: by counting days from 1970-01-01, a Thursday.
fn unit_of(unit: usize, ms: u64) -> u64 {
    let days = ms / 86_400_000;
    let (mut year, mut rest) = (1970, days);
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    match unit {
        0 => ms / 3_600_000,
        1 => days,
        // Days since the Monday before.
        2 => days + 3 - (days + 3) % 7,
        3 => year * 12 + month as u64,
        _ => year,
    }
}
