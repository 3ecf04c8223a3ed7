//! What became of packets, counted by CPU.

use crate::maps::COUNTERS;
use weft_abi::Reason;

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    count_code(reason as u8);
}

/// The same by its code, as it is handed from function to function.
#[inline(always)]
pub(crate) fn count_code(reason: u8) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.into()) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
}
