//! What other software on the host does with packets of ours: rules that choose routes by marks, and chains that
//! drop what they do not know.

use crate::id::Attachment;
use crate::op::Op;
use crate::overlay::Placement;
use crate::policy::Protocol;
use crate::ports::PortMapping;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// A rule of `ip rule` that looks at the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRule {
    /// Its priority.
    pub priority: u32,
    /// The mark it looks for.
    pub mark: u32,
    /// The bits it looks at.
    pub mask: u32,
}

impl MarkRule {
    /// Whether some value of `bits`, the others being 0, matches; a rule for mark 0 matches ordinary packets and
    /// is meant to.
    fn matches_some(self, bits: u32) -> bool {
        self.mark & bits != 0 && self.mark & self.mask & !bits == 0
    }
}

/// The rules that some packet of ours meets by its tag: inside, where the tag is shifted; and outside, where VXLAN
/// has it in the lowest bits until its route is found. A line each, with what to do.
#[must_use]
pub fn mark_collisions(rules: &[MarkRule], shift: u8) -> Vec<String> {
    let inside = 0xffff << shift;
    let hit = rules.iter().filter(|rule| rule.matches_some(inside) || rule.matches_some(0xffff));
    hit.map(|rule| {
        let MarkRule { priority, mark, mask } = rule;
        format!(
            "`ip rule` {priority} takes packets by fwmark {mark:#x}/{mask:#x}, bits in which weft has tags ({inside:#x}, and \
             0xffff of outer packets): some groups' packets are routed by it; use other bits there, or --mark-shift here"
        )
    })
    .collect()
}

/// Where a process of the host waits for what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which address; `None`: at all of them.
    pub address: Option<Ipv4Addr>,
    /// At which port.
    pub port: u16,
}

/// Mappings that go before a process of the host which listens at the same port. A line each.
#[must_use]
pub fn shadowed<'a>(
    listeners: &BTreeSet<Listener>,
    mapped: impl Iterator<Item = (&'a Attachment, &'a PortMapping)>,
) -> Vec<String> {
    let meets = |listener: &Listener, mapping: &PortMapping| {
        (listener.protocol, listener.port) == (mapping.protocol, mapping.host_port.get())
            && listener.address.is_none_or(|at| mapping.host_ip.is_none_or(|ip| ip == at))
    };
    mapped
        .filter(|(_, mapping)| listeners.iter().any(|listener| meets(listener, mapping)))
        .map(|(owner, mapping)| {
            format!(
                "{mapping} leads to {owner}; a process of this host listens there too and is not reached by that port"
            )
        })
        .collect()
}

/// A chain of somebody else's through which forwarded packets go, and that drops what it does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Family and name of the table, as `nft` writes them, such as `ip filter`; `iptables-legacy` for what nft does
    /// not show.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// All that its table says.
    pub text: String,
}

impl Forward {
    /// Whether its table speaks of our network or bridge: then somebody has thought of us. firewalld judges by the
    /// device that packets come from, so it has to know the VXLAN device too.
    fn knows(&self, placement: &Placement) -> bool {
        let names = |name: &str| self.text.contains(name);
        let devices = names(placement.bridge.as_str()) && (self.table != FIREWALLD || names(placement.vxlan.as_str()));
        devices || names(&placement.network.network().to_string())
    }
}

/// The table of the old kernel interface.
pub const LEGACY: &str = "iptables-legacy";

/// The table that firewalld writes whole at each reload (1.3.3).
const FIREWALLD: &str = "inet firewalld";

/// What lets workloads' packets through such chains, and what is left to a person: in iptables' own chain, which
/// everybody adds to, we accept what comes from our bridge and what goes there; in tables of a firewall nobody
/// but its owner should.
#[must_use]
pub fn plan_forward(chains: &[Forward], placement: &Placement) -> (Vec<Op>, Vec<String>) {
    let (mut ops, mut complaints) = (Vec::new(), Vec::new());
    let Placement { bridge, vxlan, port, .. } = placement;
    for chain in chains.iter().filter(|chain| !chain.knows(placement)) {
        let Forward { table, chain, .. } = chain;
        match table.as_str() {
            "ip filter" | LEGACY if chain == "FORWARD" => {
                ops.push(Op::AcceptForward { table: table.clone(), bridge: bridge.clone() });
            }
            // Its zone of the underlay takes no VXLAN either: our outer packets are nobody's connections.
            FIREWALLD => complaints.push(format!(
                "firewalld refuses what workloads send and receive; firewall-cmd --permanent --zone=trusted \
                 --add-interface={bridge} --add-interface={vxlan}; firewall-cmd --permanent --zone=<the underlay's> \
                 --add-port={port}/udp; \
                 firewall-cmd --reload"
            )),
            _ => complaints.push(format!(
                "chain {chain} of table {table} drops what it does not know, and does not know {bridge}: packets of \
                 workloads are lost; nft insert rule {table} {chain} iifname {bridge} accept; the same with oifname"
            )),
        }
    }
    (ops, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IfName;
    use crate::net::NetworkConfig;

    fn placement() -> Placement {
        let network = NetworkConfig::new("10.255.0.0/16".parse().unwrap(), None, None, None).unwrap();
        Placement {
            network,
            subnet: network.subnet(1).unwrap(),
            public_ip: "192.0.2.1".parse().unwrap(),
            underlay_index: 3,
            mtu: 1450,
            bridge: IfName::new("weft0").unwrap(),
            vxlan: IfName::new("weft-vx1").unwrap(),
            vni: 1,
            port: 8472,
            masquerade: true,
            mark_shift: 16,
            host_services: None,
        }
    }

    fn rule(mark: u32, mask: u32) -> MarkRule {
        MarkRule { priority: 100, mark, mask }
    }

    #[test]
    fn a_process_is_shadowed_where_a_mapping_takes_its_packets() {
        let owner = Attachment { container_id: "web-0".parse().unwrap(), ifname: IfName::new("eth0").unwrap() };
        let here: Ipv4Addr = "192.0.2.1".parse().unwrap();
        let mapping = |host_ip| PortMapping {
            protocol: Protocol::Tcp,
            host_ip,
            host_port: 8080.try_into().unwrap(),
            container_port: 80.try_into().unwrap(),
        };
        let listener = |protocol, address, port| Listener { protocol, address, port };
        let other: Ipv4Addr = "192.0.2.2".parse().unwrap();
        for (listener, host_ip, hit) in [
            (listener(Protocol::Tcp, None, 8080), None, true),
            (listener(Protocol::Tcp, None, 8080), Some(here), true),
            (listener(Protocol::Tcp, Some(here), 8080), None, true),
            (listener(Protocol::Tcp, Some(other), 8080), Some(here), false),
            (listener(Protocol::Udp, None, 8080), None, false),
            (listener(Protocol::Tcp, None, 80), None, false),
        ] {
            let mapping = mapping(host_ip);
            let found = shadowed(&BTreeSet::from([listener]), [(&owner, &mapping)].into_iter());
            assert_eq!(found.len(), usize::from(hit), "{listener:?} {host_ip:?}");
            assert!(found.iter().all(|text| text.contains("->80 leads to web-0/eth0;")), "{found:?}");
        }
    }

    #[test]
    fn only_rules_that_a_tag_can_meet_are_collisions() {
        for (mark, mask, hit) in [
            (0x10000, 0x10000, true),
            (0x0001_0000, u32::MAX, true),
            (0x4000, 0x4000, true),
            // Bits beside the tag that are never set with it.
            (0x0001_4000, 0x0001_4000, false),
            (0, 0x4000, false),
        ] {
            assert_eq!(mark_collisions(&[rule(mark, mask)], 16).len(), usize::from(hit), "{mark:#x}/{mask:#x}");
        }
        // With another shift the same bits are nobody's.
        assert!(mark_collisions(&[rule(0x0100_0000, 0x0100_0000)], 8).is_empty());
        let text = &mark_collisions(&[rule(0x10000, 0x30000)], 16)[0];
        assert!(text.contains("0x10000/0x30000") && text.contains("`ip rule` 100"), "{text}");
    }

    #[test]
    fn iptables_chain_gets_rules_and_a_firewalls_a_word() {
        let chain = |table: &str, chain: &str, text: &str| Forward {
            table: table.into(),
            chain: chain.into(),
            text: text.into(),
        };
        let (ops, complaints) = plan_forward(
            &[
                chain("ip filter", "FORWARD", ""),
                chain(LEGACY, "FORWARD", ""),
                chain("inet filter", "forward", ""),
                chain("inet firewalld", "filter_FORWARD", "iifname \"weft0\" goto filter_FWD_trusted"),
                chain("inet mine", "forward", "iifname \"weft0\" accept"),
                chain("inet other", "forward", "ip saddr 10.255.0.0/16 accept"),
            ],
            &placement(),
        );
        assert_eq!(ops.len(), 2);
        assert!(complaints[0].contains("nft insert rule inet filter forward iifname weft0 accept"), "{complaints:?}");
        let zone = "--zone=trusted --add-interface=weft0 --add-interface=weft-vx1; ";
        assert!(complaints[1].contains(zone) && complaints[1].contains("--add-port=8472/udp"), "{complaints:?}");
        assert_eq!(complaints.len(), 2);
    }
}
