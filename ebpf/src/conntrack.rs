//! Connection tracking: what passed once passes without judgement for as long as its endpoint's
//! policy stays what it was.
//!
//! An entry carries the generation that allowed it. Another generation means: judge the connection
//! again as its opener asked for it, whichever side's packet is at hand, then stamp or revoke.

use crate::clock::now;
use crate::denial::{Refusal, audited};
use crate::flows::{self, Place};
use crate::identity::in_overlay;
use crate::judge::{Ruling, judge};
use crate::known::{Flow, NONE, find, goes_direct, is_answered, is_closed, is_current};
use crate::local::Local;
use crate::packet::tcp;
use crate::passage::Passage;
use crate::{allowed, readdressed};
use weft_abi::{Conn, ConnKey4, Reason, STACK_REFRESH, conn_flag, direction, flag, host_flag, proto, tcp_state};

/// Passes packets of known flows, judges the others. The flow, if it was known and answered before.
#[inline(always)]
pub(crate) fn pass(passage: &Passage<'_>) -> Result<Flow, Refusal> {
    let key = passage.key();
    let now = now();
    if passage.packet.is_syn() || !passage.packet.belongs_to_flow() {
        // An address may have been given to somebody else: who opens is always judged.
        return open(passage, &key, now);
    }
    if let Some((conn, place)) = find(&key, passage.local, now) {
        return follow(passage, &key, conn, now, place);
    }
    open(passage, &key, now)
}

/// What becomes at its destination of a packet that another workload of this host sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its flow does not go past the host's stack, or has to be answered first.
    Unknown,
    /// Its flow was answered, and stays in the host's stack.
    Stays,
    /// The destination takes it: it was judged and noted there, as by its own program.
    Taken,
    /// The destination's own program has to look at it: it may refuse.
    Doubtful,
}

/// Judges a packet for its destination, whose own program will not see it. `by_tunnel`: from the VXLAN device, where
/// nobody has asked yet whether its flow goes past the stack.
#[inline(always)]
pub(crate) fn arrive(passage: &Passage<'_>, by_tunnel: bool) -> Arrival {
    let key = passage.key();
    let now = now();
    let Some((found, place)) = find(&key, passage.local, now) else { return Arrival::Unknown };
    // SAFETY: as in `follow`.
    let conn = unsafe { &mut *found };
    if by_tunnel && conn.flags & conn_flag::TUNNEL == 0 {
        conn.flags |= conn_flag::TUNNEL;
    }
    let known = !passage.is_forward(conn) || passage.is_opener(conn);
    if !known || passage.packet.is_handshake() || !is_answered(conn) {
        return Arrival::Unknown;
    }
    if !goes_direct(conn) {
        return Arrival::Stays;
    }
    if by_tunnel && !is_direct_on(passage.local) {
        keep_in_stack(passage.packet.proto, conn);
        return Arrival::Stays;
    }
    if by_tunnel && passage.packet.proto == proto::UDP && reminds_stack(conn, now) {
        return Arrival::Stays;
    }
    if !is_current(passage.local, conn) {
        let ruling = judge(&passage.request_again(&key, conn));
        if ruling.refused != Reason::Passed as u8 {
            return Arrival::Doubtful;
        }
        stamp(passage, conn, now, ruling.rule, 0);
    }
    touch(passage, conn, now);
    if place == Place::Est && is_closed(conn.tcp) {
        let _moved = flows::end(&key, conn);
    }
    Arrival::Taken
}

/// Whether a flow that begins with this packet may go past the host's stack once it is answered. A proxy of the
/// host may show a workload's address, and so may its NAT.
#[inline(always)]
fn may_go_direct(passage: &Passage<'_>, key: &ConnKey4) -> bool {
    let from = passage.identity;
    is_direct_on(passage.local)
        && !from.own_host
        && !from.mapped
        && in_overlay(passage.local.host, key.remote)
        && !readdressed::is(passage.packet)
}

/// Whether flows of this workload may go past the host's stack now.
#[inline(always)]
pub(crate) fn is_direct_on(local: &Local) -> bool {
    local.host.flags & host_flag::DIRECT != 0 && local.limits() == 0
}

/// A packet of the flow went through the stack: from now on all do. The host's conntrack has windows for TCP only: a
/// datagram may take either way.
#[inline(always)]
pub(crate) fn keep_in_stack(proto: u8, conn: &mut Conn) {
    // One that was closed is soon forgotten.
    if proto == proto::TCP && !is_closed(conn.tcp) {
        conn.flags &= !conn_flag::DIRECT;
    }
}

/// Whether this datagram goes through the stack so that the host's conntrack does not forget the flow: it would take the
/// flow's addresses and ports for free, and make them another one's. TCP cannot do so, for the windows' sake.
#[inline(always)]
fn reminds_stack(conn: &mut Conn, now: u32) -> bool {
    let due = now.wrapping_sub(conn.in_stack) >= STACK_REFRESH && is_answered(conn);
    if due {
        conn.in_stack = now;
    }
    due
}

/// A packet of a known flow.
#[inline(always)]
fn follow(passage: &Passage<'_>, key: &ConnKey4, found: *mut Conn, now: u32, place: Place) -> Result<Flow, Refusal> {
    // SAFETY: a live element; other CPUs write its fields too, which are independent of each other.
    let conn = unsafe { &mut *found };
    let forward = passage.is_forward(conn);
    let known = if forward { passage.is_opener(conn) } else { !passage.packet.is_echo_request() };
    if !known {
        return open(passage, key, now);
    }
    if !is_current(passage.local, conn) {
        judge_again(passage, key, conn, now)?;
    }
    touch(passage, conn, now);
    if passage.packet.proto == proto::UDP && reminds_stack(conn, now) {
        return Ok(NONE);
    }
    if passage.packet.proto == proto::TCP && place == Place::Est {
        if is_closed(conn.tcp) {
            return Ok(flows::end(key, conn).unwrap_or(NONE));
        }
    } else if !forward && !is_answered(conn) {
        conn.flags |= conn_flag::ANSWERED;
        // A proxy of the host, for whom it answers, may ask in the workload's name: what is for it comes out of the
        // tunnel as if for the workload.
        if readdressed::is(passage.packet) || passage.identity.own_host {
            conn.flags &= !conn_flag::DIRECT;
        }
        if passage.packet.proto == proto::TCP && !is_closed(conn.tcp) {
            flows::establish(key, conn, place);
        }
        // The answer itself goes the way of what it answers.
        return Ok(NONE);
    }
    Ok(found)
}

/// The endpoint's policy changed since the flow was last judged, or did not allow it.
#[inline(always)]
fn judge_again(passage: &Passage<'_>, key: &ConnKey4, conn: &mut Conn, now: u32) -> Result<(), Refusal> {
    let Ruling { rule, refused } = judge(&passage.request_again(key, conn));
    let allowed = refused == Reason::Passed as u8;
    let audit = passage.local.has(flag::AUDIT);
    let was_revoked = conn.flags & conn_flag::REVOKED != 0;
    let more = match (allowed, audit) {
        (true, _) => 0,
        (false, true) => conn_flag::AUDIT,
        (false, false) => conn_flag::REVOKED,
    };
    stamp(passage, conn, now, rule, more);
    if allowed {
        return Ok(());
    }
    if audit {
        audited(passage, rule);
        return Ok(());
    }
    Err(Refusal::denied(if was_revoked { repeated(passage, conn) } else { Reason::Revoked }, rule))
}

/// Notes under the policy in force what it says of a flow.
#[inline(always)]
fn stamp(passage: &Passage<'_>, conn: &mut Conn, now: u32, rule: u32, more: u8) {
    const STAY: u8 = conn_flag::LOCAL_OPENED
        | conn_flag::OWN_HOST
        | conn_flag::ANSWERED
        | conn_flag::MAPPED
        | conn_flag::DIRECT
        | conn_flag::TUNNEL;
    conn.rule = rule;
    conn.seen = now;
    conn.flags = conn.flags & STAY | more;
    // Last, so that no other CPU takes the old flags for current. A flow that may not pass is of no generation: another
    // CPU that changes a flag at the same moment may bring back flags from before.
    conn.generation = if more & conn_flag::REVOKED == 0 { passage.local.head.generation } else { 0 };
}

/// What a packet of a flow that was revoked before is refused for: what asks anew by datagrams, for itself.
#[inline(always)]
fn repeated(passage: &Passage<'_>, conn: &Conn) -> Reason {
    let asks = passage.packet.proto != proto::TCP && passage.is_forward(conn);
    if asks { Reason::Policy } else { Reason::Revoked }
}

/// A packet of no known flow, or one that opens anew.
#[inline(always)]
fn open(passage: &Passage<'_>, key: &ConnKey4, now: u32) -> Result<Flow, Refusal> {
    let Ruling { rule, refused } = judge(&passage.request());
    let mut flags = if passage.direction == direction::EGRESS { conn_flag::LOCAL_OPENED } else { 0 };
    if passage.identity.own_host {
        flags |= conn_flag::OWN_HOST;
    }
    if passage.identity.mapped {
        flags |= conn_flag::MAPPED;
    }
    if may_go_direct(passage, key) {
        flags |= conn_flag::DIRECT;
    }
    if refused != Reason::Passed as u8 {
        if !passage.local.has(flag::AUDIT) {
            return Err(denial(passage, refused, rule));
        }
        audited(passage, rule);
        flags |= conn_flag::AUDIT;
    }
    if creates_entry(passage) {
        if refused == Reason::Passed as u8 {
            allowed::tell(passage, key, rule);
        }
        insert(passage, key, now, rule, flags);
    }
    Ok(NONE)
}

/// Mid-stream TCP that policy does not allow is dropped and never reset: it may belong to a flow
/// that is older than we are.
#[inline(always)]
fn denial(passage: &Passage<'_>, refused: u8, rule: u32) -> Refusal {
    if passage.packet.proto == proto::TCP && !passage.packet.is_syn() {
        return Refusal::dropped(Reason::MidStream, rule);
    }
    let reason = if refused == Reason::HostAccess as u8 { Reason::HostAccess } else { Reason::Policy };
    Refusal::denied(reason, rule)
}

/// What the workload sends mid-stream makes no entry: it would open the way back for a flow whose
/// policy is gone. ICMP opens with an echo request only.
#[inline(always)]
fn creates_entry(passage: &Passage<'_>) -> bool {
    match passage.packet.proto {
        proto::TCP => passage.direction == direction::INGRESS || passage.packet.is_syn(),
        proto::ICMP => passage.packet.is_echo_request(),
        _ => true,
    }
}

#[inline(always)]
fn insert(passage: &Passage<'_>, key: &ConnKey4, now: u32, rule: u32, flags: u8) {
    let mut conn = Conn {
        generation: passage.local.head.generation,
        incarnation: passage.local.endpoint.incarnation,
        seen: now,
        rule,
        remote_tag: passage.identity.tag,
        flags,
        tcp: 0,
        in_stack: now,
    };
    flows::begin(key, &mut conn);
}

/// Writes only what changed: the cache line is shared between CPUs.
#[inline(always)]
fn touch(passage: &Passage<'_>, conn: &mut Conn, now: u32) {
    if conn.seen != now {
        conn.seen = now;
    }
    if passage.packet.proto != proto::TCP || passage.packet.flags & (tcp::FIN | tcp::RST) == 0 {
        return;
    }
    let fin = if passage.direction == direction::EGRESS { tcp_state::FIN_LOCAL } else { tcp_state::FIN_REMOTE };
    let seen = if passage.packet.flags & tcp::RST != 0 { tcp_state::RST } else { fin };
    if conn.tcp & seen == 0 {
        conn.tcp |= seen;
    }
}
