//! Reading packets: the only module that touches packet memory, every access bounds-checked.
//!
//! Nothing is ever *written* through a packet pointer: a program with one direct write gets a
//! prologue that un-clones every cloned skb (net/core/filter.c, `bpf_unclone_prologue`), which is
//! every TCP segment a local socket sends.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use weft_abi::{Reason, proto};

/// Bytes of an Ethernet header.
pub(crate) const ETH_LEN: usize = 14;
/// EtherType of IPv4, network byte order.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
/// EtherType of ARP, network byte order.
pub(crate) const ARP: u16 = 0x0806_u16.to_be();

/// TCP flag bits.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// An Ethernet header. Frames begin at an even address, and no more is promised.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) destination: [u16; 3],
    pub(crate) source: [u16; 3],
    pub(crate) kind: u16,
}

/// An IPv4 header without options.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// The first eight bytes of any transport header we look into.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Transport {
    first: u16,
    second: u16,
    third: u16,
    fourth: u16,
}

/// Bytes 12 and 13 of a TCP header.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct TcpTail {
    offset: u8,
    flags: u8,
}

/// What stands for the port of an ICMP message, network byte order: type × 256 + code.
#[inline(always)]
pub(crate) fn icmp_port(kind: u8, code: u8) -> u16 {
    u16::from_ne_bytes([kind, code])
}

/// Where a packet stands in a fragmented datagram.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    #[default]
    Whole,
    First,
    Later,
}

/// What the judgement needs of a packet; all zero until a header was read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Packet {
    /// Network byte order, as all addresses, ports and `id` here.
    pub(crate) source: u32,
    pub(crate) destination: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) id: u16,
    /// The IP length, host byte order.
    pub(crate) length: u16,
    pub(crate) proto: u8,
    /// TCP flags, or ICMP type.
    pub(crate) flags: u8,
    pub(crate) icmp_code: u8,
    /// Length of the IP header in bytes.
    pub(crate) header: u8,
    pub(crate) part: Part,
    /// Flags and offset of the IP header, host byte order.
    pub(crate) fragment: u16,
    /// Set by the judgement, for the record.
    pub(crate) source_tag: u16,
    /// [`crate::readdressed::noted`] of a packet that reaches a workload through the stack.
    pub(crate) entered_as: u16,
    /// The mark with which the packet came.
    pub(crate) mark: u32,
}

impl Packet {
    /// A connection request: SYN without ACK.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.proto == proto::TCP && self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// A SYN, or the answer to one.
    #[inline(always)]
    pub(crate) fn is_handshake(&self) -> bool {
        self.proto == proto::TCP && self.flags & tcp::SYN != 0
    }

    #[inline(always)]
    pub(crate) fn is_echo_request(&self) -> bool {
        self.proto == proto::ICMP && self.flags == 8 && self.icmp_code == 0
    }

    #[inline(always)]
    pub(crate) fn is_echo(&self) -> bool {
        self.proto == proto::ICMP && (self.flags == 8 || self.flags == 0) && self.icmp_code == 0
    }

    /// Whether the packet may belong to a known flow: of ICMP only echoes have an identifier to know it by.
    #[inline(always)]
    pub(crate) fn belongs_to_flow(&self) -> bool {
        self.proto != proto::ICMP || self.is_echo()
    }

    /// What rules know as the port asked for, network byte order.
    #[inline(always)]
    pub(crate) fn asked_port(&self) -> u16 {
        if self.proto == proto::ICMP { icmp_port(self.flags, self.icmp_code) } else { self.destination_port }
    }

    /// Where the payload belongs in its datagram, bytes.
    #[inline(always)]
    pub(crate) fn offset(&self) -> u32 {
        u32::from(self.fragment & 0x1fff) * 8
    }

    /// Whether its datagram ends with it.
    #[inline(always)]
    pub(crate) fn is_last(&self) -> bool {
        self.fragment & 0x2000 == 0
    }

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    pub(crate) fn is_icmp_error(&self) -> bool {
        self.proto == proto::ICMP && matches!(self.flags, 3 | 11 | 12)
    }
}

/// A `T` at `offset` of the packet's linear part.
#[inline(always)]
fn linear<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the linear part, as just checked, and every T used here asks for an
    // alignment of 2 at most.
    Some(unsafe { *((start + offset) as *const T) })
}

/// Copies `T` from `offset`, wherever in the packet it lies.
#[inline(always)]
pub(crate) fn copy<T: Copy>(ctx: &TcContext, offset: u32) -> Result<T, Reason> {
    let mut value = MaybeUninit::<T>::uninit();
    let size = size_of::<T>() as u32;
    // SAFETY: the helper writes `size` bytes to `value`, or fails.
    let result = unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast_const(), offset, value.as_mut_ptr().cast(), size) };
    if result != 0 {
        return Err(Reason::Malformed);
    }
    // SAFETY: filled by the helper; the types used are plain integers.
    Ok(unsafe { value.assume_init() })
}

/// Makes the headers linear where a driver left them in fragments of the skb.
#[inline(always)]
pub(crate) fn pull_headers(ctx: &TcContext) {
    // Ethernet, IPv4 and TCP without options; more is read by `copy`.
    const WANTED: usize = ETH_LEN + 20 + 20;
    let have = ctx.data_end() - ctx.data();
    let length = ctx.len() as usize;
    if have < WANTED && have < length {
        let wanted = if length < WANTED { length } else { WANTED };
        // Failing leaves the packet as it is; the reads that follow then refuse it.
        let _unread = ctx.pull_data(wanted as u32);
    }
}

/// The Ethernet header.
#[inline(always)]
pub(crate) fn ethernet(ctx: &TcContext) -> Result<Ethernet, Reason> {
    linear(ctx, 0).ok_or(Reason::Malformed)
}

/// The IPv4 header after the Ethernet header, unchecked.
#[inline(always)]
pub(crate) fn ipv4(ctx: &TcContext) -> Result<Ipv4, Reason> {
    linear(ctx, ETH_LEN).ok_or(Reason::Malformed)
}

/// Reads and checks the IPv4 header and the beginning of the transport header into `packet`.
#[inline(always)]
pub(crate) fn read_ipv4(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    // SAFETY: both pointers are good for the call.
    if unsafe { weft_read(ctx.skb.skb, packet) } == 0 { Ok(()) } else { Err(Reason::Malformed) }
}

/// A function of its own for the verifier (see [`crate::denial`]), and for the packet to be in memory only: inlined,
/// each field would be in a register as well, and there are ten. Returns 0, or something else if the packet is
/// malformed.
///
/// # Safety
/// `packet` must be writable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_read(skb: *mut __sk_buff, packet: *mut Packet) -> i32 {
    if packet.is_null() {
        return 1;
    }
    // SAFETY: the caller's, and not null.
    let packet = unsafe { &mut *packet };
    i32::from(parse(&TcContext::new(skb), packet).is_err())
}

#[inline(always)]
fn parse(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let ip = ipv4(ctx)?;
    let header = (ip.version_ihl & 0x0f) * 4;
    packet.source = ip.source;
    packet.destination = ip.destination;
    packet.proto = ip.proto;
    packet.id = ip.id;
    packet.header = header;
    packet.length = ip_length(ctx, &ip);
    if ip.version_ihl >> 4 != 4 || header < 20 || u32::from(packet.length) > ctx.len() - ETH_LEN as u32 {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be(ip.fragment);
    packet.fragment = fragment;
    if fragment & 0x1fff != 0 {
        packet.part = Part::Later;
        return Ok(());
    }
    packet.part = if fragment & 0x2000 != 0 { Part::First } else { Part::Whole };
    read_transport(ctx, packet)
}

/// The IP length. It is 0 in segments of more than 64 KiB inside the stack (BIG TCP, 6.3).
#[inline(always)]
fn ip_length(ctx: &TcContext, ip: &Ipv4) -> u16 {
    let length = u16::from_be(ip.length);
    if length == 0 && ctx.len() > 0xffff { 0xffff } else { length }
}

#[inline(always)]
fn read_transport(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let need = match packet.proto {
        proto::TCP => 20,
        proto::UDP | proto::ICMP => 8,
        proto::SCTP => 12,
        _ => return Ok(()),
    };
    if packet.length < u16::from(packet.header) + need {
        return Err(Reason::Malformed);
    }
    let offset = ETH_LEN + usize::from(packet.header);
    let transport = read::<Transport>(ctx, offset)?;
    if packet.proto == proto::ICMP {
        let [kind, code] = transport.first.to_ne_bytes();
        packet.flags = kind;
        packet.icmp_code = code;
        if packet.is_echo() {
            packet.source_port = transport.third;
            packet.destination_port = transport.third;
        }
        return Ok(());
    }
    packet.source_port = transport.first;
    packet.destination_port = transport.second;
    if packet.proto == proto::TCP {
        let tail = read::<TcpTail>(ctx, offset + 12)?;
        packet.flags = tail.flags;
        if tail.offset >> 4 < 5 {
            return Err(Reason::Malformed);
        }
    }
    Ok(())
}

/// From the linear part, which is a load; else by copy, which is a call.
#[inline(always)]
pub(crate) fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Reason> {
    match linear::<T>(ctx, offset) {
        Some(value) => Ok(value),
        None => copy(ctx, offset as u32),
    }
}
