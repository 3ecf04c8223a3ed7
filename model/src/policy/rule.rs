//! Rules: what policies of any origin are compiled to, and what the data plane knows.

use super::{PortRange, Protocol};
use crate::id::Tag;
use ipnetwork::Ipv4Network;
use std::cmp::Reverse;
use std::fmt;
use std::ops::RangeInclusive;

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
    /// The workload's own host; in egress rules, as nothing keeps it from its workloads.
    Host,
    /// Another weft host's own address in the overlay.
    Node,
    /// Bearers of a tag; in ingress rules, as the source's host does not know whom an address belongs to.
    Tag(Tag),
    /// Untagged addresses of a network: unmanaged peers, the outside.
    Cidr(Ipv4Network),
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// IANA's protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// IANA's number of ICMP.
pub const ICMP: u8 = 1;

/// Which packets of a peer a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// All of it, any protocol.
    All,
    /// One IP protocol (1 to 255), any port, any type.
    Protocol(u8),
    /// Ports of a protocol that has them.
    Ports(Transport, PortRange),
    /// ICMP messages of a type, of one code or of any.
    Icmp {
        /// The type (8: echo request).
        kind: u8,
        /// The code; `None`: any.
        code: Option<u8>,
    },
}

impl Traffic {
    /// The IP protocol meant; `None`: any.
    #[must_use]
    pub const fn protocol(self) -> Option<u8> {
        match self {
            Self::All => None,
            Self::Protocol(number) => Some(number),
            Self::Ports(transport, _) => Some(transport.number()),
            Self::Icmp { .. } => Some(ICMP),
        }
    }

    /// The ports meant; `None`: any. For ICMP, type × 256 + code stands where ports do, so that a type is a
    /// range as well.
    #[must_use]
    pub const fn ports(self) -> Option<RangeInclusive<u16>> {
        match self {
            Self::All | Self::Protocol(_) => None,
            Self::Ports(_, ports) => Some(ports.start()..=ports.end()),
            Self::Icmp { kind, code: None } => Some(icmp_port(kind, 0)..=icmp_port(kind, 255)),
            Self::Icmp { kind, code: Some(code) } => Some(icmp_port(kind, code)..=icmp_port(kind, code)),
        }
    }

    /// Whether a packet of protocol `proto` to `port` is meant ([`icmp_port`] for ICMP).
    #[must_use]
    pub fn covers(self, proto: u8, port: u16) -> bool {
        self.protocol().is_none_or(|number| number == proto) && self.ports().is_none_or(|ports| ports.contains(&port))
    }
}

/// What stands for the port of an ICMP message.
#[must_use]
pub const fn icmp_port(kind: u8, code: u8) -> u16 {
    u16::from_be_bytes([kind, code])
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("any protocol"),
            Self::Protocol(number) => write!(f, "protocol {number}"),
            Self::Ports(transport, ports) if ports.start() == ports.end() => write!(f, "{transport} {}", ports.start()),
            Self::Ports(transport, ports) => write!(f, "{transport} {ports}"),
            Self::Icmp { kind, code: None } => write!(f, "icmp type {kind}"),
            Self::Icmp { kind, code: Some(code) } => write!(f, "icmp type {kind} code {code}"),
        }
    }
}

/// What a rule says. Among rules of one precedence that match, the later of these wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Leave it to the next tier.
    Pass,
    /// Refuse.
    Deny,
}

/// Who writes a rule, and when it is asked: a tier that allows or denies ends the search, one that passes or
/// has nothing to say leaves it to the next. The middle one ends it for isolated workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The cluster's administrators, before everybody else.
    Admin,
    /// Policies of the owners; what they do not name is refused where the workload is isolated, and they are
    /// not asked who may reach one that is not.
    Policy,
    /// The administrators' defaults, for what nobody decided.
    Baseline,
}

impl Tier {
    /// In the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Policy, Self::Baseline];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Policy => "policy",
            Self::Baseline => "baseline",
        })
    }
}

/// Which of the rules that match wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Precedence {
    /// Asked in their order, whatever the priorities.
    pub tier: Tier,
    /// Within the tier, the higher wins.
    pub priority: u32,
}

impl Precedence {
    /// A precedence in the owners' tier.
    #[must_use]
    pub const fn policy(priority: u32) -> Self {
        Self { tier: Tier::Policy, priority }
    }
}

/// One rule of a policy set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Connections of which direction.
    pub direction: Direction,
    /// Whom.
    pub peer: Peer,
    /// What.
    pub traffic: Traffic,
    /// When it is asked.
    pub precedence: Precedence,
    /// And then.
    pub verdict: Verdict,
    /// Number of the rule in records and explanations; not 0.
    pub id: u32,
}

impl Rule {
    /// Its place among rules of its tier that match the same packet: the greatest wins. At equal priority
    /// denying wins over passing over allowing, then the lowest number.
    #[must_use]
    pub const fn rank(&self) -> (u32, Verdict, Reverse<u32>) {
        (self.precedence.priority, self.verdict, Reverse(self.id))
    }
}

/// How one endpoint is judged: the inputs of [`super::evaluate`] besides the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySet {
    /// Whether sources need an owner's policy (see [`super::isolated`]).
    pub isolated: bool,
    /// Whether other weft hosts' own addresses may always reach the workload.
    pub hosts_may_reach: bool,
    /// Whether the workload may open connections to its own host only by an egress rule.
    pub host_listed_only: bool,
    /// The rules.
    pub rules: Vec<Rule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_covers_what_it_names() {
        let range = |start, end| PortRange::new(start, end).unwrap();
        let echo = icmp_port(8, 0);
        let cases = [
            (Traffic::All, 47, 0, true),
            (Traffic::Protocol(132), 132, 9, true),
            (Traffic::Protocol(132), 6, 9, false),
            (Traffic::Ports(Transport::Sctp, range(80, 90)), 132, 90, true),
            (Traffic::Ports(Transport::Sctp, range(80, 90)), 132, 91, false),
            (Traffic::Ports(Transport::Sctp, range(80, 90)), 6, 80, false),
            (Traffic::Icmp { kind: 8, code: None }, 1, echo, true),
            (Traffic::Icmp { kind: 8, code: None }, 1, echo + 255, true),
            (Traffic::Icmp { kind: 8, code: None }, 1, echo + 256, false),
            (Traffic::Icmp { kind: 0, code: Some(0) }, 1, 0, true),
            (Traffic::Icmp { kind: 255, code: None }, 1, u16::MAX, true),
            (Traffic::Icmp { kind: 8, code: Some(1) }, 1, echo, false),
            (Traffic::Icmp { kind: 8, code: None }, 6, echo, false),
        ];
        for (traffic, proto, port, want) in cases {
            assert_eq!(traffic.covers(proto, port), want, "{traffic}: {proto} {port}");
        }
    }
}
