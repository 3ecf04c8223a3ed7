//! Addresses given back a moment ago: peers and clients may still talk to their last owner.

use std::collections::VecDeque;

/// Offsets in the order they were given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cooling(VecDeque<(u32, u64)>);

impl Cooling {
    pub(crate) fn push(&mut self, offset: u32, at: u64) {
        self.0.push_back((offset, at));
    }

    /// Takes out the first if it has waited `wait` seconds.
    pub(crate) fn pop(&mut self, now: u64, wait: u64) -> Option<u32> {
        self.0.pop_front_if(|(_, at)| now.saturating_sub(*at) >= wait).map(|(offset, _)| offset)
    }

    /// Takes an offset out wherever it stands; whether it was there.
    pub(crate) fn remove(&mut self, offset: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|(cooling, _)| *cooling != offset);
        self.0.len() < before
    }

    /// Those that still have to wait, with the time they were given back.
    pub(crate) fn waiting(&self, now: u64, wait: u64) -> impl Iterator<Item = (u32, u64)> {
        self.0.iter().copied().skip_while(move |(_, at)| now.saturating_sub(*at) >= wait)
    }
}
