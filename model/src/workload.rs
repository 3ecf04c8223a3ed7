//! Wiring one workload: veth pair, address, routes.
//!
//! The plugin builds everything but leaves the host end down and off the bridge; the agent raises it
//! as the last step of its commit, when programs and policy are in place.

use crate::id::{Attachment, IfName, Slot, Token};
use crate::mac::Mac;
use crate::op::{DOOMED_GROUP, Op, Route, Veth};
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// First interface index of host veths: slot *n* has `SLOT_IFINDEX_BASE + n` (`weft-abi` has the same
/// number for the programs; `weft-datapath` asserts it).
pub const SLOT_IFINDEX_BASE: u32 = 0x0100_0000;

/// What the agent decides about a workload and the plugin needs to wire it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wiring {
    /// For whom.
    pub attachment: Attachment,
    /// This incarnation.
    pub token: Token,
    /// Where in the subnet.
    pub slot: Slot,
    /// The workload's address; it gets a /32.
    pub address: Ipv4Addr,
    /// Its default gateway, on the host's bridge.
    pub gateway: Ipv4Addr,
    /// The bridge's hardware address.
    pub gateway_mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// The host's bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<IfName>,
    /// The workload's hardware address, if it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl Wiring {
    /// Name of the host's end.
    #[must_use]
    pub fn host_ifname(&self) -> IfName {
        host_ifname(&self.attachment)
    }

    /// Interface index of the host's end.
    #[must_use]
    pub fn host_index(&self) -> u32 {
        SLOT_IFINDEX_BASE + u32::from(self.slot.0)
    }

    /// Hardware address of the workload's end.
    #[must_use]
    pub fn workload_mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| Mac::for_workload(self.address))
    }

    /// Hardware address of the host's end.
    #[must_use]
    pub fn host_mac(&self) -> Mac {
        Mac::for_host(self.address)
    }

    /// The link's alias.
    #[must_use]
    pub fn alias(&self) -> Alias {
        Alias { token: self.token.clone(), attachment: self.attachment.clone() }
    }
}

/// The host veth's name: `weft` and eleven hex digits of a hash of the attachment, so that DEL finds
/// it without the agent.
#[must_use]
pub fn host_ifname(attachment: &Attachment) -> IfName {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id.as_str());
    hash.update([0]);
    hash.update(attachment.ifname.as_str());
    let digest = hash.finalize();
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    #[expect(clippy::unwrap_used, reason = "fifteen hex digits and letters are a valid name")]
    IfName::new(format!("weft{}", &hex[..11])).unwrap()
}

/// Who made a host veth and for whom: `weft:1:<token>:<container>:<ifname>`. The journal can be
/// rebuilt from it, and a late DEL note cannot kill a newer incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Which incarnation.
    pub token: Token,
    /// For whom.
    pub attachment: Attachment,
}

impl Alias {
    /// Reads an alias of ours; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("weft:1:")?.splitn(3, ':');
        let token = Token::new(parts.next()?).ok()?;
        let container_id = parts.next()?.parse().ok()?;
        let ifname = parts.next()?.parse().ok()?;
        Some(Self { token, attachment: Attachment { container_id, ifname } })
    }
}

impl std::fmt::Display for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "weft:1:{}:{}:{}", self.token, self.attachment.container_id, self.attachment.ifname)
    }
}

/// The link group of host veths of that network (`ip link show group`): by it GC knows whose a workload is that the
/// journal lost. Neither of the groups that mean something else.
#[must_use]
pub fn network_group(network: &str) -> u32 {
    let digest = Sha256::digest(network.as_bytes());
    let group = digest.iter().take(4).fold(0, |group, byte| group << 8 | u32::from(*byte));
    if [0, DOOMED_GROUP].contains(&group) { 1 } else { group }
}

/// What the plugin does in the host's namespace. Cut anywhere: at most a veth that is down and on no
/// bridge, which the next DEL or the agent's collection removes.
#[must_use]
pub fn plan_host(wiring: &Wiring, network: &str) -> Vec<Op> {
    vec![Op::CreateVeth(Veth {
        host_name: wiring.host_ifname(),
        host_index: wiring.host_index(),
        host_mac: wiring.host_mac(),
        workload_name: wiring.attachment.ifname.clone(),
        workload_mac: wiring.workload_mac(),
        mtu: wiring.mtu,
        alias: wiring.alias().to_string(),
        group: network_group(network),
    })]
}

/// What the plugin then does in the workload's namespace: a /32 and a default route through the
/// gateway, whose hardware address is permanent, so that no neighbour can poison it.
#[must_use]
pub fn plan_workload(wiring: &Wiring) -> Vec<Op> {
    let link = wiring.attachment.ifname.clone();
    let host_route = |ip| Ipv4Network::from(ip);
    let gateway = Route {
        destination: host_route(wiring.gateway),
        via: None,
        link: link.clone(),
        onlink: false,
        source: Some(wiring.address),
    };
    let default = Route {
        destination: Ipv4Network::from_bits(0, 0),
        via: Some(wiring.gateway),
        link: link.clone(),
        onlink: false,
        source: Some(wiring.address),
    };
    #[expect(clippy::unwrap_used, reason = "lo is a valid name")]
    let lo = IfName::new("lo").unwrap();
    vec![
        // No IPv6; and whoever switches it on inside is given no routes by strangers.
        Op::SetSysctl(format!("net/ipv6/conf/{link}/accept_ra"), "0".to_owned()),
        Op::SetSysctl(format!("net/ipv6/conf/{link}/disable_ipv6"), "1".to_owned()),
        Op::SetUp(lo),
        Op::SetUp(link.clone()),
        Op::AddAddress(link.clone(), host_route(wiring.address)),
        Op::ReplaceNeighbour(link, wiring.gateway, wiring.gateway_mac),
        Op::ReplaceRoute(gateway),
        Op::ReplaceRoute(default),
    ]
}

/// A small constructor the `ipnetwork` crate does not have.
trait FromBits {
    fn from_bits(address: u32, prefix: u8) -> Self;
}

impl FromBits for Ipv4Network {
    fn from_bits(address: u32, prefix: u8) -> Self {
        #[expect(clippy::unwrap_used, reason = "called with the constant prefix 0")]
        Self::new(Ipv4Addr::from(address), prefix).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { container_id: "check-1.a_b".parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn the_alias_reads_back() {
        let alias = Alias { token: "0123-abcdef".parse().unwrap(), attachment: attachment() };
        assert_eq!(Alias::parse(&alias.to_string()), Some(alias));
        for foreign in ["", "weft:2:0123-abcdef:c:eth0", "weft:1:0123-abcdef:c", "my note"] {
            assert_eq!(Alias::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn host_names_differ_by_container_and_interface() {
        let a = host_ifname(&attachment());
        let b = host_ifname(&Attachment { ifname: "eth1".parse().unwrap(), ..attachment() });
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 15);
    }
}
