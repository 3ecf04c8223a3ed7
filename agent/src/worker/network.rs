//! The host's network: snapshot, plan, execute; again until the plan is empty.

use super::{Core, RETRY};
use weft_hostnet::{LinkInfo, OpError, SnapshotScope};
use weft_model::op::Op;
use weft_model::overlay::{LinkKind, desired, plan};

impl Core {
    pub(super) fn reconcile_network(&mut self) {
        let peers = self.usable_peers();
        let Some(placement) = &self.placement else { return };
        let workloads = self.workloads();
        if (self.datapath.is_none() || self.leaves_it_to_another()) && !workloads.is_empty() {
            // Another agent's programs guard them; nobody can say so now.
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
            return self.network_in_sync();
        }
        self.say(&ops);
        // One obstacle must not keep the rest from being healed.
        let mut failed = self.kernel.execute_all(&ops, None).err().unwrap_or_default();
        let all = failed.len();
        failed.retain(|error| !self.vanished(error, &ops));
        self.network.changes += u64::try_from(ops.len() - all).unwrap_or(0);
        if failed.is_empty() {
            self.stuck.clear();
            self.network_in_sync();
            // Not assumed: the next pass proves the plan empty.
            self.due.within(super::DEBOUNCE);
        } else {
            let in_the_way = self.in_the_way(&failed, &ops);
            self.network_failed(&format!("{}{}", first_of(&failed), in_the_way.unwrap_or_default()));
        }
    }

    fn network_in_sync(&mut self) {
        self.network.in_sync = true;
        self.network.error = None;
        self.built = true;
    }

    /// Whether an op failed because its workload went between look and deed: no obstacle.
    fn vanished(&mut self, error: &OpError, ops: &[Op]) -> bool {
        let (
            Some(
                Op::JoinBridge { link, .. }
                | Op::ReplacePortEntry(link, _)
                | Op::SetMtu(link, _)
                | Op::SetUp(link)
                | Op::Shape(link, _),
            ),
            Some(placement),
        ) = (ops.get(error.index), &self.placement)
        else {
            return false;
        };
        let ours = [&placement.bridge, &placement.vxlan].contains(&link);
        !ours && self.kernel.link(link).is_ok_and(|link| link.is_none())
    }

    /// Says what is about to be done, unless the last pass tried the very same in vain.
    fn say(&mut self, ops: &[Op]) {
        let ops: Vec<String> = ops.iter().map(ToString::to_string).collect();
        if ops != self.stuck {
            for op in &ops {
                tracing::info!(%op, "changing the host's network");
            }
        }
        self.stuck = ops;
    }

    /// The kernel takes a VNI and port once only. It is not ours to remove somebody else's device, nor one
    /// of ours that was given another name.
    fn in_the_way(&mut self, failed: &[OpError], ops: &[Op]) -> Option<String> {
        let refused =
            |error: &&OpError| error.already_exists() && matches!(ops.get(error.index), Some(Op::CreateVxlan(_)));
        failed.iter().find(refused)?;
        let wanted = self.placement.as_ref()?;
        let links = self.kernel.links().ok()?;
        let same = |link: &&LinkInfo| matches!(link.kind, LinkKind::Vxlan { vni, port, .. } if (vni, port) == (wanted.vni, wanted.port));
        let other = &links.iter().find(same)?.name;
        Some(format!(
            "; {other} has VNI {} and port {}: remove it (ip link del {other}), or set vni, vxlan_port or vxlan_name",
            wanted.vni, wanted.port
        ))
    }

    fn network_failed(&mut self, error: &str) {
        if self.complaints.raise("network", error) {
            tracing::error!(error, "the host's network is not as it should be: trying again every second");
        }
        self.network.in_sync = false;
        self.network.error = Some(error.to_owned());
        self.due.within(RETRY);
    }
}

/// The first failures; what follows often needs what they were to make.
fn first_of(failed: &[OpError]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = failed.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match failed.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", shown.join("; "))
}
