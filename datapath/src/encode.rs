//! Policy sets as map entries. Pure; `model::policy::judge` over the rules and the programs' look-ups
//! over the entries must agree (tests/differential.rs).

use crate::error::DatapathError;
use ipnetwork::Ipv4Network;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use weft_abi::{CidrKey4, PolicyKey, PolicyValue, RangeKey, direction, peer, proto, verdict};
use weft_model::compile::port_prefixes;
use weft_model::datapath::SetId;
use weft_model::policy::{Direction, Peer, PolicySet, PortRange, Rule, Traffic, Verdict};

/// Ranges up to this many ports become one entry a port: an exact look-up is made anyway.
const FEW_PORTS: u16 = 8;

/// The entries of one policy set. Trie keys come with the number of bits that count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) policies: BTreeMap<PolicyKey, PolicyValue>,
    pub(crate) ranges: BTreeMap<(RangeKey, u32), PolicyValue>,
    pub(crate) classes: BTreeMap<(CidrKey4, u32), u32>,
}

/// Port ranges of one (direction, peer, protocol).
type Ranges<'a> = BTreeMap<PolicyKey, Vec<(PortRange, &'a Rule)>>;

/// Encodes a policy set.
pub(crate) fn encode(id: SetId, set: &PolicySet) -> Result<Encoded, DatapathError> {
    let mut encoded = Encoded::default();
    let classes = classes(&set.rules);
    for (network, class) in &classes {
        let key = CidrKey4 { set: id.0.to_be(), address: u32::from(network.network()).to_be() };
        encoded.classes.insert((key, 32 + u32::from(network.prefix())), *class);
    }
    let mut winners: BTreeMap<PolicyKey, &Rule> = BTreeMap::new();
    let mut ranges: Ranges<'_> = BTreeMap::new();
    for rule in &set.rules {
        let key = key(id, rule, &classes);
        for port in match rule.traffic {
            Traffic::All => 0..=0,
            Traffic::Protocol(proto::ANY) => {
                return Err(DatapathError::Rule { set: id, rule: rule.id, reason: "protocol 0 cannot be named alone" });
            }
            Traffic::Protocol(_) => 0..=0,
            Traffic::Ports(_, ports) if ports.end() - ports.start() < FEW_PORTS => ports.start()..=ports.end(),
            Traffic::Ports(_, ports) => {
                ranges.entry(key).or_default().push((ports, rule));
                continue;
            }
        } {
            let winner = winners.entry(PolicyKey { port: port.to_be(), ..key }).or_insert(rule);
            if rank(rule) > rank(winner) {
                *winner = rule;
            }
        }
    }
    encoded.policies = winners.into_iter().map(|(key, rule)| (key, value(rule))).collect();
    for ((key, ranges), range_id) in ranges.into_iter().zip(1..) {
        let none = PolicyValue { precedence: 0, rule: 0, range_id, verdict: verdict::NONE, reserved: [0; 3] };
        encoded.policies.entry(key).or_insert(none).range_id = range_id;
        encode_ranges(id, range_id, &ranges, &mut encoded);
    }
    Ok(encoded)
}

/// Numbers the networks that rules name, from 1.
fn classes(rules: &[Rule]) -> BTreeMap<Ipv4Network, u32> {
    let networks: BTreeSet<Ipv4Network> = rules
        .iter()
        .filter_map(|rule| match rule.peer {
            Peer::Cidr(network) => Some(canonical(network)),
            _ => None,
        })
        .collect();
    networks.into_iter().zip(1..).collect()
}

/// The network without host bits.
fn canonical(network: Ipv4Network) -> Ipv4Network {
    Ipv4Network::new(network.network(), network.prefix()).unwrap_or(network)
}

/// The rule's key with port 0.
fn key(id: SetId, rule: &Rule, classes: &BTreeMap<Ipv4Network, u32>) -> PolicyKey {
    PolicyKey {
        set: id.0,
        peer: match rule.peer {
            Peer::Any => peer::ANY,
            Peer::Host => peer::HOST,
            Peer::Node => peer::NODE,
            Peer::Tag(tag) => peer::tag(tag.get()),
            Peer::Cidr(network) => peer::class(classes.get(&canonical(network)).copied().unwrap_or_default()),
        },
        port: 0,
        proto: match rule.traffic {
            Traffic::All => proto::ANY,
            Traffic::Protocol(number) => number,
            Traffic::Ports(protocol, _) => protocol.number(),
        },
        direction: match rule.direction {
            Direction::Ingress => direction::INGRESS,
            Direction::Egress => direction::EGRESS,
        },
        reserved: 0,
    }
}

/// The greatest wins: by precedence, then denying, then the lowest number.
fn rank(rule: &Rule) -> (u32, bool, Reverse<u32>) {
    (rule.precedence, rule.verdict == Verdict::Deny, Reverse(rule.id))
}

fn value(rule: &Rule) -> PolicyValue {
    PolicyValue {
        precedence: rule.precedence,
        rule: rule.id,
        range_id: 0,
        verdict: match rule.verdict {
            Verdict::Allow => verdict::ALLOW,
            Verdict::Deny => verdict::DENY,
        },
        reserved: [0; 3],
    }
}

/// Overlapping ranges as disjoint prefixes, each with its winner: a trie finds the longest prefix,
/// not the highest precedence.
fn encode_ranges(id: SetId, range_id: u32, ranges: &[(PortRange, &Rule)], encoded: &mut Encoded) {
    for (ports, rule) in flatten(ranges) {
        for prefix in port_prefixes(ports) {
            let key =
                RangeKey { set: id.0.to_be(), range_id: range_id.to_be(), port: prefix.port.to_be(), reserved: 0 };
            encoded.ranges.insert((key, 64 + u32::from(prefix.prefix_len)), value(rule));
        }
    }
}

/// Sweeps over the ports: disjoint ranges, ascending, with the winner of each.
fn flatten<'a>(ranges: &[(PortRange, &'a Rule)]) -> Vec<(PortRange, &'a Rule)> {
    let mut changes: BTreeMap<u32, Vec<(bool, usize)>> = BTreeMap::new();
    for (index, (ports, _)) in ranges.iter().enumerate() {
        changes.entry(u32::from(ports.start())).or_default().push((true, index));
        changes.entry(u32::from(ports.end()) + 1).or_default().push((false, index));
    }
    let mut flat: Vec<(PortRange, &Rule)> = Vec::new();
    let mut open = BTreeSet::new();
    let mut since = 0;
    for (port, changed) in changes {
        let winner = open.last().map(|(_, index): &(_, usize)| ranges[*index].1);
        if let Some(rule) = winner {
            append(&mut flat, since, port - 1, rule);
        }
        for (begins, index) in changed {
            let entry = (rank(ranges[index].1), index);
            if begins {
                open.insert(entry)
            } else {
                open.remove(&entry)
            };
        }
        since = port;
    }
    flat
}

/// Appends a range, joined to the last one if that has the same winner.
fn append<'a>(flat: &mut Vec<(PortRange, &'a Rule)>, first: u32, last: u32, rule: &'a Rule) {
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else { return };
    let joined = match flat.last() {
        Some((before, winner)) if std::ptr::eq(*winner, rule) && before.end() + 1 == first => {
            PortRange::new(before.start(), last)
        }
        _ => None,
    };
    if let Some(joined) = joined {
        flat.pop();
        flat.push((joined, rule));
    } else if let Some(ports) = PortRange::new(first, last) {
        flat.push((ports, rule));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::policy::Protocol;

    fn rule(id: u32, precedence: u32, verdict: Verdict, traffic: Traffic) -> Rule {
        Rule { direction: Direction::Ingress, peer: Peer::Any, traffic, precedence, verdict, id }
    }

    fn tcp(start: u16, end: u16) -> Traffic {
        Traffic::Ports(Protocol::Tcp, PortRange::new(start, end).unwrap())
    }

    fn set(rules: Vec<Rule>) -> PolicySet {
        PolicySet { isolated: true, hosts_may_reach: false, host_listed_only: false, rules }
    }

    #[test]
    fn overlapping_ranges_are_cut_where_the_winner_changes() {
        let low = rule(1, 1, Verdict::Allow, tcp(100, 200));
        let high = rule(2, 2, Verdict::Deny, tcp(150, 160));
        let same = rule(3, 1, Verdict::Allow, tcp(190, 300));
        let ranges = [low, high, same].map(|rule| match rule.traffic {
            Traffic::Ports(_, ports) => (ports, rule),
            _ => unreachable!(),
        });
        let ranges: Vec<_> = ranges.iter().map(|(ports, rule)| (*ports, rule)).collect();
        let flat: Vec<_> = flatten(&ranges).iter().map(|(p, r)| (p.start(), p.end(), r.id)).collect();
        assert_eq!(flat, [(100, 149, 1), (150, 160, 2), (161, 200, 1), (201, 300, 3)]);
    }

    #[test]
    fn a_range_up_to_the_last_port_ends_there() {
        let all = rule(1, 1, Verdict::Allow, tcp(1, 65535));
        let ports = PortRange::new(1, 65535).unwrap();
        assert_eq!(flatten(&[(ports, &all)]).len(), 1);
        let encoded = encode(SetId(1), &set(vec![all])).unwrap();
        assert_eq!(encoded.ranges.len(), 16);
    }

    #[test]
    fn few_ports_need_no_range() {
        let encoded = encode(SetId(1), &set(vec![rule(1, 1, Verdict::Allow, tcp(80, 87))])).unwrap();
        assert_eq!((encoded.policies.len(), encoded.ranges.len()), (8, 0));
    }

    #[test]
    fn protocol_and_ranges_share_an_entry() {
        let rules = vec![rule(1, 5, Verdict::Deny, Traffic::Protocol(6)), rule(2, 9, Verdict::Allow, tcp(1000, 2000))];
        let encoded = encode(SetId(1), &set(rules)).unwrap();
        let [value] = encoded.policies.values().copied().collect::<Vec<_>>()[..] else { panic!("{encoded:?}") };
        assert_eq!((value.verdict, value.rule, value.range_id), (verdict::DENY, 1, 1));
    }

    #[test]
    fn protocol_zero_is_refused() {
        let error = encode(SetId(7), &set(vec![rule(3, 1, Verdict::Allow, Traffic::Protocol(0))])).unwrap_err();
        assert_eq!(error.to_string(), "rule 3 of policy set 7: protocol 0 cannot be named alone");
    }
}
