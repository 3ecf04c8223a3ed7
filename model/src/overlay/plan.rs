//! The way from what a host's network is to what it should be.

use super::limits::plan_limits;
use super::{Actual, Bridge, Desired, LinkKind, NftSeen, rule_id};
use crate::id::IfName;
use crate::op::{NftChain, NftElement, NftSet, NftTable, Op};
use std::collections::BTreeMap;

/// The ops that turn `actual` into `desired`. Traffic is withdrawn before its next hop goes, and
/// steered only after its next hop exists, so that every prefix of the plan is harmless. Nothing we
/// did not make is in the plan.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Op> {
    let mut ops = Vec::new();
    let kept = Kept {
        bridge: plan_bridge(desired, actual, &mut ops),
        vxlan: plan_vxlan(desired, actual, &mut ops),
        desired,
        actual,
    };
    // Before what it guards: loopback addresses are taken on the bridge, and ports join it.
    plan_nft(desired, actual, &mut ops);
    plan_sysctls(&kept, &mut ops);
    plan_addresses(&kept, &mut ops);
    plan_withdrawals(&kept, &mut ops);
    plan_stray_addresses(&kept, &mut ops);
    plan_next_hops(&kept, &mut ops);
    plan_removals(&kept, &mut ops);
    // Before ports come up: nothing passes unlimited.
    plan_limits(desired, actual, &mut ops);
    plan_ports(&kept, &mut ops);
    ops
}

/// What of our two devices outlives the first ops of a plan.
struct Kept<'a> {
    /// The bridge stays.
    bridge: bool,
    /// The VXLAN device stays.
    vxlan: bool,
    desired: &'a Desired,
    actual: &'a Actual,
}

impl Kept<'_> {
    /// Whether what is on the link now can stay.
    fn link(&self, link: &IfName) -> bool {
        (link == &self.desired.bridge_name && self.bridge) || (link == &self.desired.vxlan.name && self.vxlan)
    }

    /// Whether the neighbours on the link can stay. A new hardware address flushes them all, the
    /// permanent ones too (`neigh_changeaddr`; seen on 6.18).
    fn neighbours(&self, link: &IfName) -> bool {
        let mac = if link == &self.desired.vxlan.name { self.desired.vxlan.mac } else { self.desired.bridge.mac };
        self.link(link) && self.actual.links.get(link).is_some_and(|seen| seen.mac == mac)
    }
}

/// Brings the bridge about; says whether what is on it now can stay.
fn plan_bridge(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) -> bool {
    let name = &desired.bridge_name;
    let Bridge { mac, mtu } = desired.bridge;
    let create = Op::CreateBridge { name: name.clone(), mac, mtu };
    let link = match actual.links.get(name) {
        Some(link) if link.kind == LinkKind::Bridge => link,
        Some(_) => {
            ops.extend([Op::DeleteLink(name.clone()), create, Op::SetUp(name.clone())]);
            return false;
        }
        None => {
            ops.extend([create, Op::SetUp(name.clone())]);
            return false;
        }
    };
    if link.mac != mac {
        ops.push(Op::SetMac(name.clone(), mac));
    }
    if link.mtu != mtu {
        ops.push(Op::SetMtu(name.clone(), mtu));
    }
    if !link.up {
        ops.push(Op::SetUp(name.clone()));
    }
    true
}

/// Brings the VXLAN device about; says whether what is on it now can stay.
fn plan_vxlan(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) -> bool {
    let want = &desired.vxlan;
    let compatible = LinkKind::Vxlan {
        vni: want.vni,
        port: want.port,
        local: Some(want.local),
        underlay: Some(want.underlay),
        gbp: want.gbp,
        learning: false,
    };
    match actual.links.get(&want.name) {
        Some(link) if link.kind == compatible => {
            if link.mac != want.mac {
                ops.push(Op::SetMac(want.name.clone(), want.mac));
            }
            if link.mtu != want.mtu {
                ops.push(Op::SetMtu(want.name.clone(), want.mtu));
            }
            if !link.up {
                ops.push(Op::SetUp(want.name.clone()));
            }
            true
        }
        existing => {
            if existing.is_some() {
                ops.push(Op::DeleteLink(want.name.clone()));
            }
            ops.extend([Op::CreateVxlan(want.clone()), Op::SetUp(want.name.clone())]);
            false
        }
    }
}

fn plan_sysctls(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let ours = [&kept.desired.bridge_name, &kept.desired.vxlan.name];
    for (key, value) in &kept.desired.sysctls {
        // Settings of a device are born and die with it.
        let device = ours.into_iter().find(|link| key.contains(&format!("/conf/{link}/")));
        let lasts = device.is_none_or(|link| kept.link(link));
        let is_set = match kept.actual.sysctls.get(key) {
            Some(seen) => seen == value,
            // No IPv6 in the kernel, or none on the device because of its small MTU: nothing to set.
            None => key.starts_with("net/ipv6/"),
        };
        if !(lasts && is_set) {
            ops.push(Op::SetSysctl(key.clone(), value.clone()));
        }
    }
}

fn plan_addresses(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (link, address) in &desired.addresses {
        if !(kept.link(link) && actual.addresses.contains(&(link.clone(), *address))) {
            ops.push(Op::AddAddress(link.clone(), *address));
        }
    }
}

/// After the routes that are withdrawn, because the kernel drops routes with their source address; before
/// those that are put, because an address with a network brings a route of the kernel's own, which
/// would be in their way.
fn plan_stray_addresses(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (link, address) in &actual.addresses {
        if kept.link(link) && !desired.addresses.contains(&(link.clone(), *address)) {
            ops.push(Op::DeleteAddress(link.clone(), *address));
        }
    }
}

fn plan_withdrawals(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (destination, route) in &actual.routes {
        let gone_with_its_link =
            [&desired.bridge_name, &desired.vxlan.name].contains(&&route.link) && !kept.link(&route.link);
        if !desired.routes.contains_key(destination) && !gone_with_its_link {
            ops.push(Op::DeleteRoute(route.clone()));
        }
    }
}

fn plan_next_hops(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    let vxlan = &desired.vxlan.name;
    for (mac, to) in &desired.tunnels {
        if !(kept.vxlan && actual.tunnels.get(mac) == Some(to)) {
            ops.push(Op::ReplaceTunnelEntry { link: vxlan.clone(), mac: *mac, to: *to });
        }
    }
    for ((link, ip), mac) in &desired.neighbours {
        if !(kept.neighbours(link) && actual.neighbours.get(&(link.clone(), *ip)) == Some(mac)) {
            ops.push(Op::ReplaceNeighbour(link.clone(), *ip, *mac));
        }
    }
    for (destination, route) in &desired.routes {
        if !(kept.link(&route.link) && actual.routes.get(destination) == Some(route)) {
            ops.push(Op::ReplaceRoute(route.clone()));
        }
    }
}

/// Next hops nobody uses any more: last, because a peer's new hardware address replaces its neighbour
/// before the old forwarding entry goes.
fn plan_removals(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (link, ip) in actual.neighbours.keys() {
        if kept.neighbours(link) && !desired.neighbours.contains_key(&(link.clone(), *ip)) {
            ops.push(Op::DeleteNeighbour(link.clone(), *ip));
        }
    }
    for (mac, to) in &actual.tunnels {
        if kept.vxlan && !desired.tunnels.contains_key(mac) {
            ops.push(Op::DeleteTunnelEntry { link: desired.vxlan.name.clone(), mac: *mac, to: *to });
        }
    }
}

/// Puts committed workloads' veths back on the bridge and up. A veth that is gone is not ours to
/// make: its workload is gone, and collection follows.
fn plan_ports(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    let bridge_index = actual.links.get(&desired.bridge_name).map(|link| link.index);
    for (name, port) in &desired.ports {
        let Some(link) = actual.links.get(name) else {
            continue;
        };
        let joined = kept.bridge && link.master == bridge_index && link.guarded_port;
        if !joined {
            ops.push(Op::JoinBridge { link: name.clone(), bridge: desired.bridge_name.clone() });
        }
        if !(joined && actual.port_entries.contains(&(name.clone(), port.mac))) {
            ops.push(Op::ReplacePortEntry(name.clone(), port.mac));
        }
        // Never lowered: the workload's own end may be larger, and what is larger than the host's end is lost there.
        if link.mtu < desired.bridge.mtu {
            ops.push(Op::SetMtu(name.clone(), desired.bridge.mtu));
        }
        if !link.up {
            ops.push(Op::SetUp(name.clone()));
        }
    }
}

fn plan_nft(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) {
    let NftTable { chains, sets } = &desired.nft;
    let rules = |chain: &NftChain| chain.rules.iter().map(|rule| rule_id(rule)).collect();
    let want: BTreeMap<String, Vec<String>> =
        chains.iter().map(|chain| (chain.name.to_owned(), rules(chain))).collect();
    let (mut delete, mut add) = (Vec::new(), Vec::new());
    let fits = actual.nft.as_ref().is_some_and(|seen| {
        let fits = sets.iter().all(|set| plan_elements(set, seen, &mut delete, &mut add));
        fits && seen.chains == want
    });
    if !fits {
        ops.push(Op::PutNft(desired.nft.clone()));
    } else if !(delete.is_empty() && add.is_empty()) {
        ops.push(Op::ChangeNftElements { delete, add });
    }
}

/// What is to be changed in a set; whether it is there, with its type.
fn plan_elements(set: &NftSet, seen: &NftSeen, delete: &mut Vec<NftElement>, add: &mut Vec<NftElement>) -> bool {
    let Some((kind, elements)) = seen.sets.get(set.name) else { return false };
    delete.extend(elements.difference(&set.elements).map(|element| (set.name, element.clone())));
    add.extend(set.elements.difference(elements).map(|element| (set.name, element.clone())));
    kind == set.kind
}
