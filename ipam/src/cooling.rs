//! Addresses given back a moment ago: peers and clients may still talk to their last owner.

use std::collections::{BTreeMap, VecDeque};

/// Offsets in the order they were given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cooling {
    /// The number of each one's place in the queue.
    places: BTreeMap<u32, u64>,
    /// In that order. Offsets that were taken out meanwhile stand here still, until it is their turn.
    queue: VecDeque<Waiting>,
    /// The number of the next place.
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    offset: u32,
    at: u64,
    place: u64,
}

impl Cooling {
    pub(crate) fn push(&mut self, offset: u32, at: u64) {
        // Otherwise addresses asked for by name, again and again, would let it grow.
        if self.queue.len() > 2 * self.places.len() + 64 {
            let places = &self.places;
            self.queue.retain(|waiting| places.get(&waiting.offset) == Some(&waiting.place));
        }
        self.places.insert(offset, self.next);
        self.queue.push_back(Waiting { offset, at, place: self.next });
        self.next += 1;
    }

    /// Takes out the first if it has waited `wait` seconds.
    pub(crate) fn pop(&mut self, now: u64, wait: u64) -> Option<u32> {
        while let Some(first) = self.queue.pop_front_if(|first| now.saturating_sub(first.at) >= wait) {
            if self.is_current(&first) {
                self.remove(first.offset);
                return Some(first.offset);
            }
        }
        None
    }

    /// Takes an offset out wherever it stands.
    pub(crate) fn remove(&mut self, offset: u32) {
        self.places.remove(&offset);
    }

    /// Length of the queue, with what was taken out.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn is_current(&self, waiting: &Waiting) -> bool {
        self.places.get(&waiting.offset) == Some(&waiting.place)
    }

    /// Those that still have to wait, with the time they were given back, in that order.
    pub(crate) fn waiting(&self, now: u64, wait: u64) -> impl Iterator<Item = (u32, u64)> {
        let still = move |waiting: &&Waiting| self.is_current(waiting) && now.saturating_sub(waiting.at) < wait;
        self.queue.iter().filter(still).map(|waiting| (waiting.offset, waiting.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_and_comes_back_waits_anew() {
        let mut cooling = Cooling::default();
        cooling.push(5, 100);
        cooling.push(6, 100);
        cooling.remove(5);
        cooling.push(5, 110);
        cooling.remove(5);
        cooling.push(5, 110);
        assert_eq!(cooling.waiting(111, 30).collect::<Vec<_>>(), [(6, 100), (5, 110)]);
        assert_eq!((cooling.pop(130, 30), cooling.pop(130, 30)), (Some(6), None));
        assert_eq!((cooling.pop(140, 30), cooling.pop(140, 30)), (Some(5), None));
    }

    #[test]
    fn an_address_asked_for_by_name_again_and_again_does_not_let_it_grow() {
        let mut cooling = Cooling::default();
        for at in 0..10_000 {
            cooling.push(5, at);
            cooling.remove(5);
        }
        assert!(cooling.queued() < 200, "{}", cooling.queued());
    }
}
