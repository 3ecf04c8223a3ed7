//! The host's network: snapshot, plan, execute; again until the plan is empty.

use super::{Core, RETRY};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use weft_hostnet::SnapshotScope;
use weft_ipam::State;
use weft_model::id::Attachment;
use weft_model::overlay::{desired, plan};

impl Core {
    pub(super) fn reconcile_network(&mut self) {
        let peers = self.usable_peers();
        let Some(placement) = &self.placement else { return };
        let workloads = self.committed();
        if self.datapath.is_none() && !workloads.is_empty() {
            // An earlier agent's programs guard them; nobody can say so now.
            return self.network_failed("kernel programs cannot be checked: leaving the host's network as it is");
        }
        let guarded = workloads.into_iter().filter(|(attachment, _)| self.guarded.contains(attachment)).collect();
        let desired = desired(placement, &peers, &guarded);
        let actual = match self.kernel.snapshot(&SnapshotScope::of(&desired)) {
            Ok(actual) => actual,
            Err(error) => return self.network_failed(&format!("cannot read the host's network: {error}")),
        };
        let ops = plan(&desired, &actual);
        if ops.is_empty() {
            self.network.in_sync = true;
            self.network.error = None;
            return;
        }
        for op in &ops {
            tracing::info!(%op, "changing the host's network");
        }
        // One obstacle must not keep the rest from being healed.
        let failed = self.kernel.execute_all(&ops, None).err().unwrap_or_default();
        self.network.changes += u64::try_from(ops.len() - failed.len()).unwrap_or(0);
        if failed.is_empty() {
            self.network.in_sync = true;
            self.network.error = None;
            // Not assumed: the next pass proves the plan empty.
            self.due.within(super::DEBOUNCE);
        } else {
            let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
            self.network_failed(&failed.join("; "));
        }
    }

    fn network_failed(&mut self, error: &str) {
        tracing::error!(error, "the host's network is not as it should be: trying again in 1 s");
        self.network.in_sync = false;
        self.network.error = Some(error.to_owned());
        self.due.within(RETRY);
    }

    /// Committed workloads and their addresses.
    pub(super) fn committed(&self) -> BTreeMap<Attachment, Ipv4Addr> {
        let Some(pool) = &self.pool else { return BTreeMap::new() };
        let committed = pool.entries().iter().filter(|(_, entry)| entry.state == State::Committed);
        committed.filter_map(|(attachment, entry)| Some((attachment.clone(), pool.address(entry.slot)?))).collect()
    }
}
