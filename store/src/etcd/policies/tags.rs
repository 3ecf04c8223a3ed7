//! Which tag a new group gets. Pure.

use weft_model::id::Tag;

/// 64 tags a word; number 0 is no tag.
const WORDS: usize = 1024;

/// Tags that have a document, live or in quarantine.
#[derive(Clone)]
pub(in crate::etcd) struct UsedTags(Box<[u64; WORDS]>);

impl Default for UsedTags {
    fn default() -> Self {
        let mut words = Box::new([0; WORDS]);
        // 0 is "no identity": never free.
        words[0] = 1;
        Self(words)
    }
}

impl FromIterator<Tag> for UsedTags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        let mut used = Self::default();
        tags.into_iter().for_each(|tag| used.insert(tag));
        used
    }
}

impl UsedTags {
    pub(super) fn insert(&mut self, tag: Tag) {
        let (word, bit) = place(tag);
        self.0[word] |= bit;
    }

    pub(super) fn remove(&mut self, tag: Tag) {
        let (word, bit) = place(tag);
        self.0[word] &= !bit;
    }

    /// A free tag, chosen by `random`: servers that choose at once seldom choose the same.
    pub(super) fn choose(&self, random: u128) -> Option<Tag> {
        let free: u128 = self.0.iter().map(|word| u128::from(word.count_zeros())).sum();
        let mut left = random.checked_rem(free)?;
        for (number, word) in (0u16..).zip(self.0.iter()) {
            let here = u128::from(word.count_zeros());
            if left < here {
                let free_bits = (0..64u16).filter(|bit| word & (1 << bit) == 0);
                return free_bits
                    .skip(usize::try_from(left).ok()?)
                    .map(|bit| number * 64 + bit)
                    .next()
                    .and_then(Tag::new);
            }
            left -= here;
        }
        None
    }
}

fn place(tag: Tag) -> (usize, u64) {
    let number = tag.get();
    (usize::from(number / 64), 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tag(number: u16) -> Tag {
        Tag::new(number).unwrap()
    }

    #[test]
    fn the_last_free_tag_is_found_and_no_other() {
        let mut used: UsedTags = (1..=u16::MAX).map(tag).collect();
        assert_eq!(used.choose(7), None);
        for last in [1, 2, 63, 64, 0x8000, u16::MAX] {
            used.remove(tag(last));
            assert_eq!(used.choose(u128::MAX), Some(tag(last)));
            used.insert(tag(last));
        }
    }

    #[test]
    fn every_tag_can_be_chosen() {
        let used: UsedTags = [1, 3, 0xFFFF].into_iter().map(tag).collect();
        let chosen: BTreeSet<Tag> = (0..65_532).filter_map(|n| used.choose(n)).collect();
        assert_eq!(chosen.len(), 65_532);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free(taken in proptest::collection::btree_set(1u16.., 0..300), random: u128) {
            let used: UsedTags = taken.iter().copied().map(tag).collect();
            let chosen = used.choose(random).unwrap();
            prop_assert!(!taken.contains(&chosen.get()));
        }
    }
}
