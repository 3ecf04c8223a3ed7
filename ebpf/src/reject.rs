//! Answers to denied packets: the packet itself is rewritten into a TCP RST or an ICMP error and
//! sent back the way it came, under [`INJECTED_MARK`].
//!
//! The checksum trap: an skb whose checksum is left to the device
//! (CHECKSUM_PARTIAL) stays so, and the device will sum from the old transport header on. Such a
//! packet has a gso_size or the pseudo header's sum in its checksum field.

use crate::checksum::{add, fold, pseudo};
use crate::counters::count;
use crate::local::ifindex;
use crate::packet::{ETH_LEN, Ethernet, Packet, Part, copy, tcp};
use crate::verdict::DROP;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use weft_abi::{INJECTED_MARK, Reason, direction, proto};

/// Bytes of an IPv4 header without options, and of TCP's.
const IP_LEN: u32 = 20;
const TCP_LEN: u32 = 20;
/// Bytes of an ICMP error in front of its quote.
const ICMP_LEN: u32 = 8;
/// What an ICMP error quotes: IP header and eight bytes (RFC 792).
const QUOTE_LEN: u32 = IP_LEN + 8;

/// Never an answer to an answer, to an error, or to a fragment.
#[inline(always)]
pub(crate) fn is_answerable(packet: &Packet) -> bool {
    let answer = match packet.proto {
        proto::TCP => packet.flags & tcp::RST != 0,
        // Echo requests, timestamps: only requests get an answer.
        proto::ICMP => !matches!(packet.flags, 8 | 13 | 15 | 17),
        _ => false,
    };
    packet.part == Part::Whole && u32::from(packet.header) == IP_LEN && !answer
}

/// Not a verdict: the packet is to be answered.
pub(crate) const ANSWER: i32 = 0x100;

/// Rewrites the packet and sends it back; drops it where that fails.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext, packet: &Packet, way: u8) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: both pointers are good for the calls.
    let written =
        unsafe { if packet.proto == proto::TCP { weft_reset(skb, packet) } else { weft_unreachable(skb, packet) } };
    if written != 0 {
        return DROP;
    }
    count(Reason::Rejected);
    ctx.set_mark(INJECTED_MARK);
    // Towards the workload was egress of the veth: back means to enter the host from it.
    let flags = if way == direction::INGRESS { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: only notes where the skb goes.
    unsafe { bpf_redirect(ifindex(ctx), flags) as i32 }
}

/// A function of its own for the verifier (see [`crate::denial`]) and for its stack, of which a chain of
/// calls has 512 bytes. 0: the packet is its answer now.
///
/// # Safety
/// `packet` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_reset(skb: *mut __sk_buff, packet: *const Packet) -> i32 {
    if packet.is_null() {
        return -1;
    }
    // SAFETY: the caller's, and not null.
    reset(&TcContext::new(skb), unsafe { &*packet }).map_or(-1, |()| 0)
}

/// As [`weft_reset`].
///
/// # Safety
/// `packet` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_unreachable(skb: *mut __sk_buff, packet: *const Packet) -> i32 {
    if packet.is_null() {
        return -1;
    }
    // SAFETY: the caller's, and not null.
    unreachable(&TcContext::new(skb), unsafe { &*packet }).map_or(-1, |()| 0)
}

/// Ethernet, IPv4 and TCP, as 16-bit words.
#[repr(C)]
struct Reset {
    ethernet: Ethernet,
    ip: [u16; 10],
    tcp: [u16; 10],
}

/// A TCP header without options.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// Turns a TCP segment into the RST that refuses it (RFC 9293, 3.10.7.1).
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet) -> Result<(), Reason> {
    let denied: Tcp = copy(ctx, ETH_LEN as u32 + IP_LEN)?;
    let segment = packet.length - IP_LEN as u16;
    let partial = is_partial(ctx, packet, denied.checksum, segment);
    let (sequence, acknowledgement, flags) = if denied.flags & tcp::ACK != 0 {
        (denied.acknowledgement, 0, tcp::RST)
    } else {
        let data = u32::from(segment).wrapping_sub(u32::from(denied.offset >> 4) * 4);
        let virtual_bytes = u32::from(denied.flags & tcp::SYN != 0) + u32::from(denied.flags & tcp::FIN != 0);
        let next = u32::from_be(denied.sequence).wrapping_add(data).wrapping_add(virtual_bytes);
        (0, next.to_be(), tcp::RST | tcp::ACK)
    };
    let [s0, s1] = halves(sequence);
    let [a0, a1] = halves(acknowledgement);
    let mut answer = Reset {
        ethernet: returned(ctx)?,
        ip: ip_header(packet, (IP_LEN + TCP_LEN) as u16, proto::TCP),
        tcp: [packet.destination_port, packet.source_port, s0, s1, a0, a1, u16::from_ne_bytes([0x50, flags]), 0, 0, 0],
    };
    let pseudo = pseudo(packet.source, packet.destination, proto::TCP, TCP_LEN as u16);
    answer.tcp[8] = if partial { pseudo } else { !fold(add(u32::from(pseudo), &answer.tcp)) };
    resize(ctx, ETH_LEN as u32 + IP_LEN + TCP_LEN)?;
    store(ctx, 0, &answer)
}

/// What stands in front of the quoted packet.
#[repr(C)]
struct Unreachable {
    ethernet: Ethernet,
    ip: [u16; 10],
    icmp: [u16; 4],
}

/// Turns any other packet into an ICMP error that quotes it: port unreachable.
#[inline(always)]
fn unreachable(ctx: &TcContext, packet: &Packet) -> Result<(), Reason> {
    let frame = returned(ctx)?;
    let mut quoted: [u16; 14] = copy(ctx, ETH_LEN as u32)?;
    let [.., udp_length, udp_checksum] = quoted;
    let partial = packet.proto == proto::UDP && is_partial(ctx, packet, udp_checksum, u16::from_be(udp_length));
    resize(ctx, ETH_LEN as u32 + QUOTE_LEN)?;
    let sum = if partial {
        // The device will complete the quoted UDP checksum over the quoted eight bytes, which then
        // sum up to nothing.
        quoted[13] = 0;
        let [.., zero] = quoted;
        store(ctx, ETH_LEN as u32 + IP_LEN + 6, &zero)?;
        let [a, b, c, d, e, f, g, h, i, j, ..] = quoted;
        add(0, &[a, b, c, d, e, f, g, h, i, j])
    } else {
        add(0, &quoted)
    };
    // SAFETY: makes room between the Ethernet header and the quoted packet, or fails.
    let grown = unsafe { bpf_skb_adjust_room(ctx.skb.skb, (IP_LEN + ICMP_LEN) as i32, BPF_ADJ_ROOM_MAC, 0) };
    if grown != 0 {
        return Err(Reason::Malformed);
    }
    let mut answer = Unreachable {
        ethernet: frame,
        ip: ip_header(packet, (IP_LEN + ICMP_LEN + QUOTE_LEN) as u16, proto::ICMP),
        icmp: [u16::from_ne_bytes([3, 3]), 0, 0, 0],
    };
    answer.icmp[1] = !fold(add(sum, &answer.icmp));
    store(ctx, 0, &answer)
}

/// Whether the skb's checksum is left to the device.
#[inline(always)]
fn is_partial(ctx: &TcContext, packet: &Packet, checksum: u16, length: u16) -> bool {
    // SAFETY: the context is valid while its program runs.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    gso_size != 0 || checksum == pseudo(packet.source, packet.destination, packet.proto, length)
}

/// The Ethernet header of the way back.
#[inline(always)]
fn returned(ctx: &TcContext) -> Result<Ethernet, Reason> {
    let frame: Ethernet = copy(ctx, 0)?;
    Ok(Ethernet { destination: frame.source, source: frame.destination, kind: frame.kind })
}

/// The IPv4 header of the way back, with its checksum.
#[inline(always)]
fn ip_header(packet: &Packet, length: u16, proto: u8) -> [u16; 10] {
    let [s0, s1] = halves(packet.destination);
    let [d0, d1] = halves(packet.source);
    let mut words = [
        u16::from_ne_bytes([0x45, 0]),
        length.to_be(),
        0,
        0x4000_u16.to_be(),
        u16::from_ne_bytes([64, proto]),
        0,
        s0,
        s1,
        d0,
        d1,
    ];
    words[5] = !fold(add(0, &words));
    words
}

/// A 32-bit value as two words in memory order.
#[inline(always)]
fn halves(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[inline(always)]
fn resize(ctx: &TcContext, length: u32) -> Result<(), Reason> {
    // SAFETY: cuts the skb (and its GSO state), or fails.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) } == 0 { Ok(()) } else { Err(Reason::Malformed) }
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: u32, value: &T) -> Result<(), Reason> {
    let size = size_of::<T>() as u32;
    // SAFETY: reads `size` bytes of `value`, all initialised: the types stored have no padding.
    let result = unsafe { bpf_skb_store_bytes(ctx.skb.skb, offset, core::ptr::from_ref(value).cast(), size, 0) };
    if result == 0 { Ok(()) } else { Err(Reason::Malformed) }
}
