//! A set of block numbers, one bit each.

/// Block numbers below `file::MAX_BLOCKS`; grows as needed.
#[derive(Clone, Default)]
pub struct BlockSet {
    words: Vec<u64>,
    len: u64,
    /// No word below this one has a bit.
    low: usize,
}

impl PartialEq for BlockSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for BlockSet {}

impl std::fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockSet({} blocks)", self.len)
    }
}

impl BlockSet {
    fn place(block: u64) -> (usize, u64) {
        (usize::try_from(block / 64).expect("a block number fits"), 1 << (block % 64))
    }

    pub fn insert(&mut self, block: u64) {
        let (word, bit) = Self::place(block);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.low = self.low.min(word);
        self.len += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    pub fn remove(&mut self, block: u64) {
        let (word, bit) = Self::place(block);
        if let Some(slot) = self.words.get_mut(word) {
            self.len -= u64::from(*slot & bit != 0);
            *slot &= !bit;
        }
    }

    pub fn contains(&self, block: u64) -> bool {
        let (word, bit) = Self::place(block);
        self.words.get(word).is_some_and(|slot| slot & bit != 0)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().enumerate().skip(self.low).flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    index as u64 * 64 + u64::from(bit)
                })
            })
        })
    }

    /// The first `count` of them; taking them out from the front costs no search.
    pub fn first(&mut self, count: usize) -> Vec<u64> {
        while self.words.get(self.low).is_some_and(|word| *word == 0) {
            self.low += 1;
        }
        self.iter().take(count).collect()
    }
}

impl FromIterator<u64> for BlockSet {
    fn from_iter<I: IntoIterator<Item = u64>>(blocks: I) -> Self {
        let mut set = BlockSet::default();
        for block in blocks {
            set.insert(block);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set holds what was put in and not taken out, in order, and counts it.
    #[test]
    fn a_set_is_a_set() {
        let mut set: BlockSet = [3, 64, 1000, 3, 0].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 64, 1000]);
        set.remove(64);
        set.remove(64);
        set.remove(99_999);
        assert_eq!((set.len(), set.contains(64), set.contains(1000)), (3, false, true));
        assert_eq!(set.first(2), [0, 3]);
        set.remove(0);
        assert_eq!(set.first(2), [3, 1000]);
        set.insert(0);
        assert_eq!(set, [0, 3, 1000].into_iter().collect());
    }
}
