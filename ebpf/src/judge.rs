//! The judgement, for both directions; `model::policy::judge` is what it is held against.

use crate::identity::{Identity, Parties, Remote, opener, target};
use crate::local::host;
use crate::maps::{EP, POL, RANGES};
use aya_ebpf::maps::lpm_trie::Key;
use weft_abi::{PolicyKey, PolicyValue, RangeKey, Reason, direction, flag, peer, proto, verdict};

/// A connection as its opener asked for it, to or from an endpoint as its head was read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) slot: u32,
    pub(crate) policy_set: u32,
    pub(crate) remote: u32,
    /// The port asked for, network byte order; 0 where the protocol has none.
    pub(crate) port: u16,
    /// The identity's.
    pub(crate) tag: u16,
    pub(crate) own_host: u8,
    /// [`direction`]: EGRESS if the workload opened it.
    pub(crate) direction: u8,
    pub(crate) proto: u8,
    /// [`flag`]s of the endpoint.
    pub(crate) flags: u8,
}

impl Request {
    #[inline(always)]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The outcome: the rule that decided (0: none), and why not.
#[derive(Clone, Copy)]
pub(crate) struct Ruling {
    pub(crate) rule: u32,
    /// A [`Reason`]'s code; 0: allowed.
    pub(crate) refused: u8,
}

impl Ruling {
    const OPEN: Self = Self { rule: 0, refused: Reason::Passed as u8 };

    #[inline(always)]
    fn pack(self) -> u64 {
        u64::from(self.refused) << 32 | u64::from(self.rule)
    }
}

/// Judges a request by the endpoint's policy set.
#[inline(always)]
pub(crate) fn judge(request: &Request) -> Ruling {
    // SAFETY: the request is good for the call.
    let packed = unsafe { weft_judge(request) };
    Ruling { rule: packed as u32, refused: (packed >> 32) as u8 }
}

/// A function of its own for the verifier, which looks at a global one (`no_mangle`) once: inlined
/// at each place that judges, the look-ups would be multiplied by what led there.
///
/// # Safety
/// `request` must be readable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_judge(request: *const Request) -> u64 {
    let refused = Ruling { rule: 0, refused: Reason::NoEndpoint as u8 };
    if request.is_null() {
        return refused.pack();
    }
    // SAFETY: the caller's, and not null.
    let request = unsafe { &*request };
    let (Some(endpoint), Ok(host)) = (EP.get(request.slot), host()) else { return refused.pack() };
    rule(&Parties { endpoint, host, policy_set: request.policy_set }, request).pack()
}

#[inline(always)]
fn rule(parties: &Parties, request: &Request) -> Ruling {
    let (remote, otherwise) = if request.direction == direction::INGRESS {
        if !request.has(flag::ISOLATED) {
            return Ruling::OPEN;
        }
        let identity = Identity { tag: request.tag, own_host: request.own_host != 0 };
        match opener(parties, request.remote, identity) {
            Remote::Itself | Remote::OwnHost => return Ruling::OPEN,
            Remote::OtherHost if request.has(flag::HOSTS_MAY_REACH) => return Ruling::OPEN,
            remote => (remote, Reason::Policy as u8),
        }
    } else {
        let remote = target(parties, request.remote);
        let closed = remote == Remote::OwnHost && request.has(flag::HOST_LISTED_ONLY);
        (remote, if closed { Reason::HostAccess as u8 } else { Reason::Passed as u8 })
    };
    let name = match remote {
        Remote::OwnHost => peer::HOST,
        Remote::OtherHost => peer::NODE,
        Remote::Named(name) => name,
        Remote::Itself => peer::NOBODY,
    };
    match decide(request, name) {
        Winner { verdict: verdict::ALLOW, rule, .. } => Ruling { rule, refused: Reason::Passed as u8 },
        Winner { verdict: verdict::DENY, rule, .. } => Ruling { rule, refused: Reason::Policy as u8 },
        _ => Ruling { rule: 0, refused: otherwise },
    }
}

/// The best rule so far; a verdict of NONE: no rule.
#[derive(Clone, Copy)]
struct Winner {
    precedence: u32,
    rule: u32,
    verdict: u8,
}

impl Winner {
    /// Highest precedence wins, then denying, then the lower rule number.
    #[inline(always)]
    fn consider(&mut self, value: &PolicyValue) {
        if value.verdict > verdict::ALLOW {
            return;
        }
        let better = self.verdict == verdict::NONE
            || value.precedence > self.precedence
            || (value.precedence == self.precedence
                && (value.verdict < self.verdict || (value.verdict == self.verdict && value.rule < self.rule)));
        if better {
            *self = Self { precedence: value.precedence, rule: value.rule, verdict: value.verdict };
        }
    }
}

/// At most six look-ups in `pol` and two in `ranges`, whatever the number of rules.
#[inline(always)]
fn decide(request: &Request, name: u32) -> Winner {
    let mut winner = Winner { precedence: 0, rule: 0, verdict: verdict::NONE };
    consult(request, name, &mut winner);
    consult(request, peer::ANY, &mut winner);
    winner
}

#[inline(always)]
fn consult(request: &Request, name: u32, winner: &mut Winner) {
    let set = request.policy_set;
    let mut key = PolicyKey {
        set,
        peer: name,
        port: request.port,
        proto: request.proto,
        direction: request.direction,
        reserved: 0,
    };
    if matches!(request.proto, proto::TCP | proto::UDP) && request.port != 0 {
        look_up(&key, winner);
    }
    key.port = 0;
    let range_id = look_up(&key, winner);
    if range_id != 0 {
        let key = RangeKey { set: set.to_be(), range_id: range_id.to_be(), port: request.port, reserved: 0 };
        if let Some(value) = RANGES.get(Key::new(80, key)) {
            winner.consider(value);
        }
    }
    key.proto = proto::ANY;
    look_up(&key, winner);
}

/// The entry's range id, 0 if there is none.
#[inline(always)]
fn look_up(key: &PolicyKey, winner: &mut Winner) -> u32 {
    // SAFETY: without preallocation an element is freed after an RCU grace period, thus after us.
    match unsafe { POL.get(key) } {
        Some(value) => {
            winner.consider(value);
            value.range_id
        }
        None => 0,
    }
}
