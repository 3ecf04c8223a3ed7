//! GC as a runtime asks for it: it names the workloads it knows, of one network.

use super::{Core, Reply, internal, try_again};
use std::collections::{BTreeMap, BTreeSet};
use weft_api::agent::{GcRequest, GcResponse};
use weft_ipam::{Entry, Pool};
use weft_model::id::{Attachment, IfName, Slot, Token};
use weft_model::op::Op;
use weft_model::workload::{host_ifname, network_group};

/// A workload the runtime does not know.
struct Unknown {
    attachment: Attachment,
    token: Token,
    slot: Slot,
}

impl Core {
    /// Removes the workloads of that network that are not in the list, link and address, and whatever
    /// else nobody stands for. One that cannot be removed keeps no other from going.
    pub(super) fn gc(&mut self, request: &GcRequest) -> Reply<GcResponse> {
        let adopted = self.adopted_of(&request.network)?;
        let Some(pool) = &self.pool else {
            return Err(try_again("agent not ready: nothing can be collected without a subnet"));
        };
        let its =
            |attachment: &Attachment, entry: &Entry| entry.network == request.network || adopted.contains(attachment);
        let unknown: Vec<Unknown> = pool
            .entries()
            .iter()
            .filter(|(attachment, entry)| its(attachment, entry) && !request.valid.contains(attachment))
            .map(|(attachment, entry)| Unknown {
                attachment: attachment.clone(),
                token: entry.token.clone(),
                slot: entry.slot,
            })
            .collect();
        for Unknown { attachment, .. } in &unknown {
            tracing::info!(%attachment, network = request.network, "its runtime does not know it: removing it");
        }
        let failed = self.remove_links(&unknown);
        let stays = |attachment: &Attachment| failed.iter().any(|(other, _)| other == attachment);
        let gone: Vec<_> = unknown.iter().filter(|one| !stays(&one.attachment)).collect();
        self.forget_all(gone.iter().map(|one| (&one.attachment, Some(&one.token))));
        let removed: Vec<Attachment> = gone.into_iter().map(|one| one.attachment.clone()).collect();
        self.collect();
        if failed.is_empty() {
            return Ok(GcResponse { removed });
        }
        Err(internal(format!(
            "GC of network {}: {} of {} could not be removed: {}",
            request.network,
            failed.len(),
            failed.len() + removed.len(),
            failed.iter().map(|(attachment, why)| format!("{attachment}: {why}")).collect::<Vec<_>>().join("; ")
        )))
    }

    /// Workloads whose network the journal lost, and whose links say that it is this one.
    fn adopted_of(&mut self, network: &str) -> Reply<BTreeSet<Attachment>> {
        let entries = self.pool.iter().flat_map(Pool::entries);
        let nameless = entries.filter(|(_, entry)| entry.network.is_empty()).map(|(attachment, _)| attachment.clone());
        let adopted: BTreeMap<IfName, Attachment> = nameless.map(|one| (host_ifname(&one), one)).collect();
        if adopted.is_empty() {
            return Ok(BTreeSet::new());
        }
        let links = self.kernel.links().map_err(|error| internal(error.to_string()))?;
        let its = links.into_iter().filter(|link| link.group == network_group(network));
        Ok(its.filter_map(|link| adopted.get(&link.name).cloned()).collect())
    }

    /// Removes links and shapers of these incarnations, all in one pass of the kernel; who is left, and why.
    fn remove_links(&mut self, workloads: &[Unknown]) -> Vec<(Attachment, String)> {
        let (mut doomed, mut devices, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for one in workloads {
            match self.link_of(one) {
                Ok(link) => {
                    devices.extend(self.devices(one.slot, link));
                    doomed.push(one);
                }
                Err(error) => failed.push((one.attachment.clone(), error)),
            }
        }
        if let Err(failure) = self.kernel.execute(&[Op::DeleteLinks(devices)], None) {
            tracing::error!(%failure, "cannot remove links of workloads that no runtime knows: the next GC tries again");
            for one in doomed {
                if !self.link_of(one).is_ok_and(|left| left.is_none()) {
                    failed.push((one.attachment.clone(), failure.to_string()));
                }
            }
        }
        failed
    }

    /// The host's end of this incarnation, if it is there.
    fn link_of(&mut self, one: &Unknown) -> Result<Option<IfName>, String> {
        let link = self.kernel.link(&host_ifname(&one.attachment)).map_err(|error| error.to_string())?;
        Ok(link.filter(|link| self.token_of(link).as_ref() == Some(&one.token)).map(|link| link.name))
    }
}
