//! ARP at a workload's veth: it speaks for itself and is asked for itself, nothing else.

use crate::packet::{ETH_LEN, copy};
use aya_ebpf::programs::TcContext;
use weft_abi::{Endpoint, Reason};

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: u16,
    operation: u16,
    sender_mac: [u16; 3],
    sender_ip: u32,
    target_mac: [u16; 3],
    target_ip: u32,
}

impl Arp {
    #[inline(always)]
    fn read(ctx: &TcContext) -> Result<Self, Reason> {
        let arp: Self = copy(ctx, ETH_LEN as u32)?;
        let known =
            arp.hardware == 1_u16.to_be() && arp.protocol == 0x0800_u16.to_be() && arp.lengths == 0x0604_u16.to_be();
        if known { Ok(arp) } else { Err(Reason::Malformed) }
    }
}

/// The workload may only speak for its own addresses.
#[inline(always)]
pub(crate) fn check_sent(ctx: &TcContext, endpoint: &Endpoint) -> Result<(), Reason> {
    let arp = Arp::read(ctx)?;
    let sender_mac = arp.sender_mac;
    if same_mac(&sender_mac, &endpoint.mac) && arp.sender_ip == endpoint.ip4 { Ok(()) } else { Err(Reason::SpoofedArp) }
}

/// The workload only hears what is asked of it.
#[inline(always)]
pub(crate) fn check_received(ctx: &TcContext, endpoint: &Endpoint) -> Result<(), Reason> {
    let arp = Arp::read(ctx)?;
    if arp.target_ip == endpoint.ip4 { Ok(()) } else { Err(Reason::WrongDestination) }
}

/// Compares a hardware address from a packet. By reference: an array of six bytes that is handed over would become
/// an integer of 48 bits, and be taken apart again.
#[inline(always)]
pub(crate) fn same_mac(wire: &[u16; 3], mac: &[u8; 6]) -> bool {
    let [a, b, c, d, e, f] = mac;
    let [x, y, z] = wire;
    let differences =
        x ^ u16::from_ne_bytes([*a, *b]) | y ^ u16::from_ne_bytes([*c, *d]) | z ^ u16::from_ne_bytes([*e, *f]);
    differences == 0
}
