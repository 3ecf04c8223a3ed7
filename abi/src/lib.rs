//! Keys, values and events shared between the kernel programs and user space.
//!
//! Every type is `repr(C)` without padding, and its size is asserted below, so that a hash map never
//! compares bytes nobody wrote. IPv4 addresses and ports are in **network byte order** wherever a
//! field says so: they are compared with what stands in a packet. A change of any layout raises
//! [`LAYOUT_VERSION`], which is part of the pin path, so that two versions never share a map.
#![no_std]

pub mod capacity;
mod conntrack;
mod denial;
mod endpoint;
mod host;
mod kernel;
mod policy;
mod reason;

pub use conntrack::*;
pub use denial::*;
pub use endpoint::*;
pub use host::*;
pub use kernel::*;
pub use policy::*;
pub use reason::Reason;

/// Version of every layout in this crate; maps are pinned below a folder of this name (`v2`).
///
/// 2: values of `pol` and `ranges` have a candidate a tier; flags of sets that say what need not be asked.
pub const LAYOUT_VERSION: u32 = 2;

/// The host veth of slot *n* has interface index `SLOT_IFINDEX_BASE + n`, so an index is an array
/// index: no hash and no program per veth. Automatic indexes start at 1 and never get here.
pub const SLOT_IFINDEX_BASE: u32 = 0x0100_0000;

/// The shaper of slot *n*, through which goes what a limited workload sends, has interface index
/// `SHAPER_IFINDEX_BASE + n`.
pub const SHAPER_IFINDEX_BASE: u32 = 0x0200_0000;

/// Slots in the endpoint array: one per address of the largest subnet a host may lease, a /20.
pub const MAX_SLOTS: u32 = 4096;

/// Protocol numbers of IPv4's header (IANA).
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
    /// Any protocol; only in [`crate::PolicyKey`].
    pub const ANY: u8 = 0;
}

/// A packet's direction as its workload sees it.
pub mod direction {
    /// Towards the workload.
    pub const INGRESS: u8 = 0;
    /// From the workload.
    pub const EGRESS: u8 = 1;
}

/// The skb mark of a reply that a program wrote in place of a denied packet (TCP RST or ICMP port
/// unreachable) and sent back through the denied packet's own interface. The kernel clears marks when
/// a packet leaves a namespace (`skb_scrub_packet`), but a workload with CAP_BPF can redirect around
/// that: the mark spares such a reply conntrack and policy, no check of its addresses.
pub const INJECTED_MARK: u32 = 0x7765_6674;
