//! Limits of what workloads send. What passed goes through the workload's shaper, a device whose queue is a token
//! bucket, and comes back behind these programs (`tc_skip_classify`), with its mark.

use crate::local::Local;
use crate::verdict::PASS;
use aya_ebpf::helpers::bpf_redirect;
use weft_abi::{SHAPER_IFINDEX_BASE, limited};

/// Where a packet that passed goes on. A shaper that is missing drops it.
#[inline(always)]
pub(crate) fn onward(local: &Local) -> i32 {
    if local.limits() & limited::EGRESS == 0 {
        return PASS;
    }
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(SHAPER_IFINDEX_BASE.wrapping_add(local.slot), 0) as i32 }
}
