//! What nobody tells us: workloads whose link is gone, reservations never committed, links nobody
//! registered, notes the plugin left while the agent was away. containerd never calls GC.

use super::Core;
use super::journal::boot_seconds;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use weft_api::agent::{NOTES_FOLDER, ReleaseRequest};
use weft_hostnet::LinkInfo;
use weft_ipam::{Entry, State};
use weft_model::capability::Capabilities;
use weft_model::group::Identity;
use weft_model::id::{Attachment, Slot, Token};
use weft_model::op::Op;
use weft_model::overlay::LinkKind;
use weft_model::workload::{Alias, SLOT_IFINDEX_BASE, host_ifname};

impl Core {
    /// One round of collection.
    pub(super) fn collect(&mut self) {
        let links = match self.kernel.links() {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%error, "cannot list links: collecting later");
                return;
            }
        };
        let alive: BTreeSet<Token> = links.iter().filter_map(|link| self.token_of(link)).collect();
        self.collect_gone(&alive);
        self.collect_lapsed(&alive);
        self.collect_strays(&links);
        self.block_used(&links);
    }

    /// Which incarnation's link it is.
    pub(super) fn token_of(&self, link: &LinkInfo) -> Option<Token> {
        alias(link).map(|alias| alias.token).or_else(|| self.nameless(link))
    }

    /// The token of a workload whose link lost its alias: still its link, by name and index.
    fn nameless(&self, link: &LinkInfo) -> Option<Token> {
        let pool = self.pool.as_ref()?;
        let attachment = pool.owner(slot_of(link)?)?;
        let entry = pool.get(attachment)?;
        (alias(link).is_none() && link.name == host_ifname(attachment)).then(|| entry.token.clone())
    }

    /// Committed workloads whose link is gone: the namespace died without a DEL.
    fn collect_gone(&mut self, alive: &BTreeSet<Token>) {
        let Some(pool) = &self.pool else { return };
        let gone: Vec<(Attachment, Token)> = pool
            .entries()
            .iter()
            .filter(|(_, entry)| entry.state == State::Committed && !alive.contains(&entry.token))
            .map(|(attachment, entry)| (attachment.clone(), entry.token.clone()))
            .collect();
        for (attachment, _) in &gone {
            tracing::info!(%attachment, "its link is gone: collecting");
        }
        let forgotten = self.forget_all(gone.iter().map(|(attachment, token)| (attachment, Some(token))));
        self.collected += forgotten.iter().map(|was| u64::from(*was)).sum::<u64>();
    }

    /// Addresses the kernel shows in use are not given, whoever uses them. Those of workloads are the pool's to know:
    /// it knows first when one is free again, and who asks for it by name right after DEL gets it.
    fn block_used(&mut self, links: &[LinkInfo]) {
        let addresses = match self.kernel.addresses() {
            Ok(addresses) => addresses,
            Err(error) => return tracing::error!(%error, "cannot list addresses: some in use may be unknown"),
        };
        let Some(pool) = &mut self.pool else { return };
        let subnet = pool.subnet();
        let slot_at = |(_, network): (u32, ipnetwork::Ipv4Network)| {
            subnet.offset(network.ip()).and_then(|offset| u16::try_from(offset).ok()).map(Slot)
        };
        let used = links.iter().filter_map(slot_of).chain(addresses.into_iter().filter_map(slot_at));
        let unknown = used.filter(|slot| pool.owner(*slot).is_none()).collect();
        pool.block(unknown);
    }

    /// Reservations whose plugin was killed.
    fn collect_lapsed(&mut self, alive: &BTreeSet<Token>) {
        let Some(pool) = &mut self.pool else { return };
        for freed in pool.expire(boot_seconds(), |_, entry| alive.contains(&entry.token)) {
            tracing::info!(attachment = %freed.attachment, "a reservation lapsed");
            self.journal.append(&freed.event, pool);
        }
    }

    /// Links of ours that no entry stands for, and reserved ones past their time: down and off the
    /// bridge as they are, they carry nothing, and nobody will come for them.
    fn collect_strays(&mut self, links: &[LinkInfo]) {
        for link in links {
            let Some(alias) = alias(link) else {
                self.collect_unnamed(link);
                continue;
            };
            let entry = self.pool.as_ref().and_then(|pool| pool.get(&alias.attachment)).cloned();
            let stray = match &entry {
                Some(entry) if entry.token == alias.token => match entry.state {
                    State::Committed => false,
                    State::Reserved { since } => {
                        boot_seconds().saturating_sub(since) > crate::fault::reservation_seconds()
                    }
                },
                _ => self.pool.is_some(),
            };
            if stray {
                tracing::warn!(link = %link.name, attachment = %alias.attachment, "a link nobody stands for: removing it");
                let devices = match slot_of(link) {
                    Some(slot) => self.devices(slot, Some(link.name.clone())),
                    None => vec![link.name.clone()],
                };
                if let Err(error) = self.kernel.execute(&[Op::DeleteLinks(devices)], None) {
                    tracing::error!(%error, "cannot remove it: trying again with the next pass");
                    continue;
                }
                self.forget(&alias.attachment, Some(&alias.token));
            }
        }
    }

    /// The plugin was killed between making the veth and giving it its alias (the kernel takes no alias
    /// with the creation, seen on 6.18): ours by name and index, and down. While its slot is reserved,
    /// the plugin may be at it.
    fn collect_unnamed(&mut self, link: &LinkInfo) {
        let Some(slot) = slot_of(link) else { return };
        let ours =
            link.alias.is_none() && link.kind == LinkKind::Veth && link.name.as_str().starts_with("weft") && !link.up;
        let reserved = self.pool.as_ref().is_none_or(|pool| pool.owner(slot).is_some());
        if !ours || reserved {
            return;
        }
        tracing::warn!(link = %link.name, "a link whose plugin was killed before it had a name: removing it");
        if let Err(error) = self.kernel.execute(&[Op::DeleteLink(link.name.clone())], None) {
            tracing::error!(%error, "cannot remove it: trying again with the next pass");
        }
    }

    /// After a start without a usable journal: what the kernel shows is in use. A link that is up was
    /// committed; its group is not known any more, so it goes without identity until it is restarted.
    pub(super) fn adopt_links(&mut self) {
        let links = match self.kernel.links() {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%error, "cannot list links: addresses in use may be unknown");
                return;
            }
        };
        self.block_used(&links);
        let mut ports = self.ports_seen();
        let limits = self.limits_seen(&links);
        for link in links.iter().filter(|link| link.up) {
            let (Some(alias), Some(slot)) = (alias(link), slot_of(link)) else { continue };
            let Some(pool) = &mut self.pool else { return };
            if pool.get(&alias.attachment).is_some() {
                continue;
            }
            tracing::warn!(link = %link.name, attachment = %alias.attachment, "a running workload the journal does not know: adopted; in no group until one is found in the programs' maps");
            let entry = Entry {
                token: alias.token,
                slot,
                netns: String::new(),
                network: String::new(),
                identity: Identity::default(),
                group: None,
                capabilities: Capabilities {
                    ports: pool.address(slot).and_then(|ip| ports.remove(&ip)).unwrap_or_default(),
                    bandwidth: limits.get(&slot).copied().unwrap_or_default(),
                    ..Capabilities::default()
                },
                state: State::Committed,
            };
            match pool.adopt(alias.attachment, entry) {
                Ok(event) => self.journal.append(&event, pool),
                Err(error) => tracing::error!(%error, link = %link.name, "cannot adopt this workload"),
            }
        }
    }

    /// Notes the plugin left. A note that cannot be read is put aside, once.
    pub(super) fn take_notes(&mut self) {
        if self.pool.is_none() {
            return;
        }
        let folder = self.config.run_dir.join(NOTES_FOLDER);
        let Ok(notes) = fs::read_dir(&folder) else { return };
        for path in notes.flatten().map(|note| note.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || !name.ends_with(".json") {
                continue;
            }
            let removed = if self.take_note(&path) { fs::remove_file(&path) } else { Ok(()) };
            if let Err(error) = removed {
                tracing::error!(path = %path.display(), %error, "cannot remove a note that was carried out");
            }
        }
    }

    fn take_note(&mut self, path: &Path) -> bool {
        match crate::files::read::<ReleaseRequest>(path) {
            Ok(Some(request)) => self.release(&request).is_ok(),
            Ok(None) => false,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "not a note: removing it; collection finds what it meant");
                true
            }
        }
    }
}

pub(super) fn alias(link: &LinkInfo) -> Option<Alias> {
    link.alias.as_deref().and_then(Alias::parse)
}

pub(super) fn slot_of(link: &LinkInfo) -> Option<Slot> {
    link.index.checked_sub(SLOT_IFINDEX_BASE).and_then(|slot| u16::try_from(slot).ok()).map(Slot)
}
