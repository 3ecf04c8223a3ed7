//! Compiled policy.

/// Key of map `pol`. A judgement makes at most six look-ups: {peer, any} × {port and protocol,
/// protocol with any port, any protocol}.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The endpoint's policy set.
    pub set: u32,
    /// Who the other side is: [`peer`].
    pub peer: u32,
    /// The destination port, network byte order; 0 with `proto` set: any port, or see
    /// [`PolicyValue::range_id`].
    pub port: u16,
    /// IP protocol; 0: any.
    pub proto: u8,
    /// [`crate::direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: u32,
}

/// Value of maps `pol` and `ranges`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyValue {
    /// The higher wins among the entries that match.
    pub precedence: u32,
    /// Which rule this came from, for denial records and explanations.
    pub rule: u32,
    /// With port 0: not 0 means that the port must also be found in `ranges` under this id, and the
    /// verdict stands there.
    pub range_id: u32,
    /// [`verdict`].
    pub verdict: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Values of [`PolicyValue::verdict`].
pub mod verdict {
    /// Refuse.
    pub const DENY: u8 = 0;
    /// Allow.
    pub const ALLOW: u8 = 1;
    /// This entry decides nothing (the range table does).
    pub const NONE: u8 = 2;
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
const _: () = assert!(size_of::<PolicyValue>() == 16);
const _: () = assert!(size_of::<RangeKey>() == 12);
const _: () = assert!(size_of::<CidrKey4>() == 8);
