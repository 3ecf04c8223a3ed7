//! Limits of what workloads send. What passed goes through the workload's shaper, a device whose queue is a token
//! bucket, and comes back behind these programs (`tc_skip_classify`), with its mark.

use crate::local::ifindex;
use crate::maps::EP;
use crate::programs::PASS;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use weft_abi::{SHAPER_IFINDEX_BASE, SLOT_IFINDEX_BASE, limited};

/// Where a packet that passed goes on. A shaper that is missing drops it. The endpoint is looked up again, since the
/// judgement leaves no stack to remember it.
#[inline(always)]
pub(crate) fn onward(ctx: &TcContext) -> i32 {
    let slot = ifindex(ctx).wrapping_sub(SLOT_IFINDEX_BASE);
    let Some(endpoint) = EP.get_ptr(slot) else { return PASS };
    // SAFETY: a value of an array map lives as long as the map; a word is read once.
    let limits = unsafe { (&raw const (*endpoint).limited).read_volatile() };
    if limits & limited::EGRESS == 0 {
        return PASS;
    }
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(SHAPER_IFINDEX_BASE.wrapping_add(slot), 0) as i32 }
}
