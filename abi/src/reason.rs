//! Why a packet was refused, and the counters that go with it.

/// Index into map `counters` (per CPU, packets) and field of a denial record.
///
/// Codes are never re-used for another meaning.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Passed.
    Passed = 0,
    /// No policy allows it.
    Policy = 1,
    /// No endpoint is registered in the slot.
    NoEndpoint = 2,
    /// Source hardware address is not the workload's.
    SpoofedMac = 3,
    /// Source IP address is not the workload's.
    SpoofedIp = 4,
    /// ARP with a sender that is not the workload's.
    SpoofedArp = 5,
    /// Headers cut short or inconsistent.
    Malformed = 6,
    /// A later fragment whose first fragment was not seen to pass.
    Fragment = 7,
    /// Mid-stream TCP of an unknown flow that policy does not allow: dropped, never reset.
    MidStream = 8,
    /// VXLAN from an address that is no peer.
    NotAPeer = 9,
    /// Inner source address not of the sending peer's subnet.
    InnerSource = 10,
    /// Neither IPv4 nor ARP.
    EtherType = 11,
    /// To its own host, for a port that is not listed.
    HostAccess = 12,
    /// VXLAN sent by a workload.
    WorkloadVxlan = 13,
    /// Link-local destination that is not configured.
    LinkLocal = 14,
    /// A packet to an address that is not the endpoint's.
    WrongDestination = 15,
    /// DHCP server or other rogue answer from a workload.
    RogueServer = 16,
    /// Would have been denied; passed because of audit mode.
    Audited = 17,
    /// Denied packets answered with a RST or an ICMP error.
    Rejected = 18,
    /// A conntrack entry could not be inserted; the verdict stood.
    ConntrackFull = 19,
    /// A denial record was left out because of the rate limit of its pair.
    RecordLimited = 20,
    /// A denial record was lost because the ring buffer was full.
    RecordLost = 21,
    /// A broadcast or multicast packet of a workload.
    Multicast = 22,
    /// A live flow stopped because the policy that allowed it is gone.
    Revoked = 23,
    /// A checksum that is left to the device (checksum offload) would be written over what was judged.
    ChecksumOffload = 24,
    /// Passed on by a program of the VXLAN device or of the underlay: VXLAN of our network.
    Carried = 25,
    /// Other people's traffic on the underlay, left alone.
    Foreign = 26,
    /// A piece of a datagram of a workload that has too many unfinished ones.
    FragmentShare = 27,
    /// A denied packet that should have been answered was dropped: its workload has had its share of answers.
    AnswerLimited = 28,
    /// To an address that is nobody's: 0.0.0.0/8, 127.0.0.0/8, 240.0.0.0/4.
    Martian = 29,
    /// An IP header with options, sent by a workload.
    IpOptions = 30,
    /// Passed by the host's stack: from a workload straight into another one of the host, judged for both, to the tunnel,
    /// or out of it into a workload.
    Direct = 31,
}

impl Reason {
    /// How many counters there are.
    pub const COUNT: u32 = 32;

    /// All, by code.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Passed,
        Self::Policy,
        Self::NoEndpoint,
        Self::SpoofedMac,
        Self::SpoofedIp,
        Self::SpoofedArp,
        Self::Malformed,
        Self::Fragment,
        Self::MidStream,
        Self::NotAPeer,
        Self::InnerSource,
        Self::EtherType,
        Self::HostAccess,
        Self::WorkloadVxlan,
        Self::LinkLocal,
        Self::WrongDestination,
        Self::RogueServer,
        Self::Audited,
        Self::Rejected,
        Self::ConntrackFull,
        Self::RecordLimited,
        Self::RecordLost,
        Self::Multicast,
        Self::Revoked,
        Self::ChecksumOffload,
        Self::Carried,
        Self::Foreign,
        Self::FragmentShare,
        Self::AnswerLimited,
        Self::Martian,
        Self::IpOptions,
        Self::Direct,
    ];

    /// The name in logs, metrics and documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Policy => "policy",
            Self::NoEndpoint => "no-endpoint",
            Self::SpoofedMac => "spoofed-mac",
            Self::SpoofedIp => "spoofed-ip",
            Self::SpoofedArp => "spoofed-arp",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::MidStream => "mid-stream",
            Self::NotAPeer => "not-a-peer",
            Self::InnerSource => "inner-source",
            Self::EtherType => "ether-type",
            Self::HostAccess => "host-access",
            Self::WorkloadVxlan => "workload-vxlan",
            Self::LinkLocal => "link-local",
            Self::WrongDestination => "wrong-destination",
            Self::RogueServer => "rogue-server",
            Self::Audited => "audited",
            Self::Rejected => "rejected",
            Self::ConntrackFull => "conntrack-full",
            Self::RecordLimited => "record-limited",
            Self::RecordLost => "record-lost",
            Self::Multicast => "multicast",
            Self::Revoked => "revoked",
            Self::ChecksumOffload => "checksum-offload",
            Self::Carried => "carried",
            Self::Foreign => "foreign",
            Self::FragmentShare => "fragment-share",
            Self::AnswerLimited => "answer-limited",
            Self::Martian => "martian",
            Self::IpOptions => "ip-options",
            Self::Direct => "direct",
        }
    }

    /// Whether a packet refused for this reason leaves a record in `denials`; the others (noise of
    /// ordinary networks) are only counted.
    #[must_use]
    pub const fn is_recorded(self) -> bool {
        Self::is_code_recorded(self as u8)
    }

    /// As [`Reason::is_recorded`], for a code.
    #[must_use]
    #[inline(always)]
    pub const fn is_code_recorded(code: u8) -> bool {
        const NOISE: u32 = 1 << Reason::NoEndpoint as u32
            | 1 << Reason::EtherType as u32
            | 1 << Reason::WrongDestination as u32
            | 1 << Reason::Multicast as u32;
        NOISE >> (code & 31) & 1 == 0
    }

    /// The reason of a code, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}
