//! The time that entries bear.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

/// The time in units of [`weft_abi::Conn::seen`].
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: reads a clock.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
}
