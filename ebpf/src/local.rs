//! The endpoint and the host a program works for.

use crate::maps::{EP, HOST};
use aya_ebpf::programs::TcContext;
use weft_abi::{Endpoint, Head, Host, Reason, SLOT_IFINDEX_BASE, flag};

/// The endpoint whose host veth the packet is on.
pub(crate) struct Local {
    pub(crate) slot: u32,
    pub(crate) head: Head,
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) host: &'static Host,
}

impl Local {
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Result<Self, Reason> {
        Self::at(ifindex(ctx).wrapping_sub(SLOT_IFINDEX_BASE))
    }

    /// The endpoint of a slot.
    #[inline(always)]
    pub(crate) fn at(slot: u32) -> Result<Self, Reason> {
        let endpoint = EP.get_ptr(slot).ok_or(Reason::NoEndpoint)?;
        // SAFETY: a value of an array map lives as long as the map. The word changes under us: it
        // is read once, before anything that it decides (docs/datapath.md, races, 1).
        let (endpoint, word) = unsafe { (&*endpoint, (&raw const (*endpoint).head).read_volatile()) };
        let head = Head::unpack(word);
        if head.flags & flag::ACTIVE == 0 {
            return Err(Reason::NoEndpoint);
        }
        Ok(Self { slot, head, endpoint, host: host()? })
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.head.flags & flag != 0
    }

    /// [`weft_abi::limited`] as it is now.
    #[inline(always)]
    pub(crate) fn limits(&self) -> u32 {
        // SAFETY: as in [`Local::at`]; a word is read once.
        unsafe { (&raw const self.endpoint.limited).read_volatile() }
    }

    /// The endpoint's tag as it stands in the mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        u32::from(self.endpoint.tag) << (self.host.mark_shift & 31)
    }
}

/// What the programs know of their host.
#[inline(always)]
pub(crate) fn host() -> Result<&'static Host, Reason> {
    let host = HOST.get_ptr(0).ok_or(Reason::NoEndpoint)?;
    // SAFETY: as for endpoints; an array of one always has its value.
    Ok(unsafe { &*host })
}

#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while its program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Where the packet entered the host; 0: the host itself sent it.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

#[inline(always)]
pub(crate) fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).mark }
}

#[inline(always)]
pub(crate) fn has_vlan(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}
