//! Frames as bytes.

use super::{gateway_mac, own_mac};
use std::net::Ipv4Addr;
use weft_model::mac::Mac;

/// The ones' complement sum of 16-bit words, folded.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo header's folded sum.
pub fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, proto: u8, length: usize) -> u16 {
    let mut bytes = source.octets().to_vec();
    bytes.extend(destination.octets());
    bytes.extend([0, proto]);
    bytes.extend((length as u16).to_be_bytes());
    sum(&bytes)
}

pub fn ethernet(source: Mac, destination: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = destination.0.to_vec();
    frame.extend(source.0);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet. `fragment` is the field of that name: flags and offset.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, proto: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, proto, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let check = !sum(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(payload);
    packet
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A TCP segment with sequence number 1000 and acknowledgement 2000.
pub fn tcp(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = ports.0.to_be_bytes().to_vec();
    segment.extend(ports.1.to_be_bytes());
    segment.extend(1000u32.to_be_bytes());
    segment.extend(if flags & ACK != 0 { 2000u32 } else { 0 }.to_be_bytes());
    segment.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    segment.extend(data);
    let check = checksum(source, destination, 6, &segment);
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    ipv4(source, destination, 6, 0x4000, &segment)
}

pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    ipv4(source, destination, 17, 0x4000, &datagram(source, destination, ports, data))
}

/// A UDP header with its data.
pub fn datagram(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut datagram = ports.0.to_be_bytes().to_vec();
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend((8 + data.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let check = checksum(source, destination, 17, &datagram);
    datagram[6..8].copy_from_slice(&check.to_be_bytes());
    datagram
}

/// The transport checksum of a segment whose checksum field is zero.
pub fn checksum(source: Ipv4Addr, destination: Ipv4Addr, proto: u8, segment: &[u8]) -> u16 {
    let mut all = pseudo(source, destination, proto, segment.len()).to_be_bytes().to_vec();
    all.extend(segment);
    !sum(&all)
}

/// An ICMP message; `id` is where echoes have their identifier.
pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: u8, code: u8, id: u16, data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(data);
    let check = !sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    ipv4(source, destination, 1, 0x4000, &message)
}

/// An IPv4 packet as the workload sends it.
pub fn sent(packet: &[u8]) -> Vec<u8> {
    ethernet(own_mac(), gateway_mac(), 0x0800, packet)
}

/// An IPv4 packet as the workload receives it.
pub fn received(packet: &[u8]) -> Vec<u8> {
    ethernet(gateway_mac(), own_mac(), 0x0800, packet)
}

/// ARP, whatever the operation.
pub fn arp(sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
    payload.extend(sender.0.0);
    payload.extend(sender.1.octets());
    payload.extend([0; 6]);
    payload.extend(target.octets());
    payload
}

/// A VXLAN packet on the underlay around an inner frame.
pub fn vxlan(outer: (Ipv4Addr, Ipv4Addr), port: u16, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner);
    let packet = udp(outer.0, outer.1, (50000, port), &payload);
    ethernet(Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1]), 0x0800, &packet)
}
