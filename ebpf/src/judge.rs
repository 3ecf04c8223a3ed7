//! The judgement, for both directions; `model::policy::judge` is what it is held against.

use crate::identity::{Identity, Remote, opener, target};
use crate::local::Local;
use crate::maps::{POL, RANGES};
use aya_ebpf::maps::lpm_trie::Key;
use weft_abi::{PolicyKey, PolicyValue, RangeKey, Reason, direction, flag, peer, proto, verdict};

/// A connection as its opener asked for it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// [`direction`]: EGRESS if the workload opened it.
    pub(crate) direction: u8,
    pub(crate) proto: u8,
    /// The port asked for, network byte order; 0 where the protocol has none.
    pub(crate) port: u16,
    pub(crate) remote: u32,
    pub(crate) identity: Identity,
}

/// The outcome: the rule that decided (0: none), and why not.
#[derive(Clone, Copy)]
pub(crate) struct Ruling {
    pub(crate) rule: u32,
    pub(crate) refused: Option<Reason>,
}

impl Ruling {
    const OPEN: Self = Self { rule: 0, refused: None };
}

/// Judges a request by the endpoint's policy set.
#[inline(always)]
pub(crate) fn judge(local: &Local, request: &Request) -> Ruling {
    let (remote, otherwise) = if request.direction == direction::INGRESS {
        let remote = opener(local, request.remote, request.identity);
        if !local.has(flag::ISOLATED) {
            return Ruling::OPEN;
        }
        match remote {
            Remote::Itself | Remote::OwnHost => return Ruling::OPEN,
            Remote::OtherHost if local.has(flag::HOSTS_MAY_REACH) => return Ruling::OPEN,
            _ => (remote, Some(Reason::Policy)),
        }
    } else {
        let remote = target(local, request.remote);
        let closed = remote == Remote::OwnHost && local.has(flag::HOST_LISTED_ONLY);
        (remote, closed.then_some(Reason::HostAccess))
    };
    let name = match remote {
        Remote::OwnHost => peer::HOST,
        Remote::OtherHost => peer::NODE,
        Remote::Named(name) => name,
        Remote::Itself => peer::NOBODY,
    };
    match decide(local, request, name) {
        Winner { verdict: verdict::ALLOW, rule, .. } => Ruling { rule, refused: None },
        Winner { verdict: verdict::DENY, rule, .. } => Ruling { rule, refused: Some(Reason::Policy) },
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
                && (value.verdict < self.verdict
                    || (value.verdict == self.verdict && value.rule < self.rule)));
        if better {
            *self = Self { precedence: value.precedence, rule: value.rule, verdict: value.verdict };
        }
    }
}

/// At most six look-ups in `pol` and two in `ranges`, whatever the number of rules.
#[inline(always)]
fn decide(local: &Local, request: &Request, name: u32) -> Winner {
    let mut winner = Winner { precedence: 0, rule: 0, verdict: verdict::NONE };
    consult(local, request, name, &mut winner);
    consult(local, request, peer::ANY, &mut winner);
    winner
}

#[inline(always)]
fn consult(local: &Local, request: &Request, name: u32, winner: &mut Winner) {
    let set = local.head.policy_set;
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
