//! Refusals: every one is counted, most leave a record, some are answered.

use crate::clock::now;
use crate::counters::{count, count_code};
use crate::local::{host, ifindex};
use crate::maps::{DENIAL_LIMIT, DENIALS};
use crate::packet::Packet;
use crate::passage::Passage;
use crate::verdict::DROP;
use crate::{reject, share};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use weft_abi::{
    DenialBucket, DenialEvent, DenialPair, Head, Reason, SLOT_IFINDEX_BASE, action, capacity, direction, flag,
};

/// Why a packet does not pass.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// The rule that said so; 0: none allowed it.
    pub(crate) rule: u32,
    /// Policy said so: the sender gets an answer, if the endpoint is so configured.
    pub(crate) by_policy: bool,
    /// [`direction`] of the packet.
    pub(crate) direction: u8,
}

impl Refusal {
    /// Refused by policy.
    #[inline(always)]
    pub(crate) fn denied(reason: Reason, rule: u32) -> Self {
        Self { reason, rule, by_policy: true, direction: direction::INGRESS }
    }

    /// Refused without an answer.
    #[inline(always)]
    pub(crate) fn dropped(reason: Reason, rule: u32) -> Self {
        Self { reason, rule, by_policy: false, direction: direction::INGRESS }
    }

    #[inline(always)]
    pub(crate) fn outgoing(self) -> Self {
        Self { direction: direction::EGRESS, ..self }
    }
}

impl From<Reason> for Refusal {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::dropped(reason, 0)
    }
}

/// The one place where a refusal becomes a verdict.
#[inline(always)]
pub(crate) fn refuse(ctx: &TcContext, packet: &Packet, refusal: &Refusal) -> i32 {
    let answer = u32::from(refusal.by_policy) << 16 | u32::from(refusal.direction) << 8;
    // SAFETY: both pointers are good for the call.
    let verdict = unsafe { weft_refuse(ctx.skb.skb, packet, answer | refusal.reason as u32, refusal.rule) };
    // From here and not from `weft_refuse`: the stack of all functions of a chain of calls is 512 bytes.
    if verdict == reject::ANSWER { reject::answer(ctx, packet, refusal.direction) } else { DROP }
}

/// A function of its own for the verifier, which looks at a global one (`no_mangle`) once, with
/// whatever arguments: inlined, every reason would be another state of everything that follows.
///
/// `what`: reason, direction, whether policy said so, a byte each from the lowest. Returns [`DROP`] or
/// [`reject::ANSWER`].
///
/// # Safety
/// `packet` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_refuse(skb: *mut __sk_buff, packet: *const Packet, what: u32, rule: u32) -> i32 {
    let ctx = TcContext::new(skb);
    if packet.is_null() {
        return DROP;
    }
    // SAFETY: the caller's, and not null.
    let packet = unsafe { &*packet };
    let [reason, direction, by_policy, _] = what.to_le_bytes();
    count_code(reason);
    let origin = Origin::at(ifindex(&ctx));
    let answer =
        by_policy != 0 && origin.flags & flag::REJECT != 0 && reject::is_answerable(packet) && may_answer(origin.slot);
    if Reason::is_code_recorded(reason) {
        let action = if answer { action::REJECT } else { action::DROP };
        record(&origin, packet, &Entry { reason, direction, rule, action });
    }
    if answer { reject::ANSWER } else { DROP }
}

/// Whether the slot may have one more answer now.
#[inline(always)]
fn may_answer(slot: u32) -> bool {
    let within = share::of(slot).is_some_and(|share| {
        // SAFETY: of a share.
        let answers = unsafe { &raw mut (*share).answers };
        share::count(answers, now(), 1) <= capacity::SHARE_ANSWERS.into()
    });
    if !within {
        count(Reason::AnswerLimited);
    }
    within
}

/// What a record says besides the packet.
pub(crate) struct Entry {
    pub(crate) reason: u8,
    pub(crate) direction: u8,
    pub(crate) rule: u32,
    pub(crate) action: u8,
}

/// Counts and records a packet that passes because of audit mode.
#[inline(always)]
pub(crate) fn audited(passage: &Passage<'_>, rule: u32) {
    // SAFETY: the packet is good for the call.
    unsafe { weft_audited(passage.packet, passage.local.slot, rule, passage.direction.into()) };
}

/// As [`weft_refuse`], a function of its own for the verifier.
///
/// # Safety
/// `packet` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_audited(packet: *const Packet, slot: u32, rule: u32, direction: u32) -> i32 {
    if packet.is_null() {
        return 0;
    }
    count(Reason::Audited);
    let origin = Origin::at(SLOT_IFINDEX_BASE.wrapping_add(slot));
    let [direction, ..] = direction.to_le_bytes();
    let entry = Entry { reason: Reason::Audited as u8, direction, rule, action: action::AUDIT };
    // SAFETY: the caller's, and not null.
    record(&origin, unsafe { &*packet }, &entry);
    0
}

/// Which program, on which endpoint's behalf.
pub(crate) struct Origin {
    ifindex: u32,
    slot: u32,
    incarnation: u32,
    flags: u8,
}

impl Origin {
    #[inline(always)]
    pub(crate) fn at(ifindex: u32) -> Self {
        let slot = ifindex.wrapping_sub(SLOT_IFINDEX_BASE);
        match crate::maps::EP.get(slot) {
            Some(endpoint) => {
                Self { ifindex, slot, incarnation: endpoint.incarnation, flags: Head::unpack(endpoint.head).flags }
            }
            None => Self { ifindex, slot: u32::MAX, incarnation: 0, flags: 0 },
        }
    }
}

/// Writes a record, unless its pair has had its share.
#[inline(always)]
pub(crate) fn record(origin: &Origin, packet: &Packet, entry: &Entry) {
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let outgoing = entry.direction == direction::EGRESS;
    let remote = if outgoing { packet.destination } else { packet.source };
    let allowed = entry.action == action::ALLOW;
    let kind = if allowed { DenialPair::ALLOWED } else { 0 };
    let pair = DenialPair { slot: origin.slot, remote, direction: u32::from(entry.direction) | kind };
    let Some(suppressed) = take_token(&pair, now, allowed) else {
        return count(Reason::RecordLimited);
    };
    let Some(mut record) = DENIALS.reserve::<DenialEvent>(0) else {
        return count(Reason::RecordLost);
    };
    record.write(DenialEvent {
        at_ns: now,
        ifindex: origin.ifindex,
        slot: origin.slot,
        incarnation: origin.incarnation,
        rule: entry.rule,
        suppressed,
        mark: packet.mark,
        source: mapped(packet.source),
        destination: mapped(packet.destination),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        source_tag: packet.source_tag,
        length: packet.length,
        reason: entry.reason,
        direction: entry.direction,
        proto: packet.proto,
        action: entry.action,
        tcp_flags_or_icmp_type: packet.flags,
        icmp_code: packet.icmp_code,
        reserved: [0; 2],
    });
    record.submit(0);
}

/// An IPv4 address as `::ffff:a.b.c.d`.
#[inline(always)]
fn mapped(address: u32) -> [u8; 16] {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Takes a token of the pair's bucket: how many records were left out before, or `None` if this
/// one is to be left out as well.
#[inline(always)]
fn take_token(pair: &DenialPair, now: u64, allowed: bool) -> Option<u32> {
    let host = host().ok()?;
    let (per_second, burst) = if allowed {
        (host.allowed_per_second, host.allowed_burst)
    } else {
        (host.denials_per_second, host.denials_burst)
    };
    if per_second == 0 {
        return Some(0);
    }
    let Some(bucket) = DENIAL_LIMIT.get_ptr_mut(pair) else {
        let left = burst.saturating_sub(1);
        let _full = DENIAL_LIMIT.insert(pair, &DenialBucket { filled_ns: now, tokens: left, suppressed: 0 }, 0);
        return (burst > 0).then_some(0);
    };
    // SAFETY: a live element; a race between CPUs costs or gives a record.
    let bucket = unsafe { &mut *bucket };
    refill(bucket, now, per_second, burst);
    if bucket.tokens == 0 {
        bucket.suppressed += 1;
        return None;
    }
    bucket.tokens -= 1;
    let suppressed = bucket.suppressed;
    bucket.suppressed = 0;
    Some(suppressed)
}

#[inline(always)]
fn refill(bucket: &mut DenialBucket, now: u64, per_second: u32, burst: u32) {
    if bucket.tokens >= burst {
        return;
    }
    let interval = 1_000_000_000 / u64::from(per_second);
    let interval = if interval == 0 { 1 } else { interval };
    let due = now.saturating_sub(bucket.filled_ns) / interval;
    if due == 0 {
        return;
    }
    let room = u64::from(burst - bucket.tokens);
    if due >= room {
        bucket.tokens = burst;
        bucket.filled_ns = now;
    } else {
        bucket.tokens += due as u32;
        bucket.filled_ns += due * interval;
    }
}
