//! Fair shares of the records: a workload that has packets denied by the hundred thousand gets neither
//! the log nor the reader's time for itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Records a second of one workload.
const PER_SECOND: u32 = 50;
/// Records it may have at once.
const BURST: u32 = 500;

/// One workload's.
struct Share {
    window: Instant,
    tokens: u32,
    left_out: u32,
}

/// Shares by slot; what no workload's program refused (the underlay's, the tunnel's) has one together.
#[derive(Default)]
pub(super) struct Shares(HashMap<u32, Share>);

impl Shares {
    /// How many records of the slot were left out before this one; `None`: so is this one.
    pub(super) fn take(&mut self, slot: u32, now: Instant) -> Option<u32> {
        let share = self.0.entry(slot).or_insert(Share { window: now, tokens: BURST, left_out: 0 });
        let seconds = now.saturating_duration_since(share.window).as_secs();
        if seconds > 0 {
            let due = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
            share.tokens = share.tokens.saturating_add(due).min(BURST);
            share.window += Duration::from_secs(seconds);
        }
        if share.tokens == 0 {
            share.left_out = share.left_out.saturating_add(1);
            return None;
        }
        share.tokens -= 1;
        Some(std::mem::take(&mut share.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_its_burst_and_then_its_rate_and_what_was_left_out_is_told() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        let taken = (0..10_000).filter(|_| shares.take(7, start).is_some()).count();
        assert_eq!(taken, BURST as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!(shares.take(7, later), Some(10_000 - BURST), "what was left out");
        let taken = 1 + (0..10_000).filter(|_| shares.take(7, later).is_some()).count();
        assert_eq!(taken, 2 * PER_SECOND as usize);
    }

    #[test]
    fn a_flood_costs_nobody_else_a_record() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        assert_eq!((0..10_000).filter(|_| shares.take(7, now).is_some()).count(), BURST as usize);
        assert_eq!(shares.take(8, now), Some(0));
    }

    #[test]
    fn a_share_does_not_grow_beyond_its_burst() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        assert_eq!(shares.take(7, start), Some(0));
        let later = start + Duration::from_secs(1 << 33);
        assert_eq!((0..10_000).filter(|_| shares.take(7, later).is_some()).count(), BURST as usize);
    }
}
