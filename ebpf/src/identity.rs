//! Who the other side is: `model::policy::Remote` as a packet shows it.

use crate::maps::{CIDR4, HOST4, MAPPED, PEERS4};
use aya_ebpf::maps::lpm_trie::Key;
use weft_abi::{CidrKey4, Endpoint, Host, MappedPort, Peer, peer, peer_flag};

/// What a packet tells of its remote side, besides the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// 0: none.
    pub(crate) tag: u16,
    /// Sent by the workload's own host.
    pub(crate) own_host: bool,
    /// Through a port that the host maps to the workload.
    pub(crate) mapped: bool,
}

impl Identity {
    /// What a packet of a workload shows of the other side.
    pub(crate) const UNKNOWN: Self = Self { tag: 0, own_host: false, mapped: false };

    /// All of it but the tag, in a byte: programs have little stack.
    #[inline(always)]
    pub(crate) fn origin(self) -> u8 {
        u8::from(self.own_host) | u8::from(self.mapped) << 1
    }

    /// The reverse of [`Identity::origin`].
    #[inline(always)]
    pub(crate) fn of(tag: u16, origin: u8) -> Self {
        Self { tag, own_host: origin & 1 != 0, mapped: origin & 2 != 0 }
    }
}

/// The other side, as rules name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remote {
    Itself,
    OwnHost,
    /// Through a mapped port: the outside that comes in by one, or the workload's own host reached at one.
    Mapped,
    OtherHost,
    /// [`peer::tag`], [`peer::class`], [`peer::NOBODY`] or [`peer::WORLD`].
    Named(u32),
}

/// Whose point of view it is.
pub(crate) struct Parties {
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) host: &'static Host,
    pub(crate) policy_set: u32,
}

/// The tag in a mark. It counts only from an overlay address: only our own programs let a packet
/// of such a source into the stack, and they set the whole mark. Other software's marks on other
/// packets are never read as a tag.
#[inline(always)]
pub(crate) fn tag_of(host: &Host, mark: u32, source: u32) -> u16 {
    if in_overlay(host, source) { (mark >> (host.mark_shift & 31)) as u16 } else { 0 }
}

/// Whether a packet for the workload came through one of its mapped ports. Our rules say so, after all others,
/// to what the host routes or bridges; of workloads, whose packets our programs mark, only to what one sends to
/// itself, which shows the gateway's address.
#[inline(always)]
pub(crate) fn through_mapped_port(host: &Host, mark: u32, source: u32) -> bool {
    mark & host.mapped_mark != 0 && (!in_overlay(host, source) || source == host.gateway)
}

#[inline(always)]
pub(crate) fn in_overlay(host: &Host, address: u32) -> bool {
    address & host.overlay_mask == host.overlay
}

/// The owner of an overlay address.
#[inline(always)]
pub(crate) fn peer_of(address: u32) -> Option<&'static Peer> {
    // SAFETY of the reference: trie nodes are freed after an RCU grace period, thus after us.
    PEERS4.get(Key::new(32, address)).map(|peer| unsafe { &*core::ptr::from_ref(peer) })
}

/// Who opened a connection to the workload.
#[inline(always)]
pub(crate) fn opener(parties: &Parties, address: u32, identity: Identity) -> Remote {
    if identity.own_host {
        return Remote::OwnHost;
    }
    if identity.mapped {
        return Remote::Mapped;
    }
    // A workload that reaches itself through a service shows its own address or, masqueraded,
    // the gateway's; its tag came along. Without the tag, the address could be forged.
    let own = address == parties.endpoint.ip4 || (address == parties.host.gateway && identity.tag != 0);
    if own && identity.tag == parties.endpoint.tag {
        return Remote::Itself;
    }
    if identity.tag != 0 {
        return Remote::Named(peer::tag(identity.tag));
    }
    by_address(parties, address)
}

/// Whom the workload opens a connection to. Its tag is not known here.
#[inline(always)]
pub(crate) fn target(parties: &Parties, address: u32, proto: u8, port: u16) -> Remote {
    if !is_own_host(parties.host, address) {
        return by_address(parties, address);
    }
    // What answers there is a workload, which is judged at its own veth.
    let key = MappedPort { port, proto, reserved: 0 };
    if MAPPED.get_ptr(key).is_some() { Remote::Mapped } else { Remote::OwnHost }
}

/// Whether an address is this host's own.
#[inline(always)]
pub(crate) fn is_own_host(host: &Host, address: u32) -> bool {
    address == host.gateway || address == host.vtep || HOST4.get_ptr(address).is_some()
}

#[inline(always)]
fn by_address(parties: &Parties, address: u32) -> Remote {
    match peer_of(address) {
        Some(owner) if owner.flags & peer_flag::UNMANAGED != 0 => {}
        Some(owner) if owner.vtep == address => return Remote::OtherHost,
        Some(_) => return Remote::Named(peer::NOBODY),
        // Nobody's subnet, or our own: not an outside address that a CIDR could name.
        None if in_overlay(parties.host, address) => return Remote::Named(peer::NOBODY),
        None => {}
    }
    let key = Key::new(64, CidrKey4 { set: parties.policy_set.to_be(), address });
    Remote::Named(match CIDR4.get(key) {
        Some(class) => peer::class(*class),
        None => peer::WORLD,
    })
}
