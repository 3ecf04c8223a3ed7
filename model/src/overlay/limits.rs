//! Workloads' limits, and shapers nobody needs any more.

use super::{Actual, Desired, Link, LinkKind};
use crate::bandwidth::{self, Seen, shaper_ifname, shapers_slot, veths_slot};
use crate::id::{IfName, Slot};
use crate::op::Op;
use std::collections::BTreeSet;

/// What there is of the limits of the workload in a slot.
#[must_use]
pub fn limits_seen(actual: &Actual, veth: &IfName, slot: Slot) -> Seen {
    let bucket = |index: u32| actual.buckets.get(&index).copied();
    let name = shaper_ifname(slot);
    let named = actual.links.get(&name);
    let shaper = named.filter(|link| is_shaper(&name, link));
    Seen {
        veth: actual.links.get(veth).and_then(|link| bucket(link.index)),
        shaper: shaper.map(|link| (link.up, bucket(link.index))),
        occupied: named.is_some() && shaper.is_none(),
    }
}

fn is_shaper(name: &IfName, link: &Link) -> bool {
    link.kind == LinkKind::Ifb && shapers_slot(name, link.index).is_some()
}

/// Holds workloads to their limits, and removes the shapers of those that are gone. A shaper whose veth is there
/// stays until it is known whose it is: without it, what the workload sends is dropped.
pub(super) fn plan_limits(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) {
    let mut unlimited: BTreeSet<Slot> = BTreeSet::new();
    for (name, port) in &desired.ports {
        let Some(slot) = actual.links.get(name).and_then(|link| veths_slot(link.index)) else { continue };
        if port.limits.egress.is_none() {
            unlimited.insert(slot);
        }
        if !port.limits.is_unlimited() {
            let seen = limits_seen(actual, name, slot);
            ops.extend(bandwidth::plan_limits(name, slot, &port.limits, desired.bridge.mtu, &seen));
        }
    }
    let alive: BTreeSet<Slot> = actual.links.values().filter_map(|link| veths_slot(link.index)).collect();
    for (name, link) in &actual.links {
        if let Some(slot) = shapers_slot(name, link.index).filter(|_slot| is_shaper(name, link))
            && (!alive.contains(&slot) || unlimited.contains(&slot))
        {
            ops.push(Op::DeleteLink(name.clone()));
        }
    }
}
