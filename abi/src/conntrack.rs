//! Connection tracking, an entry per local endpoint: nothing is shared between tenants, and what
//! NAT does between two endpoints of one host does not matter.

/// Key of maps `ct_est4`, `ct_short4` and `ct_more4`.
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
    /// The endpoint's generation that allowed the flow; any other value, 0 above all: judge again.
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
    /// When a datagram of the flow was last sent through the host's stack though it goes past it otherwise, in the
    /// units of `seen`, or when the flow began; not used for TCP. Earlier programs left 0.
    pub in_stack: u32,
}

/// How long datagrams of a flow go past the host's stack before one goes through it, in units of [`Conn::seen`]: 8.6 s.
/// The host's conntrack forgets datagrams after 30 s (`nf_conntrack_udp_timeout`), and would give somebody else
/// the flow's addresses.
pub const STACK_REFRESH: u32 = 8;

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
    /// The side that did not open the flow has answered.
    pub const ANSWERED: u8 = 16;
    /// The flow came through a port that the host maps to the workload.
    pub const MAPPED: u8 = 32;
    /// The flow may go past the host's stack: it was opened where that is on, the host's NAT has nothing to do with it as
    /// far as is known, and of TCP no packet since its answer went through the stack.
    pub const DIRECT: u8 = 64;
    /// Packets of the flow came out of the tunnel with the addresses and ports by which the workload knows it: the
    /// host's NAT has nothing to do with it.
    pub const TUNNEL: u8 = 128;
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

/// How long an answered TCP connection is known after its last packet, in units of [`Conn::seen`]: 24 h.
pub const TCP_LIFETIME: u32 = 80_466;

/// Length of a window of [`Share`], in units of [`Conn::seen`]: 180 s, which no flow in `ct_short4` outlives without a
/// packet.
pub const SHARE_WINDOW: u32 = 168;

/// Value of map `ct_share`, an array indexed by slot: what it takes of what all slots share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Connections in `ct_est4`. As signed: lost counts may leave it a little below zero.
    pub held: u64,
    /// Flows begun, in windows of [`SHARE_WINDOW`].
    pub begun: Window,
    /// Bytes of datagrams sent in pieces that are not whole yet, in windows of [`PIECES_WINDOW`].
    pub pieces: Window,
    /// Answers to denied packets, in windows of one unit of [`Conn::seen`].
    pub answers: Window,
}

/// How many flows of one slot the tables take that no other slot's push out: a constant of the programs, global
/// `FLOW_SHARES`, which follows from the sizes of the maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowShares {
    /// Connections in `ct_est4`.
    pub established: u32,
    /// Flows begun in `ct_short4` in a [`SHARE_WINDOW`].
    pub short: u32,
}

impl FlowShares {
    /// The shares in tables of so many entries: those of [`crate::capacity::SHARES`] slots fit, also in two
    /// windows that meet, and a quarter is left for the free elements that each CPU keeps to itself.
    #[must_use]
    pub const fn of(established: u32, short: u32) -> Self {
        const fn part(entries: u32, windows: u32) -> u32 {
            let share = entries / 4 * 3 / windows / crate::capacity::SHARES;
            if share == 0 { 1 } else { share }
        }
        Self { established: part(established, 1), short: part(short, 2) }
    }
}

/// A count that begins anew with every window of time. Windows do not slide: it is at most twice the limit in any time
/// of a window's length.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// What was counted in it.
    pub count: u64,
    /// Its number: the time in units of its length.
    pub number: u32,
    /// Zero.
    pub reserved: u32,
}

/// Length of a window of [`Share::pieces`], in units of [`Conn::seen`]: 30 s, after which the kernel forgets pieces
/// (`net.ipv4.ipfrag_time`).
pub const PIECES_WINDOW: u32 = 28;

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
    /// Bytes of payload seen in their order.
    pub next: u32,
    /// What the datagram has been charged with in [`Share::pieces`].
    pub charged: u32,
}

const _: () = assert!(size_of::<ConnKey4>() == 16);
const _: () = assert!(size_of::<Conn>() == 24);
const _: () = assert!(size_of::<Share>() == 56);
const _: () = assert!(size_of::<FlowShares>() == 8);
const _: () = assert!(size_of::<FragKey4>() == 16);
const _: () = assert!(size_of::<Frag>() == 16);
