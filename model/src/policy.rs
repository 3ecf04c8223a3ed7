//! Policies, rules, and the reference semantics every other part is held against.

use crate::id::{GroupId, Tag};
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// A transport protocol that has ports, as CF's policy API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IANA's protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports `start` to `end`, both included, 1 ≤ start ≤ end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    start: u16,
    end: u16,
}

impl PortRange {
    /// `None` unless 1 ≤ `start` ≤ `end`.
    #[must_use]
    pub const fn new(start: u16, end: u16) -> Option<Self> {
        if start == 0 || start > end { None } else { Some(Self { start, end }) }
    }

    /// The first port.
    #[must_use]
    pub const fn start(self) -> u16 {
        self.start
    }

    /// The last port.
    #[must_use]
    pub const fn end(self) -> u16 {
        self.end
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.start <= port && port <= self.end
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// What an operator allows: `source` may open connections to `destination`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Policy {
    /// Who connects.
    pub source: GroupId,
    /// Who is connected to.
    pub destination: GroupId,
    /// Over what.
    pub protocol: Protocol,
    /// To which ports.
    pub ports: PortRange,
}

/// Direction of a connection as the judged workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Opened by the other side.
    Ingress,
    /// Opened by the workload.
    Egress,
}

/// Whom a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Everybody.
    Any,
    /// The workload's own host.
    Host,
    /// Another weft host's own address in the overlay.
    Node,
    /// Bearers of a tag.
    Tag(Tag),
    /// Untagged addresses of a network; the most specific one named in the policy set counts.
    Cidr(Ipv4Network),
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Refuse.
    Deny,
    /// Let through.
    Allow,
}

/// Which packets of a peer a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// All of it, any protocol.
    All,
    /// One IP protocol, any port.
    Protocol(u8),
    /// Ports of a protocol that has them.
    Ports(Protocol, PortRange),
}

impl Traffic {
    /// Whether a packet of protocol `proto` to `port` is meant.
    #[must_use]
    pub fn covers(self, proto: u8, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Protocol(number) => number == proto,
            Self::Ports(protocol, ports) => protocol.number() == proto && ports.contains(port),
        }
    }
}

/// One rule of a policy set. The highest precedence that matches wins; at equal precedence,
/// denying wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Connections of which direction.
    pub direction: Direction,
    /// Whom.
    pub peer: Peer,
    /// What.
    pub traffic: Traffic,
    /// The higher wins.
    pub precedence: u32,
    /// And then.
    pub verdict: Verdict,
    /// Number of the rule in records and explanations; not 0.
    pub id: u32,
}

/// The other side of a connection, as a packet shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// The workload itself, through a service address.
    Itself,
    /// The workload's own host (a process there: kubelet, health checks).
    OwnHost,
    /// Another weft host's own address.
    OtherHost,
    /// A workload, or anything, that bears a tag.
    Tagged(Tag),
    /// An untagged workload of a weft host: it has no identity.
    Nobody,
    /// Any other address: unmanaged peers, the outside.
    Address(Ipv4Addr),
}

/// Whom an isolated workload protects itself against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Everybody is judged by policy.
    Always,
    /// By policy as soon as some policy names the workload's group as destination.
    Selected,
    /// Nobody is judged.
    Never,
}

/// How one endpoint is judged: the inputs of [`judge`] besides the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySet {
    /// Whether sources are judged at all (see [`isolated`]).
    pub isolated: bool,
    /// Whether other weft hosts' own addresses may always reach the workload.
    pub hosts_may_reach: bool,
    /// Whether the workload may open connections to its own host only by an egress rule.
    pub host_listed_only: bool,
    /// The rules.
    pub rules: Vec<Rule>,
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

/// The verdict on a connection to (or from) the workload, and the rule that decided, 0 if none:
/// DESIGN's table "who may reach a workload".
#[must_use]
pub fn judge(set: &PolicySet, direction: Direction, remote: Remote, proto: u8, port: u16) -> (Verdict, u32) {
    match direction {
        Direction::Ingress => judge_ingress(set, remote, proto, port),
        Direction::Egress => judge_egress(set, remote, proto, port),
    }
}

fn judge_ingress(set: &PolicySet, remote: Remote, proto: u8, port: u16) -> (Verdict, u32) {
    let open = match remote {
        Remote::Itself | Remote::OwnHost => true,
        Remote::OtherHost => set.hosts_may_reach || !set.isolated,
        Remote::Tagged(_) | Remote::Nobody | Remote::Address(_) => !set.isolated,
    };
    if open {
        return (Verdict::Allow, 0);
    }
    decide(set, Direction::Ingress, remote, proto, port).unwrap_or((Verdict::Deny, 0))
}

fn judge_egress(set: &PolicySet, remote: Remote, proto: u8, port: u16) -> (Verdict, u32) {
    let otherwise = match remote {
        Remote::OwnHost if set.host_listed_only => Verdict::Deny,
        _ => Verdict::Allow,
    };
    decide(set, Direction::Egress, remote, proto, port).unwrap_or((otherwise, 0))
}

/// The winner among the rules that match.
fn decide(set: &PolicySet, direction: Direction, remote: Remote, proto: u8, port: u16) -> Option<(Verdict, u32)> {
    let named = longest_named(&set.rules, remote);
    set.rules
        .iter()
        .filter(|rule| rule.direction == direction && rule.traffic.covers(proto, port))
        .filter(|rule| speaks_of(rule.peer, remote, named))
        .max_by_key(|rule| (rule.precedence, rule.verdict == Verdict::Deny, std::cmp::Reverse(rule.id)))
        .map(|rule| (rule.verdict, rule.id))
}

fn speaks_of(peer: Peer, remote: Remote, named: Option<Ipv4Network>) -> bool {
    match peer {
        Peer::Any => true,
        Peer::Host => remote == Remote::OwnHost,
        Peer::Node => remote == Remote::OtherHost,
        Peer::Tag(tag) => remote == Remote::Tagged(tag),
        Peer::Cidr(network) => named == Some(network),
    }
}

/// The longest network named by any rule of the set that holds the remote address.
fn longest_named(rules: &[Rule], remote: Remote) -> Option<Ipv4Network> {
    let Remote::Address(address) = remote else {
        return None;
    };
    rules
        .iter()
        .filter_map(|rule| match rule.peer {
            Peer::Cidr(network) if network.contains(address) => Some(network),
            _ => None,
        })
        .max_by_key(|network| network.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(isolated: bool) -> PolicySet {
        PolicySet {
            isolated,
            hosts_may_reach: false,
            host_listed_only: true,
            rules: vec![Rule {
                direction: Direction::Ingress,
                peer: Peer::Tag(Tag::new(7).unwrap()),
                traffic: Traffic::Ports(Protocol::Tcp, PortRange::new(80, 90).unwrap()),
                precedence: 1,
                verdict: Verdict::Allow,
                id: 1,
            }],
        }
    }

    #[test]
    fn the_matrix_for_an_isolated_workload() {
        let set = set(true);
        let seven = Remote::Tagged(Tag::new(7).unwrap());
        let cases = [
            (Remote::Itself, 6, 1, Verdict::Allow),
            (Remote::OwnHost, 6, 1, Verdict::Allow),
            (Remote::OtherHost, 6, 80, Verdict::Deny),
            (seven, 6, 80, Verdict::Allow),
            (seven, 6, 90, Verdict::Allow),
            (seven, 6, 91, Verdict::Deny),
            (seven, 17, 80, Verdict::Deny),
            (Remote::Tagged(Tag::new(8).unwrap()), 6, 80, Verdict::Deny),
            (Remote::Nobody, 6, 80, Verdict::Deny),
            (Remote::Address(Ipv4Addr::new(192, 0, 2, 1)), 6, 80, Verdict::Deny),
        ];
        for (remote, proto, port, want) in cases {
            assert_eq!(judge(&set, Direction::Ingress, remote, proto, port).0, want, "{remote:?} {proto} {port}");
        }
    }

    #[test]
    fn everybody_reaches_a_workload_that_is_not_isolated() {
        for remote in [Remote::OtherHost, Remote::Nobody, Remote::Address(Ipv4Addr::LOCALHOST)] {
            assert_eq!(judge(&set(false), Direction::Ingress, remote, 6, 1).0, Verdict::Allow);
        }
    }

    #[test]
    fn egress_is_open_but_for_the_own_host() {
        let set = set(true);
        assert_eq!(judge(&set, Direction::Egress, Remote::Nobody, 6, 1).0, Verdict::Allow);
        assert_eq!(judge(&set, Direction::Egress, Remote::OwnHost, 6, 22).0, Verdict::Deny);
    }

    #[test]
    fn deny_wins_at_equal_precedence() {
        let mut set = set(true);
        set.rules.push(Rule { verdict: Verdict::Deny, id: 2, peer: Peer::Any, ..set.rules[0] });
        let seven = Remote::Tagged(Tag::new(7).unwrap());
        assert_eq!(judge(&set, Direction::Ingress, seven, 6, 80), (Verdict::Deny, 2));
    }

    #[test]
    fn port_ranges_refuse_zero_and_reversal() {
        assert!(PortRange::new(0, 5).is_none());
        assert!(PortRange::new(6, 5).is_none());
        assert!(PortRange::new(65535, 65535).is_some());
    }
}
