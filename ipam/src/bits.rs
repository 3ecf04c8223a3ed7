//! A bitmap of the subnet's offsets, with a bitmap of its full words above it: the next free offset is
//! found in a handful of steps, however full the subnet is.

/// One bit an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    /// One bit a word that has no clear bit.
    full: Vec<u64>,
    len: u32,
}

impl Bits {
    /// `len` bits, all clear. The padding of the last words is set, so that it is never found free.
    pub(crate) fn new(len: u32) -> Self {
        let words = vec![0; index_of(len.div_ceil(64))];
        let count = len.div_ceil(64);
        let mut bits = Self { full: vec![0; index_of(count.div_ceil(64))], words, len };
        for word in count..count.next_multiple_of(64) {
            set(&mut bits.full, word);
        }
        for offset in len..len.next_multiple_of(64) {
            bits.set(offset);
        }
        bits
    }

    pub(crate) fn set(&mut self, offset: u32) {
        set(&mut self.words, offset);
        if self.words.get(index_of(offset / 64)) == Some(&u64::MAX) {
            set(&mut self.full, offset / 64);
        }
    }

    pub(crate) fn clear(&mut self, offset: u32) {
        if offset < self.len {
            clear(&mut self.words, offset);
            clear(&mut self.full, offset / 64);
        }
    }

    /// Whether the bit is set; offsets beyond the end are.
    pub(crate) fn is_set(&self, offset: u32) -> bool {
        self.words.get(index_of(offset / 64)).is_none_or(|word| word & (1 << (offset % 64)) != 0)
    }

    /// The first clear offset at or after `start`, wrapping around, and how many words were looked at.
    pub(crate) fn next_clear(&self, start: u32) -> (Option<u32>, u32) {
        let mut steps = 0;
        let start = if start < self.len { start } else { 0 };
        let found = self.from(start, &mut steps).or_else(|| self.from(0, &mut steps));
        (found, steps)
    }

    /// The first clear offset at or after `start`.
    fn from(&self, start: u32, steps: &mut u32) -> Option<u32> {
        let within = |word: u32, first: u32, steps: &mut u32| first_clear(&self.words, word, first, steps);
        if let Some(offset) = within(start / 64, start % 64, steps) {
            return Some(offset);
        }
        let next = start / 64 + 1;
        let groups = u32::try_from(self.full.len()).unwrap_or(u32::MAX);
        let word = (next / 64..groups).find_map(|group| {
            let first = if group == next / 64 { next % 64 } else { 0 };
            first_clear(&self.full, group, first, steps)
        })?;
        within(word, 0, steps)
    }
}

/// The first clear bit of a word, `first` or a higher one, counted from the beginning of all.
fn first_clear(words: &[u64], word: u32, first: u32, steps: &mut u32) -> Option<u32> {
    *steps += 1;
    let free = !words.get(index_of(word))? & (u64::MAX << first);
    (free != 0).then(|| word * 64 + free.trailing_zeros())
}

fn set(words: &mut [u64], bit: u32) {
    if let Some(word) = words.get_mut(index_of(bit / 64)) {
        *word |= 1 << (bit % 64);
    }
}

fn clear(words: &mut [u64], bit: u32) {
    if let Some(word) = words.get_mut(index_of(bit / 64)) {
        *word &= !(1 << (bit % 64));
    }
}

fn index_of(word: u32) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn next_clear_is_what_a_walk_finds(
            len in 1u32..5000, start in 0u32..6000,
            density in 0u32..=100,
            set in proptest::collection::vec(0u32..100, 5000),
            cleared in proptest::collection::vec(0u32..5000, 0..20),
        ) {
            let mut bits = Bits::new(len);
            let mut taken: Vec<bool> = set.iter().map(|n| *n < density).collect();
            (0..len).filter(|n| taken[*n as usize]).for_each(|n| bits.set(n));
            for offset in cleared {
                taken[offset as usize] = false;
                bits.clear(offset);
            }
            let start_in = if start < len { start } else { 0 };
            let walk = (0..len).map(|step| (start_in + step) % len).find(|n| !taken[*n as usize]);
            let (found, steps) = bits.next_clear(start);
            prop_assert_eq!(found, walk);
            prop_assert!(steps <= 8, "{} steps", steps);
        }
    }

    #[test]
    fn offsets_beyond_the_end_are_taken_and_stay_so() {
        let mut bits = Bits::new(70);
        for offset in [70, 127, 128, 4096] {
            bits.clear(offset);
            assert!(bits.is_set(offset), "{offset}");
        }
        assert!(!bits.is_set(69));
    }
}
