//! Policies as operators write them, the rules they are compiled to ([`Rule`]), and the reference
//! semantics every other part is held against ([`evaluate`]).

mod evaluate;
mod rule;

pub use evaluate::{Remote, Ruling, Why, evaluate, isolated};
pub use rule::{Direction, ICMP, Peer, PolicySet, Precedence, Rule, Tier, Traffic, Transport, Verdict, icmp_port};

use crate::id::GroupId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A protocol of a stored policy, as CF's policy API names it; rules know more ([`Transport`]).
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

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Selected => "selected",
            Self::Never => "never",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_refuse_zero_and_reversal() {
        assert!(PortRange::new(0, 5).is_none());
        assert!(PortRange::new(6, 5).is_none());
        assert!(PortRange::new(65535, 65535).is_some());
    }
}
