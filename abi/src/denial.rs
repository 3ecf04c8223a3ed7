//! What the programs tell of a denied packet, and of a connection that passed.

/// A record in ring buffer `denials`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialEvent {
    /// `CLOCK_MONOTONIC` at the packet, nanoseconds.
    pub at_ns: u64,
    /// Interface the program ran on.
    pub ifindex: u32,
    /// Slot of the endpoint that judged; `u32::MAX` on the VTEP and the underlay.
    pub slot: u32,
    /// The endpoint's incarnation.
    pub incarnation: u32,
    /// The rule that decided; 0: none did.
    pub rule: u32,
    /// Records left out for this pair since the last one.
    pub suppressed: u32,
    /// The packet's mark as the program saw it.
    pub mark: u32,
    /// Source address; IPv4 in the last four bytes after `::ffff:`.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Source port, network byte order.
    pub source_port: u16,
    /// Destination port, network byte order.
    pub destination_port: u16,
    /// The source's tag; 0: none.
    pub source_tag: u16,
    /// The packet's IP length.
    pub length: u16,
    /// [`crate::Reason`] code.
    pub reason: u8,
    /// [`crate::direction`].
    pub direction: u8,
    /// IP protocol.
    pub proto: u8,
    /// [`action`].
    pub action: u8,
    /// TCP flags, or ICMP type.
    pub tcp_flags_or_icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Values of [`DenialEvent::action`].
pub mod action {
    /// Dropped silently.
    pub const DROP: u8 = 0;
    /// Answered.
    pub const REJECT: u8 = 1;
    /// Passed, because of audit mode.
    pub const AUDIT: u8 = 2;
    /// Passed: the first packet of a connection ([`crate::host_flag::LOG_ALLOWED`]).
    pub const ALLOW: u8 = 3;
}

/// Key of map `denial_limit`, the token buckets of the record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DenialPair {
    /// Slot of the endpoint.
    pub slot: u32,
    /// The other side's address, network byte order.
    pub remote: u32,
    /// [`crate::direction`]; [`DenialPair::ALLOWED`] is added for connections that passed.
    pub direction: u32,
}

impl DenialPair {
    /// What passes has buckets of its own: it takes no record from what is denied.
    pub const ALLOWED: u32 = 2;
}

/// Value of map `denial_limit`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialBucket {
    /// When the bucket was last filled, nanoseconds.
    pub filled_ns: u64,
    /// Records it may still emit.
    pub tokens: u32,
    /// Records left out since the last one.
    pub suppressed: u32,
}

const _: () = assert!(size_of::<DenialEvent>() == 80);
const _: () = assert!(size_of::<DenialPair>() == 12);
const _: () = assert!(size_of::<DenialBucket>() == 16);
