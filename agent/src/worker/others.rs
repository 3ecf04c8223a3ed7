//! A look at what this host has for us, and at what other software on it does with our packets.

use super::Core;
use std::time::{Duration, Instant};
use weft_model::others::{mark_collisions, plan_forward, shadowed};
use weft_model::workload::host_ifname;

/// Nobody tells of such changes, and a look costs some milliseconds.
const INTERVAL: Duration = Duration::from_secs(2);

impl Core {
    /// Makes way where that is the custom, and raises alarms where a person has to.
    pub(super) fn look_at_others(&mut self) {
        let now = Instant::now();
        if self.others_seen.is_some_and(|seen| now < seen + INTERVAL) {
            return;
        }
        self.others_seen = Some(now);
        self.look_at_means();
        for (about, text) in [
            ("forward", self.make_way()),
            ("marks", self.colliding_rules()),
            ("foreign programs", self.foreign_programs()),
            ("listeners", self.shadowed_processes()),
        ] {
            if let Some(text) = &text
                && self.complaints.raise(about, text)
            {
                tracing::warn!("{text}");
            }
            if text.is_none() {
                self.complaints.end(about);
            }
            self.alarm(about, text);
        }
    }

    /// Accepts forwarded packets in iptables' chain, if it drops them.
    fn make_way(&mut self) -> Option<String> {
        let placement = self.placement.as_ref()?;
        let chains = match self.kernel.forward_chains() {
            Ok(chains) => chains,
            Err(error) => return Some(format!("cannot see whether a firewall drops forwarded packets: {error}")),
        };
        let (ops, mut complaints) = plan_forward(&chains, placement);
        for op in &ops {
            tracing::info!(%op, "a chain of iptables drops what is forwarded: making way");
        }
        if let Err(failed) = self.kernel.execute_all(&ops, None) {
            complaints.extend(failed.iter().map(ToString::to_string));
        }
        joined(complaints)
    }

    /// A mapped port goes before a process of the host that listens there, also one that was there first.
    fn shadowed_processes(&self) -> Option<String> {
        let entries = self.pool.as_ref()?.entries();
        let mapped =
            || entries.iter().flat_map(|(owner, entry)| entry.capabilities.ports.iter().map(move |port| (owner, port)));
        mapped().next()?;
        match self.kernel.listeners() {
            Ok(listeners) => joined(shadowed(&listeners, mapped())),
            Err(error) => Some(format!("cannot see whether processes listen at mapped ports: {error}")),
        }
    }

    fn colliding_rules(&mut self) -> Option<String> {
        match self.kernel.mark_rules() {
            Ok(rules) => joined(mark_collisions(&rules, self.config.mark_shift)),
            Err(error) => Some(format!("cannot see whether routing rules use our marks: {error}")),
        }
    }

    /// TCX programs run before clsact, and one that lets a packet pass for good keeps it from ours.
    fn foreign_programs(&self) -> Option<String> {
        let datapath = self.datapath.as_ref()?;
        let links = self.workloads().into_keys().map(|attachment| host_ifname(&attachment));
        // A link that goes in this moment has none.
        let foreign = links.filter_map(|link| Some((datapath.foreign_tcx(&link).ok()?, link)));
        let found: Vec<String> = foreign
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, link)| format!("{link} ({})", names.join(", ")))
            .collect();
        (!found.is_empty()).then(|| {
            format!(
                "TCX programs of others on workloads' links run before policy, and can pass packets by it: {}; \
                 attach them by clsact at a later preference, or elsewhere",
                found.join("; ")
            )
        })
    }
}

fn joined(complaints: Vec<String>) -> Option<String> {
    (!complaints.is_empty()).then(|| complaints.join("; "))
}
