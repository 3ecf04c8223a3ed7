//! Compiled policy.
//!
//! ICMP has no ports: type × 256 + code stands where they do, and always in `ranges`, where a type is a
//! prefix of 8 bits (in `pol`, port 0 would be type 0, code 0 as well as any).

/// Key of map `pol`. A judgement makes at most six look-ups: {peer, any} × {port and protocol,
/// protocol with any port, any protocol}.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The endpoint's policy set.
    pub set: u32,
    /// Who the other side is: [`peer`].
    pub peer: u32,
    /// The destination port of TCP, UDP or SCTP, network byte order; 0: any, and see
    /// [`PolicyValue::range_id`].
    pub port: u16,
    /// IP protocol; 0: any.
    pub proto: u8,
    /// [`crate::direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: u32,
}

/// How many tiers of rules there are: administrators' rules, owners' policies, administrators' defaults.
pub const TIERS: usize = 3;

/// Values of the index of [`PolicyValue::tiers`], in the order in which tiers are asked.
pub mod tier {
    /// Administrators' rules.
    pub const ADMIN: usize = 0;
    /// Owners' policies.
    pub const POLICY: usize = 1;
    /// Administrators' defaults.
    pub const BASELINE: usize = 2;
}

/// Value of maps `pol` and `ranges`: the winner a tier among the rules of this key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyValue {
    /// A [`Candidate`] a tier. Of all entries that match a packet, the greatest of each tier counts.
    pub tiers: [u64; TIERS],
    /// With port 0: not 0 means that the port is to be looked for in `ranges` under this id too.
    pub range_id: u32,
    /// Zero.
    pub reserved: u32,
}

/// The unpacked form of a word of [`PolicyValue::tiers`]: `rank:30 | verdict:2 | rule:32`. The compiler
/// resolves precedence to ranks that are unique within a set, so that comparing words compares rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The rule's place among all rules of its set, from 1; 30 bits.
    pub rank: u32,
    /// [`verdict`].
    pub verdict: u8,
    /// Which rule it is, for records and explanations.
    pub rule: u32,
}

impl Candidate {
    /// The largest [`Candidate::rank`].
    pub const MAX_RANK: u32 = (1 << 30) - 1;

    /// Packs the three; bits of `rank` above 30 and of `verdict` above 2 are cut.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let order = (self.rank << 2) | (self.verdict as u32 & 3);
        ((order as u64) << 32) | self.rule as u64
    }

    /// The reverse of [`Candidate::pack`].
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let order = (word >> 32) as u32;
        Self { rank: order >> 2, verdict: (order & 3) as u8, rule: word as u32 }
    }
}

/// Values of [`Candidate::verdict`].
pub mod verdict {
    /// There is no rule: the word is 0.
    pub const NONE: u8 = 0;
    /// Let through.
    pub const ALLOW: u8 = 1;
    /// Refuse.
    pub const DENY: u8 = 2;
    /// Leave it to the next tier.
    pub const PASS: u8 = 3;
}

/// Values of [`PolicyKey::peer`].
pub mod peer {
    /// Any peer.
    pub const ANY: u32 = 0;
    /// The workload's own host.
    pub const HOST: u32 = 1;
    /// Another weft host's own address.
    pub const NODE: u32 = 2;
    /// An address outside the overlay that no CIDR names.
    pub const WORLD: u32 = 3;
    /// Nobody we know: an untagged workload of a weft host. Only `ANY` rules match it.
    pub const NOBODY: u32 = 4;
    const TAG: u32 = 1 << 24;
    const CLASS: u32 = 2 << 24;

    /// A tagged peer.
    #[must_use]
    #[inline(always)]
    pub const fn tag(tag: u16) -> u32 {
        TAG | tag as u32
    }

    /// A class of addresses, from map `cidr4`; 24 bits.
    #[must_use]
    #[inline(always)]
    pub const fn class(class: u32) -> u32 {
        CLASS | (class & 0x00ff_ffff)
    }
}

/// Data part of the LPM key of map `ranges`; the prefix counts 64 bits of set and id, then the port's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeKey {
    /// Policy set, network byte order: range ids are unique within a set only.
    pub set: u32,
    /// [`PolicyValue::range_id`], network byte order.
    pub range_id: u32,
    /// Port, network byte order.
    pub port: u16,
    /// Zero, beyond every prefix.
    pub reserved: u16,
}

/// Data part of the LPM key of map `cidr4`; the prefix counts 32 bits of set, then the address's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CidrKey4 {
    /// Policy set, network byte order.
    pub set: u32,
    /// Address, network byte order.
    pub address: u32,
}

const _: () = assert!(size_of::<PolicyKey>() == 16);
const _: () = assert!(size_of::<PolicyValue>() == 32);
const _: () = assert!(size_of::<RangeKey>() == 12);
const _: () = assert!(size_of::<CidrKey4>() == 8);
