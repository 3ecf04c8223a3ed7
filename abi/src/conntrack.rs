//! Connection tracking, an entry per local endpoint: nothing is shared between tenants, and what
//! NAT does between two endpoints of one host does not matter.

/// Key of maps `ct_est4` (both directions seen) and `ct_half4` (one direction seen).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey4 {
    /// Slot of the local endpoint.
    pub slot: u32,
    /// The other side's address, network byte order.
    pub remote: u32,
    /// The other side's port, network byte order; ICMP echo: the identifier.
    pub remote_port: u16,
    /// The endpoint's port, network byte order; ICMP echo: the identifier.
    pub local_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Value of the conntrack maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn {
    /// The endpoint's generation that allowed the flow; any other value: judge again.
    pub generation: u32,
    /// The endpoint's incarnation; any other value: the entry is a former workload's, and void.
    pub incarnation: u32,
    /// When the last packet was seen, in units of 2^30 ns (1.07 s) of the monotonic clock.
    pub seen: u32,
    /// The rule that allowed the flow; 0: no rule was needed.
    pub rule: u32,
    /// The tag of the remote side, where it opened the flow.
    pub remote_tag: u16,
    /// [`conn_flag`]s.
    pub flags: u8,
    /// [`tcp_state`] bits.
    pub tcp: u8,
    /// Zero.
    pub reserved: u32,
}

/// Bits of [`Conn::flags`].
pub mod conn_flag {
    /// The local endpoint opened the flow; without it, the remote side did.
    pub const LOCAL_OPENED: u8 = 1;
    /// The flow passes only because of audit mode.
    pub const AUDIT: u8 = 2;
    /// The workload's own host opened the flow: such a flow carries no tag.
    pub const OWN_HOST: u8 = 4;
    /// The policy that allowed the flow is gone. The entry stays for a while, so that what the
    /// workload still sends on it is not taken for a connection that it opens.
    pub const REVOKED: u8 = 8;
    /// The flow came through a port that the host maps to the workload.
    pub const MAPPED: u8 = 16;
}

/// Bits of [`Conn::tcp`].
pub mod tcp_state {
    /// A FIN from the local endpoint was seen.
    pub const FIN_LOCAL: u8 = 1;
    /// A FIN from the remote side was seen.
    pub const FIN_REMOTE: u8 = 2;
    /// A RST was seen.
    pub const RST: u8 = 4;
}

/// Key of map `frag4`: the datagram a fragment belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragKey4 {
    /// Slot of the endpoint that judges.
    pub slot: u32,
    /// Source address, network byte order.
    pub source: u32,
    /// Destination address, network byte order.
    pub destination: u32,
    /// IP identification, network byte order.
    pub id: u16,
    /// IP protocol.
    pub proto: u8,
    /// [`crate::direction`].
    pub direction: u8,
}

/// Value of map `frag4`: the first fragment passed under this generation and incarnation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frag {
    /// As [`Conn::generation`].
    pub generation: u32,
    /// As [`Conn::incarnation`].
    pub incarnation: u32,
}

const _: () = assert!(size_of::<ConnKey4>() == 16);
const _: () = assert!(size_of::<Conn>() == 24);
const _: () = assert!(size_of::<FragKey4>() == 16);
const _: () = assert!(size_of::<Frag>() == 8);
