//! What a slot takes of what all slots share, counted without losing a count between CPUs.

use crate::maps::CT_SHARE;
use core::arch::asm;
use weft_abi::{Share, Window};

/// The share of a slot: a value of an array map, which lives as long as the map, and into which nobody holds a
/// reference.
#[inline(always)]
pub(crate) fn of(slot: u32) -> Option<*mut Share> {
    CT_SHARE.get_ptr_mut(slot)
}

/// Counts in the window of that number; the count so far. A race at its begin costs a few counts.
#[inline(always)]
pub(crate) fn count(window: *mut Window, number: u32, more: i64) -> i64 {
    // SAFETY: of a share.
    unsafe {
        if (*window).number != number {
            (*window).number = number;
            (&raw mut (*window).count).write_volatile(0);
        }
        add(&raw mut (*window).count, more)
    }
}

/// Adds to a word that other CPUs add to; what it is then. The language offers this target no atomic
/// read-modify-write; the kernel does (BPF_FETCH, 5.12).
///
/// # Safety
/// The word must be aligned, and in a map.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, more: i64) -> i64 {
    let before: i64;
    // SAFETY: the caller's.
    unsafe { asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) more => before, in(reg) word) };
    before.wrapping_add(more)
}
