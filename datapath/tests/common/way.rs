//! Which way a packet takes through a host: what tests of the fast path share.

use super::frame::{ACK, SYN};
use super::{PASS, ports, rule, tag_peer};
use std::net::Ipv4Addr;
use weft_model::policy::{Direction, Protocol, Rule};

/// The answer to a SYN.
pub const HANDSHAKE: u8 = SYN | ACK;
/// An address of which the host's NAT makes a workload's.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// How a packet went.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the host's stack; the verdict of the program at its end.
    Stack(i32),
    /// Past the stack to where it is for.
    Direct,
    /// Past the stack to the workload's own program; its verdict.
    Through(i32),
}

/// Through the host's stack, and let pass.
pub const STACK: Way = Way::Stack(PASS);

/// Whoever has the tag may come by TCP on port 80 and by UDP on port 53.
pub fn open_doors(tag: u16) -> Vec<Rule> {
    let allow = |protocol, port| rule(Direction::Ingress, tag_peer(tag), ports(protocol, port, port));
    vec![allow(Protocol::Tcp, 80), allow(Protocol::Udp, 53)]
}
