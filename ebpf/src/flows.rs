//! Where known flows are kept, so that no workload's flows push out another's.
//!
//! Answered TCP connections are in `ct_est4`, flows that are forgotten within minutes in `ct_short4`, and each
//! slot has a share of both; the shares of 256 slots fit, so nothing is pushed out there. What is
//! beyond a slot's share is in `ct_more4`, with whatever other slots have too much of.

use crate::counters::count;
use crate::maps::{CT_EST4, CT_MORE4, CT_SHORT4};
use crate::share;
use weft_abi::{Conn, ConnKey4, FlowShares, Reason, SHARE_WINDOW, capacity, conn_flag, proto};

type Table = aya_ebpf::maps::LruHashMap<ConnKey4, Conn>;

/// Written by the loader before the programs are loaded, and never after: the verifier takes it for constants.
#[unsafe(no_mangle)]
static FLOW_SHARES: FlowShares = FlowShares::of(capacity::CT_EST4, capacity::CT_SHORT4);

#[inline(always)]
fn limits() -> FlowShares {
    // SAFETY: a constant of ours; volatile, because the loader has changed it since it was compiled.
    unsafe { (&raw const FLOW_SHARES).read_volatile() }
}

/// The table in which a flow was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Est,
    Short,
    More,
}

/// The flow of `key` that `valid` takes, in the table where most packets find theirs first.
#[inline(always)]
pub(crate) fn find(key: &ConnKey4, valid: impl Fn(&Conn) -> bool) -> Option<(*mut Conn, Place)> {
    // SAFETY of the reference: LRU elements are preallocated; one that is recycled under us has another
    // key's value, of the same slot or one whose incarnation does not fit but by chance.
    let look = |table: &Table| table.get_ptr_mut(key).filter(|conn| valid(unsafe { &**conn }));
    if key.proto == proto::TCP
        && let Some(conn) = look(&CT_EST4)
    {
        return Some((conn, Place::Est));
    }
    if let Some(conn) = look(&CT_SHORT4) {
        return Some((conn, Place::Short));
    }
    look(&CT_MORE4).map(|conn| (conn, Place::More))
}

/// Keeps a flow that begins, in the place of whatever had its key.
#[inline(always)]
pub(crate) fn begin(key: &ConnKey4, conn: &mut Conn) {
    // What is found first must not outlive who opens anew.
    if key.proto == proto::TCP {
        forget_established(key);
    }
    let within = CT_SHORT4.get_ptr(key).is_some() || takes_part(key.slot, conn.seen);
    if within {
        let _none_mostly = CT_MORE4.remove(key);
        put(&CT_SHORT4, key, conn);
    } else {
        keep_in_stack(key, conn);
        put(&CT_MORE4, key, conn);
    }
}

/// A TCP connection that may be pushed out does not go past the host's stack: it would have to go on through a
/// conntrack that has seen nothing since its handshake.
#[inline(always)]
fn keep_in_stack(key: &ConnKey4, conn: &mut Conn) {
    if key.proto == proto::TCP {
        conn.flags &= !conn_flag::DIRECT;
    }
}

/// A TCP connection was answered: a flood of requests without answers never gets here.
#[inline(always)]
pub(crate) fn establish(key: &ConnKey4, conn: &Conn, from: Place) {
    // A copy: the helper must not read from an element that it might recycle.
    let mut conn = *conn;
    if holds_more(key.slot) {
        if put(&CT_EST4, key, &conn) {
            let moved = if from == Place::Short { CT_SHORT4.remove(key) } else { CT_MORE4.remove(key) };
            if moved.is_err() {
                // Another CPU has moved it at the same time, and counted it.
                holds_less(key.slot);
            }
        } else {
            holds_less(key.slot);
        }
    } else if from == Place::Short {
        keep_in_stack(key, &mut conn);
        if put(&CT_MORE4, key, &conn) {
            let _gone_already = CT_SHORT4.remove(key);
        }
    }
}

/// A TCP connection has ended: its last packets need no share. Returns where it is from now on: what it was in may be
/// another flow's soon.
#[inline(always)]
pub(crate) fn end(key: &ConnKey4, conn: &Conn) -> Option<*mut Conn> {
    let conn = *conn;
    put(&CT_MORE4, key, &conn);
    forget_established(key);
    CT_MORE4.get_ptr_mut(key)
}

#[inline(always)]
fn forget_established(key: &ConnKey4) {
    if CT_EST4.remove(key).is_ok() {
        holds_less(key.slot);
    }
}

#[inline(always)]
fn put(table: &Table, key: &ConnKey4, conn: &Conn) -> bool {
    let done = table.insert(key, conn, 0).is_ok();
    if !done {
        count(Reason::ConntrackFull);
    }
    done
}

/// Whether the slot may begin one more of the flows that live for a window at most.
#[inline(always)]
fn takes_part(slot: u32, now: u32) -> bool {
    share::of(slot).is_some_and(|share| {
        // SAFETY: as for all of a share.
        let begun = unsafe { &raw mut (*share).begun };
        share::count(begun, now / SHARE_WINDOW, 1) <= limits().short.into()
    })
}

/// Whether the slot may hold one more answered connection, which it does then.
#[inline(always)]
fn holds_more(slot: u32) -> bool {
    let within = hold(slot, 1) <= limits().established.into();
    if !within {
        holds_less(slot);
    }
    within
}

#[inline(always)]
fn holds_less(slot: u32) {
    hold(slot, -1);
}

/// Changes the number of connections that the slot holds; what it is now.
#[inline(always)]
fn hold(slot: u32, more: i64) -> i64 {
    // SAFETY: as for all of a share.
    share::of(slot).map_or(i64::MAX, |share| unsafe { share::add(&raw mut (*share).held, more) })
}
