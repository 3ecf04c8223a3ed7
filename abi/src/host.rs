//! What the programs know of their host and of its peers.

/// The only value of map `host`, an array of one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The overlay's network, network byte order.
    pub overlay: u32,
    /// Its mask, network byte order.
    pub overlay_mask: u32,
    /// The gateway of this host's workloads (`<subnet>.1`), network byte order.
    pub gateway: u32,
    /// This host's address in the overlay (`<subnet>.0`), network byte order.
    pub vtep: u32,
    /// VXLAN network identifier, host byte order.
    pub vni: u32,
    /// UDP port of VXLAN, network byte order.
    pub vxlan_port: u16,
    /// How far the tag is shifted left in the skb mark inside the host's stack, 0 to 16.
    pub mark_shift: u8,
    /// [`host_flag`]s.
    pub flags: u8,
    /// Denial records a second for one (endpoint, remote address, direction); counters are exact
    /// anyway. 0: no limit.
    pub denials_per_second: u32,
    /// Denial records such a pair may have at once.
    pub denials_burst: u32,
    /// As `denials_per_second`, for connections that passed.
    pub allowed_per_second: u32,
    /// As `denials_burst`, for connections that passed.
    pub allowed_burst: u32,
    /// The bit of the mark that our rules give packets from outside the overlay, and a workload's own, that come
    /// through a mapped port, and take from all others; never one of the tag's. 0: none.
    pub mapped_mark: u32,
    /// Interface index of the VXLAN device with our programs; 0: none yet, or an agent that does not tell.
    pub vxlan_ifindex: u32,
    /// Zero.
    pub reserved: [u8; 16],
}

/// Bits of [`Host::flags`].
pub mod host_flag {
    /// Workloads may talk to 169.254.0.0/16 (cloud metadata) outside their own host.
    pub const LINK_LOCAL: u8 = 1;
    /// The first packet of every connection that passes leaves a record.
    pub const LOG_ALLOWED: u8 = 2;
    /// Answered flows between workloads, of this host or another, go past the host's stack.
    pub const DIRECT: u8 = 4;
}

/// Data part of the LPM key of map `peers4`: an address in the overlay, network byte order.
pub type PeerKey4 = u32;

/// Value of map `peers4`: the host that owns the subnet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its underlay address, network byte order; 0 for this host's own subnet.
    pub underlay: u32,
    /// [`peer_flag`]s.
    pub flags: u32,
    /// Its own address in the overlay, network byte order.
    pub vtep: u32,
    /// Address class of an unmanaged peer's subnet; 0: none.
    pub class: u32,
}

/// Bits of [`Peer::flags`].
pub mod peer_flag {
    /// It speaks GBP (its weft host record says so): tags may be sent to it, and count from it.
    pub const GBP: u32 = 1;
    /// No weft agent runs there (a flannel lease): its workloads have no identity.
    pub const UNMANAGED: u32 = 2;
}

/// Key of map `mapped`: a port of this host that is mapped to one of its workloads. Value: one byte, 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappedPort {
    /// The host's port, network byte order.
    pub port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub reserved: u8,
}

/// Key of map `host4`: an address of this host itself, network byte order. Value: one byte, 1.
pub type HostAddr4 = u32;

const _: () = assert!(size_of::<Host>() == 64);
const _: () = assert!(size_of::<Peer>() == 16);
const _: () = assert!(size_of::<MappedPort>() == 4);
