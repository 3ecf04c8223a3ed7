//! What the worker says of itself: the directory for the other tasks, the answers to `weft`.

use super::Core;
use super::journal::boot_seconds;
use crate::directory::{Directory, Resident};
use crate::in_force::InForce;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_api::agent::{EndpointView, KernelView, MapFill, PeerView, Status};
use weft_ipam::State;
use weft_model::bandwidth::Means;
use weft_model::id::{GroupId, Tag};
use weft_model::workload::{SLOT_IFINDEX_BASE, host_ifname};

impl Core {
    /// Publishes who is who.
    pub(super) fn publish(&self) {
        let tags = self.policies.as_ref().map(|policies| policies.arranged.tags());
        let tag = |group: &GroupId| tags.and_then(|tags| tags.get(group)).copied();
        let mut directory = Directory {
            subnet: self.placement.as_ref().map(|placement| placement.subnet),
            groups: tags.into_iter().flatten().map(|(group, tag)| (*tag, group.clone())).collect(),
            enforced: self.enforced,
            epoch: self.policies.as_ref().map(|policies| policies.epoch.clone()).unwrap_or_default(),
            in_force: self.in_force().map(Arc::new),
            ..Directory::default()
        };
        directory.hosts = self
            .peers
            .iter()
            .map(|peer| (peer.subnet, peer.hostname.clone().unwrap_or_else(|| peer.public_ip.to_string())))
            .chain(directory.subnet.map(|subnet| (subnet, self.me.hostname.clone())))
            .collect();
        for (attachment, entry) in self.pool.iter().flat_map(|pool| pool.entries()) {
            let resident = Resident {
                attachment: attachment.clone(),
                group: entry.group.clone(),
                tag: entry.group.as_ref().and_then(tag),
                identity: entry.identity.clone(),
                host_ifname: host_ifname(attachment).to_string(),
            };
            directory.endpoints.insert(entry.slot, resident);
        }
        self.outlets.directory.send_replace(Arc::new(directory));
    }

    /// What the programs judge by, for who is to say why.
    fn in_force(&self) -> Option<InForce> {
        let set_of = |set| self.programmed.sets.get(set).cloned();
        let endpoints = self.programmed.endpoints.iter();
        Some(InForce {
            host: self.host()?,
            around: self.around.clone(),
            stance: self.config.stance.clone(),
            known: self.policies.clone()?,
            sets: endpoints.filter_map(|(slot, endpoint)| Some((*slot, set_of(&endpoint.set)?))).collect(),
        })
    }

    /// For `weft status`.
    pub(super) fn status(&self) -> Status {
        let usage = self.pool.as_ref().map(|pool| pool.usage(boot_seconds())).unwrap_or_default();
        let mut alarms: Vec<String> = self.alarms.values().cloned().collect();
        if usage.size > 0 && usage.free * 10 < usage.size {
            alarms.push(format!("only {} of {} addresses are free", usage.free, usage.size));
        }
        let map_fill = self.map_fill();
        // Of the connections the oldest give way: that is no matter for a person.
        let nearly_full = map_fill.iter().filter(|(map, fill)| *map != "ct_est4" && fill.is_nearly_full());
        alarms.extend(nearly_full.map(|(map, MapFill { entries, capacity })| {
            let mend = match map.as_str() {
                "pol" | "ranges" => "raise max_policy_entries and start weftd again",
                _ => "its size is fixed, docs/datapath.md says under Limits what it is of",
            };
            format!(
                "map {map} of the programs is nearly full: {entries} of {capacity} entries; what does not fit will be \
                 refused: {mend}"
            )
        }));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.me.node.clone(),
            kind: self.config.groups.kind,
            public_ip: self.me.public_ip,
            subnet: self.lease.subnet(),
            lease: self.lease.to_string(),
            store: self.store.clone(),
            peers: self.peer_views(),
            refused_peers: self.refused_peers.clone(),
            endpoints: u32::try_from(self.workloads().len()).unwrap_or(u32::MAX),
            free_addresses: usage.free,
            collected: self.collected,
            enforced_revision: self.enforced,
            network: self.network.clone(),
            datapath: self.programs.clone(),
            kernel: self.kernel_view(),
            counters: self.counters(),
            maps: self.maps(),
            map_fill,
            logged: self.outlets.counts.now(),
            alarms,
        }
    }

    fn kernel_view(&self) -> KernelView {
        let mut kernel = self.kernel_features.clone();
        kernel.missing.extend(self.means.into_iter().flat_map(Means::missing).map(str::to_owned));
        kernel
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let view = |peer: &crate::cache::CachedPeer| PeerView {
            subnet: peer.subnet,
            public_ip: peer.public_ip,
            managed: peer.managed,
            gbp: peer.gbp,
            hostname: peer.hostname.clone(),
        };
        self.peers.iter().map(view).collect()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let counters = self.datapath.as_ref().map(|datapath| datapath.counters());
        match counters {
            Some(Ok(counters)) => counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            Some(Err(error)) => {
                tracing::error!(%error, "cannot read the programs' counters");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        }
    }

    fn maps(&self) -> BTreeMap<String, u64> {
        let memory = self.datapath.as_ref().map(weft_datapath::Datapath::map_memory);
        match memory {
            Some(Ok(memory)) => memory.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect(),
            Some(Err(error)) => {
                tracing::debug!(%error, "cannot read what the maps take");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        }
    }

    fn map_fill(&self) -> BTreeMap<String, MapFill> {
        let fill = self.datapath.as_ref().map(weft_datapath::Datapath::map_fill).unwrap_or_default();
        let view = |fill: weft_datapath::Fill| MapFill { entries: fill.entries, capacity: fill.capacity };
        fill.into_iter().map(|(name, fill)| (name.to_owned(), view(fill))).collect()
    }

    /// For `weft endpoints`.
    pub(super) fn endpoints(&self) -> Vec<EndpointView> {
        let Some(pool) = &self.pool else { return Vec::new() };
        let generations = self.datapath.as_ref().map(weft_datapath::Datapath::endpoints).unwrap_or_default();
        let view = |(attachment, entry): (&weft_model::id::Attachment, &weft_ipam::Entry)| {
            let programmed = self.programmed.endpoints.get(&entry.slot);
            let set = programmed.and_then(|endpoint| self.programmed.sets.get(&endpoint.set));
            let tag: Option<Tag> = programmed.and_then(|endpoint| endpoint.tag);
            Some(EndpointView {
                attachment: attachment.clone(),
                address: pool.address(entry.slot)?,
                host_ifname: host_ifname(attachment).to_string(),
                netns: entry.netns.clone(),
                network: entry.network.clone(),
                group: entry.group.clone(),
                tag,
                state: match entry.state {
                    State::Reserved { .. } => "reserved",
                    State::Committed => "committed",
                }
                .to_owned(),
                isolated: programmed.is_some_and(|endpoint| endpoint.isolated),
                rules: set.map_or(0, |set| u32::try_from(set.rules.len()).unwrap_or(u32::MAX)),
                generation: generations.get(&entry.slot).map_or(0, |endpoint| endpoint.generation),
                identity: entry.identity.clone(),
                host_ifindex: SLOT_IFINDEX_BASE + u32::from(entry.slot.0),
                mac: pool.address(entry.slot).map(|ip| entry.mac(ip)),
                capabilities: entry.capabilities.clone(),
            })
        };
        pool.entries().iter().filter_map(view).collect()
    }
}
