//! Frames as bytes, for programs that look at headers and not at checksums.

use std::net::Ipv4Addr;
use weft_model::mac::Mac;

pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;

type End = (Ipv4Addr, u16);

/// A TCP segment with a byte of data unless it is a SYN.
pub(super) fn tcp(source_mac: Mac, destination_mac: Mac, from: End, to: End, flags: u8) -> Vec<u8> {
    let mut segment = ports(from.1, to.1);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    if flags & SYN == 0 {
        segment.push(b'x');
    }
    ethernet(source_mac, destination_mac, &ipv4(6, from.0, to.0, &segment))
}

/// VXLAN around a frame.
pub(super) fn vxlan(outer: (Ipv4Addr, Ipv4Addr), port: u16, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut datagram = ports(50_000, port);
    datagram.extend(length(16 + inner.len()));
    datagram.extend([0, 0, 0x08, 0, 0, 0]);
    datagram.extend((vni << 8).to_be_bytes());
    datagram.extend(inner);
    ethernet(Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1]), &ipv4(17, outer.0, outer.1, &datagram))
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn ethernet(source: Mac, destination: Mac, packet: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &[8, 0], packet].concat()
}

fn ipv4(proto: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(length(20 + payload.len()));
    packet.extend([0, 1, 0x40, 0, 64, proto, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}
