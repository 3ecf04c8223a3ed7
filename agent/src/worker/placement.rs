//! Where the host stands in the overlay, from lease, configuration and underlay.

use super::Core;
use crate::cache::CachedPeer;
use crate::overlay::Overlay;
use std::net::Ipv4Addr;
use std::time::Duration;
use weft_hostnet::Executor;
use weft_ipam::Times;
use weft_model::id::{IfName, Slot};
use weft_model::lease;
use weft_model::overlay::{Peer, Placement, VXLAN_OVERHEAD};

/// The device towards the other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Underlay {
    /// Its name.
    pub name: IfName,
    /// Its index.
    pub index: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// The address others reach us by.
    pub address: Ipv4Addr,
    /// The addresses it has.
    pub addresses: Vec<Ipv4Addr>,
}

/// Finds the underlay: the interface named, else the one that has the address named, else the default
/// route's; the address named, else the interface's first.
///
/// # Errors
/// One line that says what was looked for and what to set.
pub(crate) fn underlay(
    kernel: &mut Executor,
    interface: Option<&IfName>,
    public_ip: Option<Ipv4Addr>,
) -> Result<Underlay, String> {
    let found = match (interface, public_ip) {
        (Some(name), _) => kernel
            .link(name)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("interface: invalid value \"{name}\": there is no such interface on this host"))?,
        (None, Some(ip)) => kernel
            .link_with_address(ip)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("public_ip: invalid value \"{ip}\": no interface of this host has this address; set interface, if it is reached through NAT"))?,
        (None, None) => kernel
            .default_route_link()
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "interface: missing: this host has no default route to find the interface by".to_owned())?,
    };
    let addresses = kernel.addresses_of(&found).map_err(|error| error.to_string())?;
    let addresses: Vec<Ipv4Addr> = addresses.iter().map(|network| network.ip()).collect();
    let address = public_ip.or_else(|| addresses.first().copied());
    let address = address.ok_or_else(|| format!("public_ip: missing: interface {} has no IPv4 address", found.name))?;
    Ok(Underlay { name: found.name, index: found.index, mtu: found.mtu, address, addresses })
}

/// The place that lease, configuration and underlay make.
#[must_use]
pub(crate) fn placement(
    config: &crate::config::Config,
    overlay: &Overlay,
    subnet: weft_model::net::Subnet,
    underlay: &Underlay,
    audit: bool,
) -> Option<Placement> {
    let vxlan = match &config.vxlan_name {
        Some(name) => name.clone(),
        None => IfName::new(format!("weft-vx{}", overlay.vni)).ok()?,
    };
    Some(Placement {
        network: overlay.network,
        subnet,
        public_ip: underlay.address,
        underlay_index: underlay.index,
        mtu: config.mtu.unwrap_or_else(|| underlay.mtu.saturating_sub(VXLAN_OVERHEAD)),
        bridge: config.bridge.clone(),
        vxlan,
        vni: overlay.vni,
        port: overlay.port,
        masquerade: config.masquerade,
        mark_shift: config.mark_shift,
        // In audit mode the programs let through what they would refuse, and so must the rules.
        host_services: config.stance.host_services.clone().filter(|_| !audit),
    })
}

impl Core {
    pub(super) fn take_lease(&mut self, state: lease::State, overlay: Overlay, peers: Vec<CachedPeer>) {
        let changed = self.lease != state || self.overlay.as_ref() != Some(&overlay) || self.peers != peers;
        self.lease = state;
        self.overlay = Some(overlay);
        self.peers = peers;
        if changed {
            // Peers first: a host that joins is reachable a millisecond after its key is seen.
            self.due.within(Duration::ZERO);
        }
    }

    /// Finds the host's place; whether there is one.
    pub(super) fn place(&mut self) -> bool {
        let (Some(overlay), Some(subnet)) = (self.overlay.clone(), self.lease.subnet()) else {
            return self.placement.is_some();
        };
        // An unsettled lease may have to be given back: nothing is built on it.
        if matches!(self.lease, lease::State::Settling { .. }) && self.placement.is_none() {
            return false;
        }
        let underlay = match underlay(&mut self.kernel, self.config.interface.as_ref(), Some(self.me.public_ip)) {
            Ok(underlay) => underlay,
            Err(error) => {
                self.underlay_failed(Some(error));
                return self.placement.is_some();
            }
        };
        self.underlay_failed(self.moved(&underlay));
        let Some(placement) = placement(&self.config, &overlay, subnet, &underlay, self.logging.audit) else {
            return false;
        };
        if self.placement.as_ref().is_none_or(|old| old.subnet != placement.subnet) {
            self.built = false;
            self.open_pool(placement.subnet);
        }
        if self.placement.as_ref() != Some(&placement) {
            tracing::info!(subnet = %placement.subnet, underlay = %underlay.name, public_ip = %placement.public_ip, mtu = placement.mtu, vni = placement.vni, port = placement.port, "this host's place in the overlay");
            self.placement = Some(placement);
        }
        if self.datapath.is_none() {
            self.open_datapath();
        }
        true
    }

    fn underlay_failed(&mut self, error: Option<String>) {
        match &error {
            Some(error) if self.complaints.raise("underlay", error) => {
                tracing::error!(error, "the underlay is not what it was: leaving the host's network as it is");
            }
            None if self.complaints.end("underlay") => tracing::info!("the underlay is what it was again"),
            _ => {}
        }
        self.alarm("underlay", error);
    }

    /// The other hosts know us by the address found at the start. One that was set by hand may belong to a
    /// translator in front of us.
    fn moved(&self, underlay: &Underlay) -> Option<String> {
        let known = self.me.public_ip;
        let moved = self.config.public_ip.is_none() && !underlay.addresses.contains(&known);
        moved.then(|| {
            format!(
                "interface {} has not the address {known} any more by which the other hosts know this one (it has {:?}): give it back, or restart weftd: it keeps its subnet and tells the others its new address",
                underlay.name, underlay.addresses
            )
        })
    }

    fn open_pool(&mut self, subnet: weft_model::net::Subnet) {
        let times = Times { cool_down: self.config.cool_down, reservation: crate::fault::reservation_seconds() };
        let mut pool = self.journal.restore(subnet, times);
        let reserved = |slot: &Slot| {
            subnet
                .address(u32::from(slot.0))
                .is_some_and(|ip| self.config.reserved.iter().any(|range| range.contains(&ip)))
        };
        pool.keep_back(
            subnet.workload_offsets().filter_map(|n| u16::try_from(n).ok()).map(Slot).filter(reserved).collect(),
        );
        self.pool = Some(pool);
        self.adopt_links();
    }

    /// Peers that can be used; what is wrong with the others is kept for the status.
    pub(super) fn usable_peers(&mut self) -> Vec<Peer> {
        let Some(placement) = &self.placement else { return Vec::new() };
        let peers: Vec<Peer> = self.peers.iter().map(peer).collect();
        let (usable, refused) = weft_model::overlay::usable_peers(placement, &peers);
        let refused: Vec<String> =
            refused.iter().map(|(peer, why)| format!("{} at {}: {why}", peer.subnet, peer.public_ip)).collect();
        if refused != self.refused_peers {
            for complaint in &refused {
                tracing::warn!(peer = complaint, "not using this peer");
            }
            self.refused_peers = refused;
        }
        usable
    }
}

pub(crate) fn peer(cached: &CachedPeer) -> Peer {
    Peer {
        subnet: cached.subnet,
        public_ip: cached.public_ip,
        vtep_mac: cached.vtep_mac,
        gbp: cached.gbp,
        managed: cached.managed,
    }
}
