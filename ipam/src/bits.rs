//! A bitmap of the subnet's offsets.

/// One bit an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: u32,
}

impl Bits {
    /// `len` bits, all clear. The padding of the last word is set, so that it is never found free.
    pub(crate) fn new(len: u32) -> Self {
        let words = usize::try_from(len.div_ceil(64)).unwrap_or_default();
        let mut bits = Self { words: vec![0; words], len };
        for offset in len..len.next_multiple_of(64) {
            bits.set(offset);
        }
        bits
    }

    pub(crate) fn set(&mut self, offset: u32) {
        if let Some(word) = self.words.get_mut(word_of(offset)) {
            *word |= 1 << (offset % 64);
        }
    }

    pub(crate) fn clear(&mut self, offset: u32) {
        if offset < self.len
            && let Some(word) = self.words.get_mut(word_of(offset))
        {
            *word &= !(1 << (offset % 64));
        }
    }

    /// Whether the bit is set; offsets beyond the end are.
    pub(crate) fn is_set(&self, offset: u32) -> bool {
        self.words.get(word_of(offset)).is_none_or(|word| word & (1 << (offset % 64)) != 0)
    }

    /// The first offset at or after `start`, wrapping around, that is clear here and in `other`.
    pub(crate) fn next_clear(&self, other: &Self, start: u32) -> Option<u32> {
        let start = if start < self.len { start } else { 0 };
        let taken = |index: usize| self.words[index] | other.words.get(index).unwrap_or(&0);
        let first = word_of(start);
        let count = self.words.len();
        // The first word is looked at twice: its high bits first, its low bits last.
        (0..=count).find_map(|step| {
            let index = (first + step) % count;
            let free = !taken(index);
            let free = match step {
                0 => free & (u64::MAX << (start % 64)),
                _ => free,
            };
            (free != 0).then(|| u32::try_from(index).unwrap_or_default() * 64 + free.trailing_zeros())
        })
    }
}

fn word_of(offset: u32) -> usize {
    usize::try_from(offset / 64).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn next_clear_is_what_a_walk_finds(
            len in 1u32..300, start in 0u32..400,
            set in proptest::collection::vec(any::<bool>(), 300),
            blocked in proptest::collection::vec(any::<bool>(), 300),
        ) {
            let fill = |flags: &[bool]| {
                let mut bits = Bits::new(len);
                (0..len).filter(|n| flags[*n as usize]).for_each(|n| bits.set(n));
                bits
            };
            let (ours, other) = (fill(&set), fill(&blocked));
            let start_in = if start < len { start } else { 0 };
            let walk = (0..len)
                .map(|step| (start_in + step) % len)
                .find(|n| !set[*n as usize] && !blocked[*n as usize]);
            prop_assert_eq!(ours.next_clear(&other, start), walk);
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
