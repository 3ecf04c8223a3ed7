//! What became of records.

use std::sync::atomic::{AtomicU64, Ordering};
use weft_api::logging::LogCounts;

/// Counters that the threads share; see [`LogCounts`].
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) read: AtomicU64,
    pub(super) over_share: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) not_written: AtomicU64,
    pub(super) kernel_lines: AtomicU64,
    pub(super) kernel_left_out: AtomicU64,
    pub(super) missed_by_readers: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, records: usize) {
    counter.fetch_add(u64::try_from(records).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl Counts {
    /// Their values now.
    #[must_use]
    pub fn now(&self) -> LogCounts {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogCounts {
            read: now(&self.read),
            over_share: now(&self.over_share),
            queue_full: now(&self.queue_full),
            written: now(&self.written),
            not_written: now(&self.not_written),
            kernel_lines: now(&self.kernel_lines),
            kernel_left_out: now(&self.kernel_left_out),
            missed_by_readers: now(&self.missed_by_readers),
        }
    }

    /// Records that a reader of the feed missed.
    pub(crate) fn missed(&self, records: u64) {
        self.missed_by_readers.fetch_add(records, Ordering::Relaxed);
    }
}
