//! Fair shares of the records: a workload that has packets denied by the hundred thousand gets neither
//! the log nor the reader's time for itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Records a workload may have at once: those of so many seconds.
const BURST_SECONDS: u32 = 10;

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
    /// How many records of the slot were left out before this one; `None`: so is this one. A rate of 0
    /// is none.
    pub(super) fn take(&mut self, slot: u32, now: Instant, per_second: u32) -> Option<u32> {
        let burst = per_second.saturating_mul(BURST_SECONDS);
        let share = self.0.entry(slot).or_insert(Share { window: now, tokens: burst, left_out: 0 });
        if per_second == 0 {
            return Some(std::mem::take(&mut share.left_out));
        }
        let seconds = now.saturating_duration_since(share.window).as_secs();
        if seconds > 0 {
            let due = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(per_second);
            share.tokens = share.tokens.saturating_add(due).min(burst);
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

    const PER_SECOND: u32 = 50;
    const BURST: u32 = PER_SECOND * BURST_SECONDS;

    #[test]
    fn a_flood_has_its_burst_and_then_its_rate_and_what_was_left_out_is_told() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        let taken = (0..10_000).filter(|_| shares.take(7, start, PER_SECOND).is_some()).count();
        assert_eq!(taken, BURST as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!(shares.take(7, later, PER_SECOND), Some(10_000 - BURST), "what was left out");
        let taken = 1 + (0..10_000).filter(|_| shares.take(7, later, PER_SECOND).is_some()).count();
        assert_eq!(taken, 2 * PER_SECOND as usize);
    }

    #[test]
    fn a_flood_costs_nobody_else_a_record() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        assert_eq!((0..10_000).filter(|_| shares.take(7, now, PER_SECOND).is_some()).count(), BURST as usize);
        assert_eq!(shares.take(8, now, PER_SECOND), Some(0));
    }

    #[test]
    fn a_share_does_not_grow_beyond_its_burst() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        assert_eq!(shares.take(7, start, PER_SECOND), Some(0));
        let later = start + Duration::from_secs(1 << 33);
        assert_eq!((0..10_000).filter(|_| shares.take(7, later, PER_SECOND).is_some()).count(), BURST as usize);
    }

    #[test]
    fn without_a_rate_nothing_is_left_out() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        assert!((0..10_000).all(|_| shares.take(7, now, 0) == Some(0)));
        // A rate that comes later begins with what is due.
        assert_eq!(shares.take(7, now, PER_SECOND), None);
        assert_eq!(shares.take(7, now + Duration::from_secs(1), PER_SECOND), Some(1));
    }
}
