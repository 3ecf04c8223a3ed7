//! Entry points.

use crate::denial::{Refusal, refuse};
use crate::packet::Packet;
use crate::verdict::PASS;
use crate::{direct, incoming, outgoing, overlay, underlay};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

// The kernel compares this string with those it takes for GPL-compatible (kernel/bpf/syscall.c);
// the crate's licence, Apache-2.0 OR GPL-2.0, lets us choose.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Ingress of a workload's host veth: what the workload sends.
#[classifier]
pub fn from_workload(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    match outgoing::judge(&ctx, &mut packet) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse(&ctx, &packet, &refusal),
    }
}

/// Egress of a workload's host veth: what reaches the workload.
#[classifier]
pub fn to_workload(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    let verdict = incoming::judge(&ctx, &mut packet);
    finish(&ctx, &packet, verdict)
}

/// Egress of the VXLAN device.
#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    overlay::send(&ctx);
    PASS
}

/// Ingress of the VXLAN device.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    match overlay::receive(&ctx, &mut packet) {
        Ok(()) => direct::receive(&ctx, &packet),
        Err(refusal) => refuse(&ctx, &packet, &refusal),
    }
}

/// Ingress of the underlay's device.
#[classifier]
pub fn from_underlay(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    let verdict = underlay::receive(&ctx, &mut packet);
    finish(&ctx, &packet, verdict)
}

/// Attached nowhere: what a test run costs by itself, for benchmarks to subtract.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    PASS
}

#[inline(always)]
fn finish(ctx: &TcContext, packet: &Packet, verdict: Result<(), Refusal>) -> i32 {
    match verdict {
        Ok(()) => PASS,
        Err(refusal) => refuse(ctx, packet, &refusal),
    }
}
