//! Workloads' limits: put at the commit, looked at by CHECK, read from the kernel when the journal is lost. What
//! heals them, and removes shapers nobody needs, is the plan of the host's network.

use super::Core;
use std::collections::BTreeMap;
use weft_hostnet::{Error, LinkInfo, means_to_limit};
use weft_model::bandwidth::{Bandwidth, Buckets, Means, Seen, plan_limits, shaper_ifname, shapers_slot, veths_slot};
use weft_model::id::{IfName, Slot};
use weft_model::op::Op;
use weft_model::overlay::LinkKind;
use weft_model::workload::Wiring;

impl Core {
    /// Tries what the kernel can do; again while something is missing, since a module may be loaded later. It takes a
    /// namespace to try.
    pub(super) fn look_at_means(&mut self) {
        if self.means == Some(Means::ALL) {
            return;
        }
        let means = crate::fault::means().unwrap_or_else(means_to_limit);
        if self.means != Some(means) {
            means.missing().iter().for_each(|text| tracing::warn!("this kernel has {text}"));
            self.means = Some(means);
        }
    }

    /// Why nobody can be held to these limits, if nobody can.
    pub(super) fn cannot_limit(&mut self, limits: &Bandwidth) -> Option<String> {
        if limits.is_unlimited() {
            return None;
        }
        self.look_at_means();
        let missing = self.means?.missing_for(limits)?;
        Some(format!("bandwidth: this kernel has {missing}"))
    }

    /// Before the link comes up, as everything that holds a workload back.
    pub(super) fn limit(&mut self, wiring: &Wiring, limits: &Bandwidth) -> Result<(), String> {
        // Whoever had the slot before may have left his shaper.
        let fresh = Seen { occupied: true, ..Seen::default() };
        let ops = plan_limits(&wiring.host_ifname(), wiring.slot, limits, wiring.mtu, &fresh);
        if ops.is_empty() {
            return Ok(());
        }
        self.execute("limit-op", &ops, &wiring.attachment)
    }

    /// What would have to be done to hold the workload to its limits.
    pub(super) fn missing_limits(&mut self, wiring: &Wiring, limits: &Bandwidth) -> Result<Vec<Op>, Error> {
        if limits.is_unlimited() {
            return Ok(Vec::new());
        }
        let buckets = self.kernel.buckets()?;
        let name = shaper_ifname(wiring.slot);
        let found = self.kernel.link(&name)?;
        let shaper = found.as_ref().filter(|link| is_shaper(link));
        let seen = Seen {
            veth: buckets.get(&wiring.host_index()).copied(),
            shaper: shaper.map(|link| (link.up, buckets.get(&link.index).copied())),
            occupied: found.is_some() && shaper.is_none(),
        };
        Ok(plan_limits(&wiring.host_ifname(), wiring.slot, limits, wiring.mtu, &seen))
    }

    /// Limits as the kernel has them, for workloads whose journal was lost.
    pub(super) fn limits_seen(&mut self, links: &[LinkInfo]) -> BTreeMap<Slot, Bandwidth> {
        let buckets = match self.kernel.buckets() {
            Ok(buckets) => buckets,
            Err(error) => {
                tracing::error!(%error, "cannot read queueing disciplines: limits of adopted workloads are lost");
                Buckets::new()
            }
        };
        let mut seen: BTreeMap<Slot, Seen> = BTreeMap::new();
        for link in links {
            let bucket = buckets.get(&link.index).copied();
            if let (Some(slot), LinkKind::Veth) = (veths_slot(link.index), &link.kind) {
                seen.entry(slot).or_default().veth = bucket;
            } else if let (Some(slot), true) = (shapers_slot(&link.name, link.index), is_shaper(link)) {
                seen.entry(slot).or_default().shaper = Some((link.up, bucket));
            }
        }
        seen.into_iter().map(|(slot, seen)| (slot, seen.limits())).collect()
    }

    /// A workload's link and the shaper of its slot, as far as they are there: they go in the same pass of the kernel.
    pub(super) fn devices(&mut self, slot: Slot, link: Option<IfName>) -> Vec<IfName> {
        let shaper = shaper_ifname(slot);
        let there = matches!(self.kernel.link(&shaper), Ok(Some(found)) if is_shaper(&found));
        link.into_iter().chain(there.then_some(shaper)).collect()
    }

    /// The shaper of a workload that is about to be removed: it goes in the same pass of the kernel.
    pub(super) fn shaper_of(&self, attachment: &weft_model::id::Attachment) -> Option<IfName> {
        let entry = self.pool.as_ref()?.get(attachment)?;
        entry.capabilities.bandwidth.egress.map(|_limit| shaper_ifname(entry.slot))
    }
}

/// Whether a link found by a shaper's name is one of ours.
pub(super) fn is_shaper(link: &LinkInfo) -> bool {
    link.kind == LinkKind::Ifb && shapers_slot(&link.name, link.index).is_some()
}
