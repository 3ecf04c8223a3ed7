//! Records of connections that passed, where the host asks for them: the first packet of each.

use crate::denial::{Entry, Origin, record};
use crate::identity::in_overlay;
use crate::known::is_under_way;
use crate::local::Local;
use crate::packet::Packet;
use crate::passage::Passage;
use weft_abi::{ConnKey4, Reason, SLOT_IFINDEX_BASE, action, direction, host_flag};

/// Records what opens a connection and passes. Between workloads the destination tells of it, as
/// policy is enforced there: what goes into the overlay is not told twice.
#[inline(always)]
pub(crate) fn tell(passage: &Passage<'_>, key: &ConnKey4, rule: u32) {
    let host = passage.local.host;
    if host.flags & host_flag::LOG_ALLOWED == 0 {
        return;
    }
    if passage.direction == direction::EGRESS && in_overlay(host, passage.packet.destination) {
        return;
    }
    // SAFETY: both pointers are good for the call.
    unsafe { weft_allowed(passage.packet, key, rule, passage.direction.into()) };
}

/// A function of its own for the verifier, which looks at a global one (`no_mangle`) once.
///
/// # Safety
/// `packet` and `key` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_allowed(packet: *const Packet, key: *const ConnKey4, rule: u32, way: u32) -> i32 {
    if packet.is_null() || key.is_null() {
        return 0;
    }
    // SAFETY: the caller's, and not null.
    let (packet, key) = unsafe { (&*packet, *key) };
    let Ok(local) = Local::at(key.slot) else { return 0 };
    // A SYN that is sent again.
    if packet.is_syn() && is_under_way(&local, &key) {
        return 0;
    }
    let [direction, ..] = way.to_le_bytes();
    let entry = Entry { reason: Reason::Passed as u8, direction, rule, action: action::ALLOW };
    record(&Origin::at(SLOT_IFINDEX_BASE.wrapping_add(key.slot)), packet, &entry);
    0
}
