//! Policy sets as map entries. Pure; `model::policy::evaluate` over the rules and the programs' look-ups
//! over the entries must agree (tests/differential.rs).
//!
//! Whatever can be decided now is: rules become ranks, the winner a tier stands under each key, ranges of
//! ports become disjoint prefixes, and what is said of a network stands under every network inside it.

use crate::error::DatapathError;
use crate::table::{Entries, Prefix};
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use weft_abi::{
    Candidate, CidrKey4, PolicyKey, PolicyValue, RangeKey, TIERS, direction, flag, peer, proto, tier, verdict,
};
use weft_model::compile::port_prefixes;
use weft_model::datapath::SetId;
use weft_model::policy::{Direction, Peer, PolicySet, Rule, Tier, Traffic, Verdict};

/// Ranges up to this many ports become one entry a port: an exact look-up is made anyway.
const FEW_PORTS: u16 = 8;

/// The entries of one policy set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) policies: Entries<PolicyKey, PolicyValue>,
    pub(crate) ranges: Entries<Prefix<RangeKey>, PolicyValue>,
    pub(crate) classes: Entries<Prefix<CidrKey4>, u32>,
    /// [`flag`]s of the endpoints that are judged by it.
    pub(crate) flags: u8,
}

/// A rule's index among the tiers and its word there.
type Word = (usize, u64);

/// Encodes a policy set.
pub(crate) fn encode(id: SetId, set: &PolicySet) -> Result<Encoded, DatapathError> {
    for rule in &set.rules {
        check(id, rule)?;
    }
    let words = words(&set.rules);
    let classes = Classes::of(&set.rules);
    let mut policies: HashMap<PolicyKey, PolicyValue> = HashMap::with_capacity(set.rules.len());
    let mut ranges: HashMap<PolicyKey, Vec<(RangeInclusive<u16>, Word)>> = HashMap::new();
    for (rule, word) in set.rules.iter().zip(words) {
        for key in keys(id, rule, &classes) {
            match rule.traffic.ports() {
                None => consider(policies.entry(key).or_default(), word),
                Some(ports) if is_exact(rule, &ports) => {
                    for port in ports {
                        consider(policies.entry(PolicyKey { port: port.to_be(), ..key }).or_default(), word);
                    }
                }
                Some(ports) => ranges.entry(key).or_default().push((ports, word)),
            }
        }
    }
    let mut encoded = Encoded { classes: classes.entries(id), flags: flags(&set.rules), ..Encoded::default() };
    for ((key, ranges), range_id) in ranges.into_iter().zip(1..) {
        policies.entry(key).or_default().range_id = range_id;
        encode_ranges(id, range_id, &ranges, &mut encoded.ranges);
    }
    for (key, value) in policies {
        encoded.policies.push(key, value);
    }
    Ok(encoded)
}

/// Refuses what the programs would not find: better no set than one that says less than it should.
fn check(set: SetId, rule: &Rule) -> Result<(), DatapathError> {
    let reason = match (rule.traffic, rule.direction, rule.peer) {
        (Traffic::Protocol(proto::ANY), ..) => "protocol 0 cannot be named alone",
        (_, Direction::Egress, Peer::Tag(_)) => "an egress rule cannot name a tag: a destination shows none",
        _ => return Ok(()),
    };
    Err(DatapathError::Rule { set, rule: rule.id, reason })
}

/// Each rule's word: its rank among all, what it says, its number.
fn words(rules: &[Rule]) -> Vec<Word> {
    let mut order: Vec<usize> = (0..rules.len()).collect();
    // Stable, so that rules of one rank (there should be none) keep the order in which they were written.
    order.sort_by_key(|index| rules[*index].rank());
    let mut words = vec![(0, 0); rules.len()];
    for (rank, index) in (1..=Candidate::MAX_RANK).zip(order) {
        let rule = &rules[index];
        let verdict = match rule.verdict {
            Verdict::Allow => verdict::ALLOW,
            Verdict::Deny => verdict::DENY,
            Verdict::Pass => verdict::PASS,
        };
        let tier = match rule.precedence.tier {
            Tier::Admin => tier::ADMIN,
            Tier::Policy => tier::POLICY,
            Tier::Baseline => tier::BASELINE,
        };
        words[index] = (tier, Candidate { rank, verdict, rule: rule.id }.pack());
    }
    words
}

fn consider(value: &mut PolicyValue, (tier, word): Word) {
    value.tiers[tier] = value.tiers[tier].max(word);
}

/// Whether each port gets an entry of its own. ICMP's types never do: the programs look for them among ranges.
fn is_exact(rule: &Rule, ports: &RangeInclusive<u16>) -> bool {
    matches!(rule.traffic, Traffic::Ports(..)) && ports.end() - ports.start() < FEW_PORTS
}

/// What the set's endpoints have to be asked about.
fn flags(rules: &[Rule]) -> u8 {
    let flag = |rule: &Rule| match (rule.direction, rule.precedence.tier) {
        (Direction::Egress, _) => flag::EGRESS_RULES,
        (Direction::Ingress, Tier::Policy) => 0,
        (Direction::Ingress, _) => flag::INGRESS_TIERS,
    };
    rules.iter().fold(0, |flags, rule| flags | flag(rule))
}

/// The rule's keys with port 0: one a peer it speaks of, under the names that the programs know.
fn keys(id: SetId, rule: &Rule, classes: &Classes) -> impl Iterator<Item = PolicyKey> + use<> {
    let names = match rule.peer {
        Peer::Any => vec![peer::ANY],
        Peer::Host => vec![peer::HOST],
        Peer::Node => vec![peer::NODE],
        Peer::Tag(tag) => vec![peer::tag(tag.get())],
        Peer::Cidr(network) => classes.inside(network).map(peer::class).collect(),
    };
    let key = PolicyKey {
        set: id.0,
        peer: 0,
        port: 0,
        proto: rule.traffic.protocol().unwrap_or(proto::ANY),
        direction: match rule.direction {
            Direction::Ingress => direction::INGRESS,
            Direction::Egress => direction::EGRESS,
        },
        reserved: 0,
    };
    names.into_iter().map(move |peer| PolicyKey { peer, ..key })
}

/// The networks that rules name, numbered from 1: addresses of one class have the same longest network.
struct Classes(BTreeMap<(u32, u8), u32>);

impl Classes {
    fn of(rules: &[Rule]) -> Self {
        let networks: BTreeSet<(u32, u8)> = rules
            .iter()
            .filter_map(|rule| match rule.peer {
                Peer::Cidr(network) => Some((u32::from(network.network()), network.prefix())),
                _ => None,
            })
            .collect();
        Self(networks.into_iter().zip(1..).collect())
    }

    /// The classes whose addresses are in `network`: in this order they stand together behind it.
    fn inside(&self, network: Ipv4Network) -> impl Iterator<Item = u32> + '_ {
        let first = (u32::from(network.network()), network.prefix());
        self.0.range(first..=(u32::from(network.broadcast()), 32)).map(|(_, class)| *class)
    }

    fn entries(&self, id: SetId) -> Entries<Prefix<CidrKey4>, u32> {
        let mut entries = Entries::default();
        for ((address, bits), class) in &self.0 {
            let data = CidrKey4 { set: id.0.to_be(), address: address.to_be() };
            entries.push(Prefix { bits: 32 + u32::from(*bits), data }, *class);
        }
        entries
    }
}

/// Overlapping ranges as disjoint prefixes, each with its winners: a trie finds the longest prefix, not the
/// highest precedence.
fn encode_ranges(
    id: SetId,
    range_id: u32,
    ranges: &[(RangeInclusive<u16>, Word)],
    entries: &mut Entries<Prefix<RangeKey>, PolicyValue>,
) {
    for (ports, tiers) in flatten(ranges) {
        for prefix in port_prefixes(ports) {
            let data =
                RangeKey { set: id.0.to_be(), range_id: range_id.to_be(), port: prefix.port.to_be(), reserved: 0 };
            let value = PolicyValue { tiers, ..PolicyValue::default() };
            entries.push(Prefix { bits: 64 + u32::from(prefix.prefix_len), data }, value);
        }
    }
}

/// Sweeps over the ports: disjoint ranges, ascending, with the winners of each.
fn flatten(ranges: &[(RangeInclusive<u16>, Word)]) -> Vec<(RangeInclusive<u16>, [u64; TIERS])> {
    let mut changes: BTreeMap<u32, Vec<(bool, Word)>> = BTreeMap::new();
    for (ports, word) in ranges {
        changes.entry(u32::from(*ports.start())).or_default().push((true, *word));
        changes.entry(u32::from(*ports.end()) + 1).or_default().push((false, *word));
    }
    let mut flat: Vec<(RangeInclusive<u16>, [u64; TIERS])> = Vec::new();
    let mut open = BTreeSet::new();
    let mut since = 0;
    for (port, changed) in changes {
        append(&mut flat, since, port, winners(&open));
        for (begins, word) in changed {
            if begins {
                open.insert(word)
            } else {
                open.remove(&word)
            };
        }
        since = port;
    }
    flat
}

fn winners(open: &BTreeSet<Word>) -> [u64; TIERS] {
    let greatest = |tier| open.range((tier, 0)..=(tier, u64::MAX)).next_back().map_or(0, |(_, word)| *word);
    std::array::from_fn(greatest)
}

/// Appends the ports from `since` to before `end`, joined to the last range if that has the same winners.
fn append(flat: &mut Vec<(RangeInclusive<u16>, [u64; TIERS])>, since: u32, end: u32, tiers: [u64; TIERS]) {
    let (Ok(first), Some(Ok(last))) = (u16::try_from(since), end.checked_sub(1).map(u16::try_from)) else { return };
    if first > last || tiers == [0; TIERS] {
        return;
    }
    match flat.last_mut() {
        Some((before, same)) if *same == tiers && u32::from(*before.end()) + 1 == since => {
            *before = *before.start()..=last;
        }
        _ => flat.push((first..=last, tiers)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::policy::{PortRange, Precedence, Transport};

    fn rule(id: u32, priority: u32, verdict: Verdict, traffic: Traffic) -> Rule {
        let precedence = Precedence::policy(priority);
        Rule { direction: Direction::Ingress, peer: Peer::Any, traffic, precedence, verdict, id }
    }

    fn tcp(start: u16, end: u16) -> Traffic {
        Traffic::Ports(Transport::Tcp, PortRange::new(start, end).unwrap())
    }

    fn set(rules: Vec<Rule>) -> PolicySet {
        PolicySet { isolated: true, hosts_may_reach: false, host_listed_only: false, rules }
    }

    fn one(encoded: &Encoded) -> PolicyValue {
        let [value] = encoded.policies.values[..] else { panic!("{encoded:?}") };
        value
    }

    fn word(rank: u32, verdict: u8, rule: u32) -> u64 {
        Candidate { rank, verdict, rule }.pack()
    }

    #[test]
    fn overlapping_ranges_are_cut_where_a_winner_changes() {
        let ranges = [(100..=200, (1, 5)), (150..=160, (1, 9)), (190..=300, (1, 3)), (160..=165, (0, 1))];
        assert_eq!(
            flatten(&ranges),
            [
                (100..=149, [0, 5, 0]),
                (150..=159, [0, 9, 0]),
                (160..=160, [1, 9, 0]),
                (161..=165, [1, 5, 0]),
                (166..=200, [0, 5, 0]),
                (201..=300, [0, 3, 0])
            ]
        );
    }

    #[test]
    fn a_range_up_to_the_last_port_ends_there() {
        assert_eq!(flatten(&[(0..=u16::MAX, (1, 1))]), [(0..=u16::MAX, [0, 1, 0])]);
        let encoded = encode(SetId(1), &set(vec![rule(1, 1, Verdict::Allow, tcp(1, 65535))])).unwrap();
        assert_eq!(encoded.ranges.keys.len(), 16);
    }

    #[test]
    fn few_ports_need_no_range_and_types_of_icmp_are_one() {
        let encoded = encode(SetId(1), &set(vec![rule(1, 1, Verdict::Allow, tcp(80, 87))])).unwrap();
        assert_eq!((encoded.policies.keys.len(), encoded.ranges.keys.len()), (8, 0));
        for (code, bits) in [(None, 72), (Some(0), 80)] {
            let rule = rule(1, 1, Verdict::Allow, Traffic::Icmp { kind: 0, code });
            let encoded = encode(SetId(1), &set(vec![rule])).unwrap();
            let [key] = encoded.ranges.keys[..] else { panic!("{encoded:?}") };
            assert_eq!((key.bits, key.data.port, one(&encoded).range_id), (bits, 0, 1));
        }
    }

    #[test]
    fn protocol_and_ranges_share_an_entry() {
        let rules = vec![rule(1, 5, Verdict::Deny, Traffic::Protocol(6)), rule(2, 9, Verdict::Allow, tcp(1000, 2000))];
        let value = one(&encode(SetId(1), &set(rules)).unwrap());
        assert_eq!((value.tiers, value.range_id), ([0, word(1, verdict::DENY, 1), 0], 1));
    }

    #[test]
    fn each_tier_has_its_winner() {
        let tier = |tier, rule: Rule| Rule { precedence: Precedence { tier, ..rule.precedence }, ..rule };
        let rules = vec![
            rule(1, 7, Verdict::Allow, Traffic::All),
            rule(2, 7, Verdict::Pass, Traffic::All),
            tier(Tier::Admin, rule(3, 1, Verdict::Deny, Traffic::All)),
            tier(Tier::Baseline, rule(4, 2, Verdict::Allow, Traffic::All)),
        ];
        let encoded = encode(SetId(1), &set(rules)).unwrap();
        let words = [word(1, verdict::DENY, 3), word(4, verdict::PASS, 2), word(2, verdict::ALLOW, 4)];
        assert_eq!((one(&encoded).tiers, encoded.flags), (words, flag::INGRESS_TIERS));
    }

    #[test]
    fn what_is_said_of_a_network_stands_under_those_inside_it() {
        let cidr = |id, text: &str| Rule {
            peer: Peer::Cidr(text.parse().unwrap()),
            ..rule(id, id, Verdict::Allow, Traffic::All)
        };
        // Host bits do not make another network.
        let rules = vec![cidr(1, "10.0.0.0/8"), cidr(3, "10.1.2.3/16"), cidr(2, "10.1.0.0/24"), cidr(4, "11.0.0.0/8")];
        let encoded = encode(SetId(1), &set(rules)).unwrap();
        let winner = |class| {
            let index = encoded.policies.keys.iter().position(|key| key.peer == peer::class(class)).unwrap();
            Candidate::unpack(encoded.policies.values[index].tiers[tier::POLICY]).rule
        };
        // In order of their addresses: 10/8, 10.1/16, 10.1.0/24, 11/8.
        assert_eq!([1, 2, 3, 4].map(winner), [1, 3, 3, 4]);
        assert_eq!(encoded.classes.keys.iter().map(|key| key.bits).collect::<Vec<_>>(), [40, 48, 56, 40]);
    }

    #[test]
    fn what_the_programs_would_not_find_is_refused() {
        let error = |rule| encode(SetId(7), &set(vec![rule])).unwrap_err().to_string();
        assert_eq!(
            error(rule(3, 1, Verdict::Allow, Traffic::Protocol(0))),
            "rule 3 of policy set 7: protocol 0 cannot be named alone"
        );
        let tag = Peer::Tag(weft_model::id::Tag::new(9).unwrap());
        let egress = Rule { direction: Direction::Egress, peer: tag, ..rule(4, 1, Verdict::Deny, Traffic::All) };
        assert_eq!(error(egress), "rule 4 of policy set 7: an egress rule cannot name a tag: a destination shows none");
    }
}
