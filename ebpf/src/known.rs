//! What is known of flows. Nothing is changed here.

use crate::clock::now;
use crate::flows::{self, Place};
use crate::local::Local;
use crate::passage::Passage;
use weft_abi::{Conn, ConnKey4, conn_flag, proto, tcp_state};

/// Lifetimes in units of [`Conn::seen`], 2^30 ns.
mod lifetime {
    pub(super) const TCP: u32 = weft_abi::TCP_LIFETIME;
    pub(super) const TCP_HALF: u32 = 112; // 120 s
    pub(super) const TCP_CLOSING: u32 = 10;
    pub(super) const OTHER: u32 = 168; // 180 s
    pub(super) const OTHER_HALF: u32 = 56; // 60 s
    pub(super) const ICMP: u32 = 28; // 30 s
    pub(super) const REVOKED: u32 = 168;
}

/// A flow, or [`NONE`]: of an `Option` the verifier would not know that it holds a pointer.
pub(crate) type Flow = *mut Conn;
pub(crate) const NONE: Flow = core::ptr::null_mut();

/// The flow, unless it is a former workload's or too old.
#[inline(always)]
pub(crate) fn find(key: &ConnKey4, local: &Local, now: u32) -> Option<(*mut Conn, Place)> {
    flows::find(key, |conn| {
        let age = now.wrapping_sub(conn.seen);
        // Another CPU may have written a `seen` one unit ahead of our clock: that is no age.
        conn.incarnation == local.endpoint.incarnation && age as i32 <= lifetime(key.proto, conn) as i32
    })
}

#[inline(always)]
fn lifetime(proto: u8, conn: &Conn) -> u32 {
    if conn.flags & conn_flag::REVOKED != 0 {
        return lifetime::REVOKED;
    }
    let half = !is_answered(conn);
    match proto {
        proto::TCP if half => lifetime::TCP_HALF,
        proto::TCP if is_closed(conn.tcp) => lifetime::TCP_CLOSING,
        proto::TCP => lifetime::TCP,
        proto::ICMP => lifetime::ICMP,
        _ if half => lifetime::OTHER_HALF,
        _ => lifetime::OTHER,
    }
}

/// The flow of a packet as its workload knows it, for packets that were not followed, or [`NONE`].
#[inline(always)]
pub(crate) fn flow_of(passage: &Passage<'_>) -> Flow {
    look(passage.local, &passage.key())
}

/// The flow of `key`, or [`NONE`].
#[inline(always)]
pub(crate) fn look(local: &Local, key: &ConnKey4) -> Flow {
    find(key, local, now()).map_or(NONE, |(conn, _)| conn)
}

/// Whether the flow may pass as it is.
#[inline(always)]
pub(crate) fn is_current(local: &Local, conn: &Conn) -> bool {
    conn.generation == local.head.generation && conn.flags & conn_flag::REVOKED == 0
}

/// Whether the flow of `key` began before, and neither side has closed it.
#[inline(always)]
pub(crate) fn is_under_way(local: &Local, key: &ConnKey4) -> bool {
    let open = |(conn, _): (*mut Conn, Place)| {
        // SAFETY: LRU elements are preallocated; a reused one has another key, which costs a record.
        let conn = unsafe { &*conn };
        is_current(local, conn) && conn.tcp == 0
    };
    find(key, local, now()).is_some_and(open)
}

/// Whether the side that was asked has sent something.
#[inline(always)]
pub(crate) fn is_answered(conn: &Conn) -> bool {
    conn.flags & conn_flag::ANSWERED != 0
}

/// Whether a TCP connection is over: a RST, or a FIN from both sides.
#[inline(always)]
pub(crate) fn is_closed(tcp: u8) -> bool {
    let closed = tcp_state::FIN_LOCAL | tcp_state::FIN_REMOTE;
    tcp & tcp_state::RST != 0 || tcp & closed == closed
}

/// Whether the flow goes past the host's stack, as far as this side knows.
#[inline(always)]
pub(crate) fn goes_direct(conn: &Conn) -> bool {
    is_answered(conn) && conn.flags & conn_flag::DIRECT != 0
}

/// Whether the flow of a packet that the workload sends goes past the host's stack, and to the tunnel.
#[inline(always)]
pub(crate) fn goes_by_tunnel(conn: &Conn) -> bool {
    goes_direct(conn) && conn.flags & conn_flag::TUNNEL != 0
}
