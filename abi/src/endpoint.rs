//! One workload's attachment, as the programs on its veth know it.

/// Value of map `ep`, an array indexed by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Generation, policy set and flags in one word (see [`Head`]), so that one store changes all.
    pub head: u64,
    /// Counts the workloads that have had this slot; conntrack entries of an earlier one are void.
    pub incarnation: u32,
    /// The workload's IPv4 address, network byte order.
    pub ip4: u32,
    /// The workload's IPv6 address; zero while there is none.
    pub ip6: [u8; 16],
    /// The workload's hardware address.
    pub mac: [u8; 6],
    /// The tag of the workload's group; 0 is no identity.
    pub tag: u16,
    /// Interface index of the host veth (`SLOT_IFINDEX_BASE + slot`).
    pub ifindex: u32,
    /// Directions in which it is limited: [`limited`]. Zero with agents that know no limits.
    pub limited: u32,
    /// Zero.
    pub reserved: [u8; 16],
}

/// The unpacked form of [`Endpoint::head`]: `generation:32 | policy set:24 | flags:8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Version of the policy the endpoint is judged by; never goes back for a slot. 0: no endpoint.
    pub generation: u32,
    /// First part of every [`crate::PolicyKey`] of the endpoint; 24 bits.
    pub policy_set: u32,
    /// [`flag`]s.
    pub flags: u8,
}

impl Head {
    /// Packs the three into the word stored in the map; bits of `policy_set` above 24 are cut.
    #[must_use]
    pub const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | (((self.policy_set & 0x00ff_ffff) as u64) << 8) | self.flags as u64
    }

    /// The reverse of [`Head::pack`].
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, policy_set: ((word >> 8) & 0x00ff_ffff) as u32, flags: word as u8 }
    }
}

/// Bits of [`Head::flags`].
pub mod flag {
    /// Sources need an owners' policy; without it every source may reach the workload that no administrators'
    /// rule denies.
    pub const ISOLATED: u8 = 1;
    /// A denied packet is answered (TCP RST, else ICMP port unreachable); without it, dropped.
    pub const REJECT: u8 = 2;
    /// What policy denies passes and is logged.
    pub const AUDIT: u8 = 4;
    /// Other weft hosts' own addresses may reach the workload whatever the policies say.
    pub const HOSTS_MAY_REACH: u8 = 8;
    /// The workload may open connections to its own host only where an egress rule says so.
    pub const HOST_LISTED_ONLY: u8 = 16;
    /// The policy set has ingress rules of administrators: also who is not isolated is judged.
    pub const INGRESS_TIERS: u8 = 32;
    /// The policy set has egress rules.
    pub const EGRESS_RULES: u8 = 64;
    /// The slot holds a workload.
    pub const ACTIVE: u8 = 128;
}

/// Bits of [`Endpoint::limited`].
pub mod limited {
    /// What the workload receives must pass the queue of its veth: whoever reaches it by another way passes the limit by.
    pub const INGRESS: u32 = 1;
    /// What it sends must pass its shaper ([`crate::SHAPER_IFINDEX_BASE`]).
    pub const EGRESS: u32 = 2;
}

const _: () = assert!(size_of::<Endpoint>() == 64);
