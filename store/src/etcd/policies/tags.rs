//! Which tag a new group gets. Pure.

use std::collections::BTreeSet;
use weft_model::id::Tag;

/// How many tags there are: 1 to 65,535.
const TAGS: usize = 65_535;

/// A free tag, chosen by `random`: servers that choose at once seldom choose the same.
pub(super) fn choose(used: &BTreeSet<u16>, random: u128) -> Option<Tag> {
    let free = TAGS.checked_sub(used.len()).filter(|free| *free > 0)?;
    let index = random % u128::try_from(free).ok()?;
    // The index-th number that is not used: every used one up to it moves it up by one.
    let mut number = u16::try_from(index).ok()?.checked_add(1)?;
    for &taken in used {
        if taken > number {
            break;
        }
        number = number.checked_add(1)?;
    }
    Tag::new(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_free_tag_is_found_and_no_other() {
        let mut used: BTreeSet<u16> = (1..=u16::MAX).collect();
        assert_eq!(choose(&used, 7), None);
        for last in [1, 2, 0x8000, u16::MAX] {
            used.remove(&last);
            assert_eq!(choose(&used, u128::MAX).map(Tag::get), Some(last));
            used.insert(last);
        }
    }

    #[test]
    fn every_tag_can_be_chosen() {
        let used = BTreeSet::from([1, 3, 0xFFFF]);
        let chosen: BTreeSet<u16> = (0..65_532).filter_map(|n| choose(&used, n)).map(Tag::get).collect();
        assert_eq!(chosen.len(), 65_532);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free(used in proptest::collection::btree_set(1u16.., 0..300), random: u128) {
            let tag = choose(&used, random).unwrap();
            prop_assert!(!used.contains(&tag.get()));
        }
    }
}
