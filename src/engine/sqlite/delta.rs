//! The runs in which a page differs from its version before.

use std::ops::Range;

/// Equal bytes between two changes that it pays to leave out: fewer cost less than another run.
const MIN_GAP_BYTES: usize = 8;
/// Above this share of a page, in percent, the whole page is taken.
const MAX_SHARE_PERCENT: usize = 60;

/// The changed runs of `new` against `old`, ascending, into `runs`; the whole page where runs do not pay.
/// Nothing for equal pages.
pub(super) fn changed_runs(old: &[u8], new: &[u8], runs: &mut Vec<Range<usize>>) {
    runs.clear();
    if old.len() != new.len() {
        runs.push(0..new.len());
        return;
    }
    let mut at = 0;
    let mut changed = 0;
    while let Some(start) = next_difference(old, new, at) {
        let end = run_end(old, new, start);
        changed += end - start;
        runs.push(start..end);
        at = end;
    }
    if changed * 100 > new.len() * MAX_SHARE_PERCENT {
        runs.clear();
        runs.push(0..new.len());
    }
}

/// The first differing byte at or after `from`.
fn next_difference(old: &[u8], new: &[u8], from: usize) -> Option<usize> {
    let (old, new) = (old.get(from..)?, new.get(from..)?);
    let (old_words, new_words) = (old.as_chunks::<8>().0, new.as_chunks::<8>().0);
    let equal_words = old_words.iter().zip(new_words).take_while(|(old, new)| old == new).count();
    let skipped = equal_words * 8;
    let rest = old[skipped..].iter().zip(&new[skipped..]).position(|(old, new)| old != new)?;
    Some(from + skipped + rest)
}

/// Where the run that begins at `start` ends: behind the last change before `MIN_GAP_BYTES` equal bytes.
fn run_end(old: &[u8], new: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    let mut at = end;
    while at < new.len() && at - end < MIN_GAP_BYTES {
        if old[at] != new[at] {
            end = at + 1;
        }
        at += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(old: &[u8], new: &[u8], runs: &[Range<usize>]) -> Vec<u8> {
        let mut image = old.to_vec();
        for run in runs {
            image[run.clone()].copy_from_slice(&new[run.clone()]);
        }
        image
    }

    /// Runs laid over the old page give the new page, are separate and ascending, for any places of change.
    #[test]
    fn runs_over_the_old_page_give_the_new_page() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |bound: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % bound
        };
        let mut runs = Vec::new();
        for _ in 0..2000 {
            let size = 512usize << random(3);
            let old: Vec<u8> = (0..size).map(|_| random(4) as u8).collect();
            let mut new = old.clone();
            for _ in 0..random(60) {
                let place = random(size as u64) as usize;
                new[place] = new[place].wrapping_add(1 + random(255) as u8);
            }
            changed_runs(&old, &new, &mut runs);
            assert_eq!(apply(&old, &new, &runs), new);
            assert_eq!(runs.is_empty(), old == new);
            assert!(runs.windows(2).all(|pair| pair[0].end + MIN_GAP_BYTES <= pair[1].start));
        }
    }

    /// A gap of eight equal bytes splits, seven do not; much change gives the whole page.
    #[test]
    fn gaps_split_runs_and_much_change_takes_the_page() {
        let old = vec![0u8; 512];
        let mut new = old.clone();
        (new[10], new[18], new[27], new[511]) = (1, 1, 1, 1);
        let mut runs = Vec::new();
        changed_runs(&old, &new, &mut runs);
        assert_eq!(runs, [10..19, 27..28, 511..512]);
        changed_runs(&old, &[1u8; 512], &mut runs);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0], 0..512);
    }
}
