//! The reference semantics: the table "who may reach a workload" (docs/policies.md), and tiers of rules.

use super::Isolation;
use super::rule::{Direction, Peer, PolicySet, Rule, Tier, Verdict};
use crate::id::Tag;
use std::net::Ipv4Addr;

/// The other side of a connection, as a packet shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// The workload itself, through a service address.
    Itself,
    /// The workload's own host (a process there: kubelet, health checks).
    OwnHost,
    /// Through a mapped port: the outside that comes in by one of the workload's, or the workload's own host
    /// reached at one, behind which a workload stands that is judged at its own door.
    Mapped,
    /// Another weft host's own address.
    OtherHost,
    /// A workload, or anything, that bears a tag.
    Tagged(Tag),
    /// An untagged workload of a weft host: it has no identity. Also whatever workload a connection goes *to*.
    Nobody,
    /// Any other address: unmanaged peers, the outside.
    Address(Ipv4Addr),
}

/// The outcome for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// Whether it may be.
    pub allowed: bool,
    /// For what reason.
    pub why: Why,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A workload always reaches itself.
    Itself,
    /// A host always reaches its workloads.
    OwnHost,
    /// A port of the host is mapped to the workload.
    Mapped,
    /// Other hosts may reach the workload, by configuration.
    HostsMayReach,
    /// The rule of this number.
    Rule(u32),
    /// No rule says no, and nothing asks for a yes: the workload is not isolated, or opens the connection
    /// itself, or its owners' policies passed.
    Open,
    /// No owners' rule says anything, and the workload is isolated.
    Isolated,
    /// The workload may open connections to its own host only where a rule says so, and none does.
    HostNotListed,
}

impl Why {
    /// Its name in explanations and records.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::OwnHost => "own-host",
            Self::Mapped => "mapped",
            Self::HostsMayReach => "hosts-may-reach",
            Self::Rule(_) => "rule",
            Self::Open => "open",
            Self::Isolated => "isolated",
            Self::HostNotListed => "host-access",
        }
    }
}

impl Ruling {
    const fn allow(why: Why) -> Self {
        Self { allowed: true, why }
    }

    const fn deny(why: Why) -> Self {
        Self { allowed: false, why }
    }

    /// The number of the rule that decided; 0: none did.
    #[must_use]
    pub const fn rule(&self) -> u32 {
        match self.why {
            Why::Rule(id) => id,
            _ => 0,
        }
    }
}

/// Whether a workload is isolated, given whether some policy names its group as destination.
#[must_use]
pub fn isolated(mode: Isolation, group_is_destination: bool) -> bool {
    match mode {
        Isolation::Always => true,
        Isolation::Selected => group_is_destination,
        Isolation::Never => false,
    }
}

/// Judges a new connection to (or from) the workload. `port` is the one asked for; for ICMP
/// [`super::icmp_port`], for protocols without ports 0.
#[must_use]
pub fn evaluate(set: &PolicySet, direction: Direction, remote: Remote, proto: u8, port: u16) -> Ruling {
    if remote == Remote::Mapped {
        return Ruling::allow(Why::Mapped);
    }
    if direction == Direction::Ingress {
        match remote {
            Remote::Itself => return Ruling::allow(Why::Itself),
            Remote::OwnHost => return Ruling::allow(Why::OwnHost),
            Remote::OtherHost if set.hosts_may_reach => return Ruling::allow(Why::HostsMayReach),
            _ => {}
        }
    }
    let matches =
        |rule: &&Rule| rule.direction == direction && rule.traffic.covers(proto, port) && speaks_of(rule.peer, remote);
    for tier in Tier::ALL {
        let owners_ingress = tier == Tier::Policy && direction == Direction::Ingress;
        if owners_ingress && !set.isolated {
            continue;
        }
        let of_tier = set.rules.iter().filter(|rule| rule.precedence.tier == tier);
        match of_tier.filter(matches).max_by_key(|rule| rule.rank()) {
            Some(Rule { verdict: Verdict::Allow, id, .. }) => return Ruling::allow(Why::Rule(*id)),
            Some(Rule { verdict: Verdict::Deny, id, .. }) => return Ruling::deny(Why::Rule(*id)),
            Some(Rule { verdict: Verdict::Pass, .. }) => {}
            None if owners_ingress => return Ruling::deny(Why::Isolated),
            None => {}
        }
    }
    match direction {
        Direction::Egress if set.host_listed_only && remote == Remote::OwnHost => Ruling::deny(Why::HostNotListed),
        _ => Ruling::allow(Why::Open),
    }
}

fn speaks_of(peer: Peer, remote: Remote) -> bool {
    match (peer, remote) {
        (Peer::Any, _) | (Peer::Host, Remote::OwnHost) | (Peer::Node, Remote::OtherHost) => true,
        (Peer::Tag(tag), Remote::Tagged(bearer)) => tag == bearer,
        (Peer::Cidr(network), Remote::Address(address)) => network.contains(address),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::PortRange;
    use super::super::rule::{Precedence, Traffic, Transport, icmp_port};
    use super::*;

    fn tag(number: u16) -> Tag {
        Tag::new(number).unwrap()
    }

    fn rule(id: u32, precedence: Precedence, peer: Peer, verdict: Verdict) -> Rule {
        let traffic = Traffic::Ports(Transport::Tcp, PortRange::new(80, 90).unwrap());
        Rule { direction: Direction::Ingress, peer, traffic, precedence, verdict, id }
    }

    fn set(isolated: bool, rules: Vec<Rule>) -> PolicySet {
        PolicySet { isolated, hosts_may_reach: false, host_listed_only: true, rules }
    }

    fn allow_seven() -> Rule {
        rule(1, Precedence::policy(1), Peer::Tag(tag(7)), Verdict::Allow)
    }

    fn into(set: &PolicySet, remote: Remote) -> (bool, Why) {
        let Ruling { allowed, why } = evaluate(set, Direction::Ingress, remote, 6, 80);
        (allowed, why)
    }

    const OUTSIDE: Remote = Remote::Address(Ipv4Addr::new(192, 0, 2, 1));
    const ADMIN: Precedence = Precedence { tier: Tier::Admin, priority: 1 };
    const BASELINE: Precedence = Precedence { tier: Tier::Baseline, priority: 1 };

    #[test]
    fn the_matrix_for_an_isolated_workload() {
        let set = set(true, vec![allow_seven()]);
        let seven = Remote::Tagged(tag(7));
        let cases = [
            (Remote::Itself, 6, 1, true),
            (Remote::OwnHost, 6, 1, true),
            (Remote::Mapped, 6, 1, true),
            (Remote::OtherHost, 6, 80, false),
            (seven, 6, 80, true),
            (seven, 6, 90, true),
            (seven, 6, 91, false),
            (seven, 17, 80, false),
            (seven, 132, 80, false),
            (seven, 1, icmp_port(8, 0), false),
            (Remote::Tagged(tag(8)), 6, 80, false),
            (Remote::Nobody, 6, 80, false),
            (OUTSIDE, 6, 80, false),
        ];
        for (remote, proto, port, want) in cases {
            let ruling = evaluate(&set, Direction::Ingress, remote, proto, port);
            assert_eq!(ruling.allowed, want, "{remote:?} {proto} {port}");
        }
        assert_eq!(into(&set, seven), (true, Why::Rule(1)));
        assert_eq!(into(&set, Remote::Nobody), (false, Why::Isolated));
    }

    #[test]
    fn everybody_reaches_a_workload_that_is_not_isolated() {
        let deny = rule(1, Precedence::policy(1), Peer::Any, Verdict::Deny);
        for remote in [Remote::OtherHost, Remote::Nobody, OUTSIDE] {
            assert_eq!(into(&set(false, vec![deny]), remote), (true, Why::Open));
        }
    }

    #[test]
    fn administrators_are_asked_before_and_after_the_owners() {
        let seven = Remote::Tagged(tag(7));
        let admin = |verdict| rule(2, ADMIN, Peer::Any, verdict);
        let baseline = |verdict| rule(3, BASELINE, Peer::Any, verdict);
        let owner = allow_seven();
        for isolated in [false, true] {
            let deny = set(isolated, vec![owner, admin(Verdict::Deny)]);
            assert_eq!(into(&deny, seven), (false, Why::Rule(2)));
            let allow = set(isolated, vec![admin(Verdict::Allow), baseline(Verdict::Deny)]);
            assert_eq!(into(&allow, Remote::Nobody), (true, Why::Rule(2)));
        }
        // Whoever is isolated refuses what owners do not name, and the defaults are not asked.
        let allow = baseline(Verdict::Allow);
        assert_eq!(into(&set(true, vec![allow]), Remote::Nobody), (false, Why::Isolated));
        assert_eq!(into(&set(false, vec![baseline(Verdict::Deny)]), Remote::Nobody), (false, Why::Rule(3)));
    }

    #[test]
    fn passing_leaves_it_to_the_next_tier_whatever_the_rest_of_the_tier_says() {
        let seven = Remote::Tagged(tag(7));
        let high = Precedence { priority: 9, ..ADMIN };
        let rules = vec![
            rule(1, ADMIN, Peer::Any, Verdict::Deny),
            rule(2, high, Peer::Tag(tag(7)), Verdict::Pass),
            rule(3, Precedence::policy(1), Peer::Tag(tag(7)), Verdict::Allow),
        ];
        assert_eq!(into(&set(true, rules.clone()), seven), (true, Why::Rule(3)));
        assert_eq!(into(&set(true, rules.clone()), Remote::Tagged(tag(8))), (false, Why::Rule(1)));
        assert_eq!(into(&set(true, rules[..2].to_vec()), seven), (false, Why::Isolated));
        // An owners' rule may pass to the defaults too.
        let rules = vec![
            rule(1, Precedence::policy(1), Peer::Any, Verdict::Pass),
            rule(2, BASELINE, Peer::Tag(tag(7)), Verdict::Deny),
        ];
        assert_eq!(into(&set(true, rules.clone()), seven), (false, Why::Rule(2)));
        assert_eq!(into(&set(true, rules), Remote::Nobody), (true, Why::Open));
    }

    #[test]
    fn networks_may_overlap_and_precedence_decides() {
        let wide = |verdict, priority| {
            rule(1, Precedence::policy(priority), Peer::Cidr("192.0.0.0/8".parse().unwrap()), verdict)
        };
        let narrow = |verdict| rule(2, Precedence::policy(1), Peer::Cidr("192.0.2.0/24".parse().unwrap()), verdict);
        assert_eq!(into(&set(true, vec![wide(Verdict::Allow, 1)]), OUTSIDE), (true, Why::Rule(1)));
        let both = vec![wide(Verdict::Allow, 1), narrow(Verdict::Deny)];
        assert_eq!(into(&set(true, both), OUTSIDE), (false, Why::Rule(2)));
        let both = vec![wide(Verdict::Allow, 2), narrow(Verdict::Deny)];
        assert_eq!(into(&set(true, both), OUTSIDE), (true, Why::Rule(1)));
        let both = vec![wide(Verdict::Deny, 1), narrow(Verdict::Allow)];
        assert_eq!(into(&set(true, both), OUTSIDE), (false, Why::Rule(1)));
        // Whoever bears a tag is no address.
        assert_eq!(into(&set(true, vec![wide(Verdict::Allow, 1)]), Remote::Nobody), (false, Why::Isolated));
    }

    #[test]
    fn egress_is_open_but_for_the_own_host_and_what_rules_say() {
        let out = |rules: Vec<Rule>, remote| evaluate(&set(true, rules), Direction::Egress, remote, 6, 80).why;
        assert_eq!(out(vec![], Remote::Nobody), Why::Open);
        assert_eq!(out(vec![], Remote::OwnHost), Why::HostNotListed);
        let egress = |peer, verdict| Rule { direction: Direction::Egress, ..rule(1, BASELINE, peer, verdict) };
        assert_eq!(out(vec![egress(Peer::Host, Verdict::Allow)], Remote::OwnHost), Why::Rule(1));
        assert_eq!(out(vec![egress(Peer::Any, Verdict::Pass)], Remote::OwnHost), Why::HostNotListed);
        assert_eq!(out(vec![egress(Peer::Any, Verdict::Deny)], OUTSIDE), Why::Rule(1));
    }

    #[test]
    fn deny_wins_over_pass_over_allow_then_the_lowest_number() {
        let seven = Remote::Tagged(tag(7));
        let one = |id, verdict| rule(id, Precedence::policy(1), Peer::Any, verdict);
        let rules = vec![allow_seven(), one(2, Verdict::Pass), one(3, Verdict::Deny), one(4, Verdict::Deny)];
        assert_eq!(into(&set(true, rules.clone()), seven), (false, Why::Rule(3)));
        assert_eq!(into(&set(true, rules[..2].to_vec()), seven), (true, Why::Open));
    }
}
