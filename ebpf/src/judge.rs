//! The judgement, for both directions; `model::policy::evaluate` is what it is held against.

use crate::identity::{Identity, Parties, Remote, opener, target};
use crate::local::host;
use crate::maps::{EP, POL, RANGES};
use aya_ebpf::maps::lpm_trie::Key;
use weft_abi::{
    Candidate, PolicyKey, PolicyValue, RangeKey, Reason, TIERS, direction, flag, peer, proto, tier, verdict,
};

/// A connection as its opener asked for it, to or from an endpoint as its head was read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) slot: u32,
    pub(crate) policy_set: u32,
    pub(crate) remote: u32,
    /// The port asked for, network byte order; ICMP: type and code; 0 where the protocol has none.
    pub(crate) port: u16,
    /// The identity's.
    pub(crate) tag: u16,
    /// [`Identity::origin`].
    pub(crate) origin: u8,
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
    let ingress = request.direction == direction::INGRESS;
    let (remote, otherwise) = if ingress {
        if !request.has(flag::ISOLATED | flag::INGRESS_TIERS) {
            return Ruling::OPEN;
        }
        let identity = Identity::of(request.tag, request.origin);
        match opener(parties, request.remote, identity) {
            Remote::Itself | Remote::OwnHost | Remote::Mapped => return Ruling::OPEN,
            Remote::OtherHost if request.has(flag::HOSTS_MAY_REACH) => return Ruling::OPEN,
            remote => (remote, Reason::Passed as u8),
        }
    } else {
        if !request.has(flag::EGRESS_RULES | flag::HOST_LISTED_ONLY) {
            return Ruling::OPEN;
        }
        let remote = target(parties, request.remote, request.proto, request.port);
        if remote == Remote::Mapped {
            return Ruling::OPEN;
        }
        let closed = remote == Remote::OwnHost && request.has(flag::HOST_LISTED_ONLY);
        (remote, if closed { Reason::HostAccess as u8 } else { Reason::Passed as u8 })
    };
    let name = match remote {
        Remote::OwnHost => peer::HOST,
        Remote::OtherHost => peer::NODE,
        Remote::Named(name) => name,
        Remote::Itself | Remote::Mapped => peer::NOBODY,
    };
    let winners = find(request, name);
    if let Some(ruling) = ruling(winners[tier::ADMIN]) {
        return ruling;
    }
    // Whoever is not isolated does not ask the owners who may come in.
    if !ingress || request.has(flag::ISOLATED) {
        let winner = winners[tier::POLICY];
        if let Some(ruling) = ruling(winner) {
            return ruling;
        }
        if ingress && winner == 0 {
            return Ruling { rule: 0, refused: Reason::Policy as u8 };
        }
    }
    ruling(winners[tier::BASELINE]).unwrap_or(Ruling { rule: 0, refused: otherwise })
}

/// What a tier's winner says; `None`: the next one is asked.
#[inline(always)]
fn ruling(winner: u64) -> Option<Ruling> {
    let Candidate { verdict, rule, .. } = Candidate::unpack(winner);
    match verdict {
        verdict::ALLOW => Some(Ruling { rule, refused: Reason::Passed as u8 }),
        verdict::DENY => Some(Ruling { rule, refused: Reason::Policy as u8 }),
        _ => None,
    }
}

/// The greatest [`Candidate`] of each tier; 0: there is none.
type Winners = [u64; TIERS];

/// At most six look-ups in `pol` and two in `ranges`, whatever the number of rules.
#[inline(always)]
fn find(request: &Request, name: u32) -> Winners {
    let mut winners = [0; TIERS];
    consult(request, name, &mut winners);
    consult(request, peer::ANY, &mut winners);
    winners
}

#[inline(always)]
fn consult(request: &Request, name: u32, winners: &mut Winners) {
    let set = request.policy_set;
    let mut key = PolicyKey {
        set,
        peer: name,
        port: request.port,
        proto: request.proto,
        direction: request.direction,
        reserved: 0,
    };
    if matches!(request.proto, proto::TCP | proto::UDP | proto::SCTP) && request.port != 0 {
        look_up(&key, winners);
    }
    key.port = 0;
    let range_id = look_up(&key, winners);
    if range_id != 0 {
        let key = RangeKey { set: set.to_be(), range_id: range_id.to_be(), port: request.port, reserved: 0 };
        if let Some(value) = RANGES.get(Key::new(80, key)) {
            consider(value, winners);
        }
    }
    key.proto = proto::ANY;
    look_up(&key, winners);
}

/// The entry's range id, 0 if there is none.
#[inline(always)]
fn look_up(key: &PolicyKey, winners: &mut Winners) -> u32 {
    // SAFETY: without preallocation an element is freed after an RCU grace period, thus after us.
    match unsafe { POL.get(key) } {
        Some(value) => {
            consider(value, winners);
            value.range_id
        }
        None => 0,
    }
}

#[inline(always)]
fn consider(value: &PolicyValue, winners: &mut Winners) {
    for (winner, candidate) in winners.iter_mut().zip(&value.tiers) {
        if *candidate > *winner {
            *winner = *candidate;
        }
    }
}
