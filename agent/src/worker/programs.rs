//! The kernel programs: loaded once, attached to what should have them, their maps filled.

use super::capabilities::protocol_ports;
use super::{Core, RETRY};
use crate::causes::chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_api::agent::KernelView;
use weft_datapath::{Attached, Datapath, DatapathError, kernel_release};
use weft_ipam::{Entry, State};
use weft_model::compile::{Policies, policy_set};
use weft_model::datapath::{Host, Limited, MapOp, PeerHost, RecordRate, Surroundings, plan_surroundings};
use weft_model::endpoints::{Programmed, Wanted, plan};
use weft_model::id::{GroupId, Slot};
use weft_model::overlay::Placement;
use weft_model::policy::PolicySet;
use weft_model::workload::host_ifname;

/// What an earlier agent left in the maps: its endpoints, and sets whose contents only it knew. They
/// stay in force until ours are written.
fn taken_over(datapath: &Datapath) -> Programmed {
    let orphans = datapath.sets();
    Programmed {
        endpoints: datapath.endpoints().into_iter().map(|(slot, view)| (slot, view.endpoint)).collect(),
        sets: BTreeMap::new(),
        last_set: orphans.last().map_or(0, |set| set.0),
        orphans,
    }
}

/// Groups whose policy set found a map full. They are not tried again before policies change or room is made:
/// each attempt writes the whole set.
#[derive(Default)]
pub(super) struct Unfit {
    /// What was said.
    groups: BTreeMap<Option<GroupId>, String>,
    /// A set was removed since.
    room: bool,
}

/// What the kernel lacks, said in the log and kept for `weft status`.
fn kernel_view(datapath: &Datapath) -> KernelView {
    let missing = datapath.features().missing();
    for text in &missing {
        tracing::warn!("this kernel has {text}");
    }
    KernelView { release: kernel_release(), missing: missing.into_iter().map(str::to_owned).collect() }
}

impl Core {
    /// Loads the programs and takes over what an earlier agent left in the maps.
    pub(super) fn open_datapath(&mut self) {
        let Some(host) = self.host() else { return };
        match Datapath::open_sized(&self.config.bpf_dir, &host, &self.config.map_sizes) {
            Ok(mut datapath) => {
                if !self.config.tcx {
                    datapath.avoid_tcx();
                }
                self.kernel_features = kernel_view(&datapath);
                match datapath.denial_reader() {
                    Ok(reader) => drop(self.outlets.denials.try_send(reader)),
                    Err(error) => tracing::error!(error = %chain(&error), "denials are counted but cannot be read"),
                }
                self.programmed = taken_over(&datapath);
                tracing::info!(
                    endpoints = self.programmed.endpoints.len(),
                    orphaned_sets = self.programmed.orphans.len(),
                    "kernel programs are loaded"
                );
                self.datapath = Some(datapath);
                self.programs.error = None;
            }
            Err(error) => self.programs_failed(&chain(&error)),
        }
    }

    pub(super) fn programs_failed(&mut self, error: &str) {
        if self.complaints.raise("programs", error) {
            tracing::error!(
                error,
                "the kernel programs are not as they should be: what is in force stays, trying again every second"
            );
        }
        self.programs.in_sync = false;
        self.programs.error = Some(error.to_owned());
        self.due.within(RETRY);
    }

    pub(super) fn host(&self) -> Option<Host> {
        let placement = self.placement.as_ref()?;
        Some(Host {
            overlay: placement.network.network(),
            gateway: placement.subnet.gateway(),
            vtep: placement.subnet.vtep_ip(),
            vni: placement.vni,
            vxlan_port: placement.port,
            mark_shift: self.config.mark_shift,
            link_local: self.config.link_local,
            denials_per_second: self.logging.denials_per_second,
            denials_burst: self.logging.denials_burst,
            allowed: self.logging.allowed.then_some(RecordRate {
                per_second: self.logging.allowed_per_second,
                burst: self.logging.allowed_burst,
            }),
            fast_path: self.fast_path,
        })
    }

    /// The configuration was read again: flows take the other way from their next packet on.
    pub(super) fn reconfigure_path(&mut self, fast: bool) {
        if self.fast_path == fast {
            return;
        }
        tracing::info!(fast_path = fast, "the way between workloads is changed");
        self.fast_path = fast;
        if let Err(error) = self.program_host() {
            self.programs_failed(&error);
        }
    }

    /// Tells the programs of their host, where there are programs and a place for it.
    pub(super) fn program_host(&mut self) -> Result<(), String> {
        let (Some(host), Some(datapath)) = (self.host(), &mut self.datapath) else { return Ok(()) };
        datapath.set_host(&host).map_err(|error| chain(&error))
    }

    /// Surroundings, endpoints, then programs on every committed workload's veth: programs of another version
    /// have other maps, and are not taken away before ours know the workloads.
    pub(super) fn reconcile_programs(&mut self) {
        let Some(host) = self.host() else { return };
        if self.datapath.is_none() {
            return;
        }
        // Maps first: where they were made anew, programs that know nobody would drop everything.
        let mut written = self.program_surroundings(&host).and_then(|()| self.program_endpoints());
        if self.replaces_another() {
            written = written.and_then(|()| self.policies_are_known()).and_then(|()| self.take_over(false));
            if let Err(error) = written {
                return self.programs_failed(&format!("{error}: another version's programs stay in force"));
            }
        }
        // Whatever could not be written: nobody goes without programs.
        let attached = self.attach_workloads();
        match written.and(attached).and_then(|()| self.take_over(true)) {
            Ok(()) => {
                self.programs.in_sync = true;
                self.programs.error = None;
            }
            Err(error) => self.programs_failed(&error),
        }
        self.say_unfit();
    }

    /// Whether the programs in force are another version's, whose maps ours do not share.
    pub(super) fn replaces_another(&self) -> bool {
        self.datapath.as_ref().is_some_and(Datapath::replaces_another)
    }

    /// Whether workloads are left to another version's programs for now.
    pub(super) fn leaves_it_to_another(&self) -> bool {
        self.replaces_another() && self.guarded.is_empty()
    }

    fn policies_are_known(&self) -> Result<(), String> {
        if self.policies.is_some() { Ok(()) } else { Err("policies are not known yet".to_owned()) }
    }

    /// Brings along the connections that the replaced version's maps hold.
    fn take_over(&mut self, last: bool) -> Result<(), String> {
        let Some(datapath) = &mut self.datapath else { return Ok(()) };
        let connections = datapath.take_over(last).map_err(|error| chain(&error))?;
        if connections > 0 {
            tracing::info!(connections, "taken over from another version's maps, to be judged again");
        }
        Ok(())
    }

    fn attach_workloads(&mut self) -> Result<(), String> {
        let workloads = self.workloads();
        let Some(datapath) = &mut self.datapath else { return Ok(()) };
        let mut first_error = Ok(());
        for attachment in workloads.keys() {
            let name = host_ifname(attachment);
            // A link that is gone is collection's.
            if self.kernel.link(&name).is_ok_and(|link| link.is_none()) {
                continue;
            }
            let attached = datapath.workload_attached(&name).and_then(|attached| {
                if !attached {
                    datapath.attach_workload(&name)?;
                    self.programs.changes += 1;
                    tracing::warn!(link = %name, %attachment, "its programs were missing or an older version's: attached");
                }
                Ok(())
            });
            match attached {
                Ok(()) => drop(self.guarded.insert(attachment.clone())),
                // It went between look and deed.
                Err(_) if self.kernel.link(&name).is_ok_and(|link| link.is_none()) => {}
                Err(error) => {
                    self.guarded.remove(attachment);
                    first_error = first_error.and(Err(format!("{name}: {}", chain(&error))));
                }
            }
        }
        first_error
    }

    fn program_surroundings(&mut self, host: &Host) -> Result<(), String> {
        let peers = self.usable_peers();
        let addresses = self.kernel.addresses().map_err(|error| error.to_string())?;
        let desired = Surroundings {
            peers: peers
                .iter()
                .map(|peer| {
                    let host = PeerHost {
                        underlay: peer.public_ip,
                        vtep: peer.subnet.vtep_ip(),
                        gbp: peer.gbp,
                        unmanaged: !peer.managed,
                    };
                    (peer.subnet.network(), host)
                })
                .collect(),
            // A host hears what is sent to its networks' broadcast addresses, whatever device it came by.
            host_addresses: addresses
                .into_iter()
                .flat_map(|(_, network)| [network.ip(), network.broadcast()])
                .collect(),
            mapped_ports: self
                .workloads()
                .values()
                .flat_map(|workload| protocol_ports(&workload.ports).collect::<Vec<_>>())
                .collect(),
        };
        let Some(datapath) = &mut self.datapath else { return Ok(()) };
        datapath.set_host(host).map_err(|error| chain(&error))?;
        let actual = datapath.surroundings().map_err(|error| chain(&error))?;
        let ops = plan_surroundings(&desired, &actual);
        datapath.apply(&ops).map_err(|error| chain(&error))?;
        self.programs.changes += u64::try_from(ops.len()).unwrap_or(0);
        self.around = Arc::new(desired);
        Ok(())
    }

    /// Endpoints and their policy sets. Without policies (never read, none on disk) what the maps
    /// hold stays: an unreachable store never means "no policies".
    pub(super) fn program_endpoints(&mut self) -> Result<(), String> {
        let Some(policies) = self.policies.clone() else { return Ok(()) };
        self.recover_groups(&policies.arranged);
        let wanted = self.wanted(&policies.arranged);
        self.sets.retain(|group, _| wanted.values().any(|want| want.group == *group));
        for want in wanted.values() {
            self.sets
                .entry(want.group.clone())
                .or_insert_with(|| policy_set(want.group.as_ref(), &self.config.stance, &policies.arranged));
        }
        if std::mem::take(&mut self.unfit.room) {
            self.unfit.groups.clear();
        }
        self.sets.retain(|group, _| !self.unfit.groups.contains_key(group));
        while let Some((set, error)) = self.apply_plan(&wanted)? {
            // Whoever it is for stays under the policies before; the others must not wait for them.
            let of_set = |(group, _): &(Option<GroupId>, PolicySet)| (group.clone(), error.clone());
            let refused: Vec<_> = self.sets.extract_if(.., |_, wanted| *wanted == set).collect();
            self.unfit.groups.extend(refused.iter().map(of_set));
        }
        if self.unfit.groups.is_empty() {
            self.enforced = policies.revision;
        }
        Ok(())
    }

    /// Does what brings endpoints and sets to what they should be; returns the set that found a map full.
    fn apply_plan(&mut self, wanted: &BTreeMap<Slot, Wanted>) -> Result<Option<(PolicySet, String)>, String> {
        let Some(datapath) = &mut self.datapath else { return Ok(None) };
        for op in plan(wanted, &self.sets, &self.programmed) {
            match (datapath.apply(std::slice::from_ref(&op)), &op) {
                (Ok(_), _) => self.programmed.apply(&op),
                (Err(error @ DatapathError::MapFull { .. }), MapOp::PutSet(_, set)) => {
                    return Ok(Some((set.clone(), chain(&error))));
                }
                (Err(error), _) => return Err(chain(&error)),
            }
            if matches!(op, MapOp::RemoveSet(_)) && !self.unfit.groups.is_empty() {
                self.unfit.room = true;
                self.due.within(RETRY);
            }
        }
        Ok(None)
    }

    /// Groups whose policies do not fit into the maps: counted, alarmed, and no revision is enforced meanwhile.
    pub(super) fn say_unfit(&mut self) {
        let groups: Vec<String> = self
            .unfit
            .groups
            .iter()
            .map(|(group, error)| {
                let group = group.as_ref().map_or_else(|| "workloads without a group".to_owned(), ToString::to_string);
                format!("the policies towards {group} do not fit: {error}")
            })
            .collect();
        let text = (!groups.is_empty()).then(|| {
            format!(
                "{}; they are judged by the policies before, and no new workload of theirs starts: take policies back, or \
                 raise max_policy_entries (pol, ranges) and start weftd again",
                groups.join("; ")
            )
        });
        match &text {
            Some(text) if self.complaints.raise("policy maps", text) => tracing::error!("{text}"),
            None if self.complaints.end("policy maps") => tracing::info!("all policies fit into the maps again"),
            _ => {}
        }
        self.alarm("policy maps", text);
    }

    /// Adopted workloads (the journal was lost) are in no group; the tag an earlier agent put into their
    /// endpoint says which it was.
    fn recover_groups(&mut self, policies: &Policies) {
        let Some(pool) = &mut self.pool else { return };
        let group_of = |slot| {
            let tag = self.programmed.endpoints.get(slot)?.tag?;
            policies.tags().iter().find(|(_, candidate)| **candidate == tag).map(|(group, _)| group.clone())
        };
        let adopted = pool.entries().iter().filter(|(_, entry)| entry.netns.is_empty() && entry.group.is_none());
        let found: Vec<_> = adopted
            .filter_map(|(attachment, entry)| {
                Some((attachment.clone(), Entry { group: Some(group_of(&entry.slot)?), ..entry.clone() }))
            })
            .collect();
        for (attachment, entry) in found {
            let group = entry.group.as_ref().map(ToString::to_string);
            tracing::info!(%attachment, ?group, "its group is known again from the programs' maps");
            match pool.adopt(attachment, entry) {
                Ok(event) => self.journal.append(&event, pool),
                Err(error) => tracing::error!(%error, "its group cannot be kept"),
            }
        }
    }

    /// Committed workloads: they are in the maps before their links come up.
    fn wanted(&self, policies: &Policies) -> BTreeMap<Slot, Wanted> {
        let Some(pool) = &self.pool else { return BTreeMap::new() };
        let committed = pool.entries().values().filter(|entry| entry.state == State::Committed);
        committed
            .filter_map(|entry| {
                let ip = pool.address(entry.slot)?;
                let want = Wanted {
                    ip,
                    mac: entry.mac(ip),
                    group: entry.group.clone(),
                    tag: entry.group.as_ref().and_then(|group| policies.tags().get(group)).copied(),
                    deny: self.config.deny,
                    audit: self.logging.audits(entry.group.as_ref()),
                    limited: Limited::of(&entry.capabilities.bandwidth),
                };
                Some((entry.slot, want))
            })
            .collect()
    }

    /// Programs on the VXLAN device and the underlay. When all are attached, nothing is left of another version.
    pub(super) fn attach_overlay(&mut self) {
        let Some(placement) = self.placement.clone() else { return };
        if let Err(error) = self.try_attach_overlay(&placement).and_then(|()| self.settle()) {
            self.programs_failed(&error);
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        match &mut self.datapath {
            Some(datapath) if self.programs.in_sync => datapath.settle().map_err(|error| chain(&error)),
            _ => Ok(()),
        }
    }

    fn try_attach_overlay(&mut self, placement: &Placement) -> Result<(), String> {
        let links = self.kernel.links().map_err(|error| error.to_string())?;
        let underlay = links.into_iter().find(|link| link.index == placement.underlay_index);
        let underlay = underlay.ok_or_else(|| format!("underlay interface {} is gone", placement.underlay_index))?;
        let Some(datapath) = &mut self.datapath else { return Ok(()) };
        let on_underlay = datapath.attach_underlay(&underlay.name).map_err(|error| chain(&error))?;
        let on_vtep = datapath.attach_vtep(&placement.vxlan).map_err(|error| chain(&error))?;
        self.pinned = datapath.pinned_links();
        for (link, attached) in [(&underlay.name, on_underlay), (&placement.vxlan, on_vtep)] {
            if attached == Attached::Changed {
                self.programs.changes += 1;
                tracing::info!(%link, "its programs were missing or an older version's: attached");
            }
        }
        Ok(())
    }

    /// Nobody tells when a pin is removed, and with it a program.
    pub(super) fn look_at_pins(&mut self) {
        let pinned = self.datapath.as_ref().map(Datapath::pinned_links);
        if pinned.is_some_and(|pinned| pinned != self.pinned) {
            self.due.within(std::time::Duration::ZERO);
        }
    }
}
