//! Ports of the host that lead to workloads: what runtimes call port mappings.

use crate::id::Attachment;
use crate::policy::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

/// One port of the host that leads to a workload's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which address of the host; `None`: at all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: NonZeroU16,
    /// The workload's port.
    pub container_port: NonZeroU16,
}

impl PortMapping {
    /// Whether some packet would be meant by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address
    }

    fn same_place(&self, other: &Self) -> bool {
        (self.protocol, self.host_ip, self.host_port) == (other.protocol, other.host_ip, other.host_port)
    }
}

impl fmt::Display for PortMapping {
    /// `tcp 192.0.2.1:8080->80`; all addresses are `*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match self.host_ip {
            Some(ip) => write!(f, "{ip}")?,
            None => write!(f, "*")?,
        }
        write!(f, ":{}->{}", self.host_port, self.container_port)
    }
}

/// Why mappings cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Two of one workload say different things of one port.
    #[error("portMappings: {first} and {second} contradict each other")]
    Contradiction {
        /// One.
        first: PortMapping,
        /// The other.
        second: PortMapping,
    },
    /// Another workload has the port.
    #[error("portMappings: {wanted} is taken: {owner} has {theirs}")]
    Taken {
        /// What is asked for.
        wanted: PortMapping,
        /// Who has it.
        owner: Attachment,
        /// What it has.
        theirs: PortMapping,
    },
    /// The port is the overlay's.
    #[error("portMappings: {wanted} is taken: the overlay's VXLAN uses udp port {}", wanted.host_port)]
    Vxlan {
        /// What is asked for.
        wanted: PortMapping,
    },
}

/// The mappings to make: each once, none that contradicts another, is somebody else's or the overlay's.
///
/// # Errors
/// [`PortError`].
pub fn check<'a>(
    wanted: &[PortMapping],
    vxlan_port: u16,
    others: impl Iterator<Item = (&'a Attachment, &'a [PortMapping])> + Clone,
) -> Result<Vec<PortMapping>, PortError> {
    let wanted: BTreeSet<PortMapping> = wanted.iter().copied().collect();
    for mapping in &wanted {
        if let Some(second) = wanted.iter().find(|other| *other > mapping && mapping.same_place(other)) {
            return Err(PortError::Contradiction { first: *mapping, second: *second });
        }
        if mapping.protocol == Protocol::Udp && mapping.host_port.get() == vxlan_port {
            return Err(PortError::Vxlan { wanted: *mapping });
        }
        let taken =
            others.clone().find_map(|(owner, theirs)| Some((owner, theirs.iter().find(|m| m.overlaps(mapping))?)));
        if let Some((owner, theirs)) = taken {
            return Err(PortError::Taken { wanted: *mapping, owner: owner.clone(), theirs: *theirs });
        }
    }
    Ok(wanted.into_iter().collect())
}

/// The bit of the skb mark that says "came through a mapped port", given how far tags are shifted in it (0 to
/// 16): none of a tag's sixteen, nor one that kube-proxy (14, 15) or the `portmap` plugin (13) uses.
#[must_use]
pub const fn mapped_mark(mark_shift: u8) -> u32 {
    if mark_shift > 12 { 1 << 12 } else { 1 << 28 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(protocol: Protocol, ip: Option<u8>, host: u16, container: u16) -> PortMapping {
        PortMapping {
            protocol,
            host_ip: ip.map(|last| Ipv4Addr::new(192, 0, 2, last)),
            host_port: NonZeroU16::new(host).unwrap(),
            container_port: NonZeroU16::new(container).unwrap(),
        }
    }

    fn owner(name: &str) -> Attachment {
        Attachment { container_id: name.parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn the_owner_of_a_taken_port_is_named() {
        use Protocol::{Tcp, Udp};
        let db = owner("db");
        let theirs = [mapping(Tcp, None, 80, 8080), mapping(Tcp, Some(1), 81, 8081)];
        let ask = |wanted: PortMapping| check(&[wanted], 8472, [(&db, &theirs[..])].into_iter());
        let cases = [
            (mapping(Tcp, None, 80, 1), Some("portMappings: tcp *:80->1 is taken: db/eth0 has tcp *:80->8080")),
            (
                mapping(Tcp, Some(9), 80, 1),
                Some("portMappings: tcp 192.0.2.9:80->1 is taken: db/eth0 has tcp *:80->8080"),
            ),
            (mapping(Tcp, None, 81, 1), Some("portMappings: tcp *:81->1 is taken: db/eth0 has tcp 192.0.2.1:81->8081")),
            (
                mapping(Udp, None, 8472, 1),
                Some("portMappings: udp *:8472->1 is taken: the overlay's VXLAN uses udp port 8472"),
            ),
            (mapping(Tcp, Some(2), 81, 1), None),
            (mapping(Udp, None, 80, 1), None),
            (mapping(Tcp, None, 8472, 1), None),
        ];
        for (wanted, error) in cases {
            assert_eq!(ask(wanted).err().map(|error| error.to_string()).as_deref(), error);
        }
    }

    #[test]
    fn twice_the_same_is_once_and_twice_another_is_an_error() {
        let (a, b) = (mapping(Protocol::Tcp, None, 80, 1), mapping(Protocol::Tcp, None, 80, 2));
        assert_eq!(check(&[a, a], 8472, std::iter::empty()), Ok(vec![a]));
        assert_eq!(check(&[b, a], 8472, std::iter::empty()), Err(PortError::Contradiction { first: a, second: b }));
    }

    #[test]
    fn the_mark_is_beside_every_tag() {
        for shift in 0..=16_u8 {
            let others = 0xffff_u32 << shift | 0xe000;
            assert_eq!((mapped_mark(shift).count_ones(), mapped_mark(shift) & others), (1, 0), "{shift}");
        }
    }

    proptest! {
        #[test]
        fn what_is_granted_one_after_the_other_never_overlaps(
            asked in prop::collection::vec((any::<bool>(), prop::option::of(1u8..4), 1u16..6, 1u16..3), 0..12),
        ) {
            let mut granted: Vec<(Attachment, Vec<PortMapping>)> = Vec::new();
            for (number, (udp, ip, host, container)) in asked.into_iter().enumerate() {
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                let others = granted.iter().map(|(owner, ports)| (owner, ports.as_slice()));
                if let Ok(ports) = check(&[mapping(protocol, ip, host, container)], 3, others) {
                    granted.push((owner(&format!("c{number}")), ports));
                }
            }
            let all: Vec<_> = granted.iter().flat_map(|(_, ports)| ports).collect();
            for (index, one) in all.iter().enumerate() {
                prop_assert!(all[index + 1..].iter().all(|other| !one.overlaps(other)));
                prop_assert!(one.protocol == Protocol::Tcp || one.host_port.get() != 3);
            }
        }
    }
}
