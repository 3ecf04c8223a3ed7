//! Checksum offload: an skb may say that a checksum is still to be written, by the device or by whoever
//! segments, wraps or cuts it, long after the programs looked (`CHECKSUM_PARTIAL`). Where it goes is
//! the sender's choice, also a workload's (`PACKET_VNET_HDR`). Over what was judged it must not go.

use crate::packet::{ETH_LEN, Packet, Part};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use weft_abi::{Reason, SkbLayout, proto};

/// Written by the loader before the programs are loaded, and never after: the verifier takes it for constants.
#[unsafe(no_mangle)]
static SKB_LAYOUT: SkbLayout = SkbLayout { ip_summed: 0, ip_summed_shift: 0, csum_start: 0, head: 0 };

/// `CHECKSUM_PARTIAL` (linux/skbuff.h).
const PARTIAL: u8 = 3;

/// What is judged of an ICMP error's quote: IP header and eight bytes.
const QUOTE: u32 = 28;

/// A checksum is finished, or will be written into its own field, or behind all that was judged: a
/// workload's own tunnels have an inner packet's there.
#[inline(always)]
pub(crate) fn check(ctx: &TcContext, packet: &Packet) -> Result<(), Reason> {
    let Some(at) = unfinished(ctx)? else { return Ok(()) };
    let transport = ETH_LEN as u32 + u32::from(packet.header);
    // A later fragment has no header but IP's.
    let (field, judged) = match packet.proto {
        _ if packet.part == Part::Later => (None, 0),
        proto::TCP => (Some(16), 20),
        proto::UDP => (Some(6), 8),
        proto::SCTP => (Some(8), 12),
        proto::ICMP => (None, 8 + QUOTE),
        _ => (None, 0),
    };
    let harmless = at >= transport + judged || field.is_some_and(|field| at == transport + field);
    if harmless { Ok(()) } else { Err(Reason::ChecksumOffload) }
}

/// As [`check`], for our own answers: the checksum of a denied datagram was left to the device, and stays so
/// inside the quote, which nobody has judged.
#[inline(always)]
pub(crate) fn check_answer(ctx: &TcContext, packet: &Packet) -> Result<(), Reason> {
    if packet.proto != proto::ICMP {
        return check(ctx, packet);
    }
    let quote = ETH_LEN as u32 + u32::from(packet.header) + 8;
    match unfinished(ctx)? {
        Some(at) if at < quote => Err(Reason::ChecksumOffload),
        _ => Ok(()),
    }
}

/// Packets without any checksum of that kind.
#[inline(always)]
pub(crate) fn check_finished(ctx: &TcContext) -> Result<(), Reason> {
    if unfinished(ctx)?.is_some() { Err(Reason::ChecksumOffload) } else { Ok(()) }
}

/// Where a checksum will be written, in bytes from the beginning of the frame; `None`: nowhere.
#[inline(always)]
fn unfinished(ctx: &TcContext) -> Result<Option<u32>, Reason> {
    let summed = field::<u8>(ctx, told(&raw const SKB_LAYOUT.ip_summed))?;
    if summed >> (told(&raw const SKB_LAYOUT.ip_summed_shift) & 7) & 3 != PARTIAL {
        return Ok(None);
    }
    let [start, offset] = field::<[u16; 2]>(ctx, told(&raw const SKB_LAYOUT.csum_start))?;
    let [head, data] = field::<[u64; 2]>(ctx, told(&raw const SKB_LAYOUT.head))?;
    let at = (head + u64::from(start) + u64::from(offset)).wrapping_sub(data);
    // In front of the frame is beyond everything in unsigned numbers.
    if at < u64::from(ctx.len()) { Ok(Some(at as u32)) } else { Err(Reason::ChecksumOffload) }
}

/// A word of [`SKB_LAYOUT`].
#[inline(always)]
fn told(word: *const u32) -> u32 {
    // SAFETY: of a constant of ours; volatile, because the loader has changed it since it was compiled.
    unsafe { word.read_volatile() }
}

/// A field of the kernel's `struct sk_buff`, which is what the context is.
#[inline(always)]
fn field<T: Copy>(ctx: &TcContext, offset: u32) -> Result<T, Reason> {
    let mut value = MaybeUninit::<T>::uninit();
    let size = size_of::<T>() as u32;
    // SAFETY: the helper writes `size` bytes to `value`, or fails, whatever the address.
    let result =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, ctx.skb.skb.byte_add(offset as usize).cast()) };
    if result != 0 {
        return Err(Reason::ChecksumOffload);
    }
    // SAFETY: filled by the helper; the types used are plain integers.
    Ok(unsafe { value.assume_init() })
}
