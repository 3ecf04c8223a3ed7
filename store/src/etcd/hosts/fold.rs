//! What keys below `subnets` and `hosts` say, folded into a view. Pure.

use crate::etcd::change::Change;
use crate::etcd::keys::Keys;
use crate::hosts::{HostsView, LeaseEntry};
use std::collections::BTreeMap;
use weft_api::flannel::{LeaseValue, parse_subnet_key, subnet_key};
use weft_api::stored::{HostDocument, WantedDocument};
use weft_model::id::NodeId;
use weft_model::net::Subnet;

/// The last change seen of a key that exists: another store does not have it at that revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) key: String,
    pub(super) revision: i64,
    pub(super) lease: i64,
}

/// A view in the making.
#[derive(Debug, Clone)]
pub(super) struct HostsFold {
    keys: Keys,
    view: HostsView,
    /// Leases by key: an IPv4 and a dual-stack key may name one subnet.
    leases: BTreeMap<String, LeaseEntry>,
    wanted: Option<WantedDocument>,
    anchor: Option<Anchor>,
}

impl HostsFold {
    pub(super) fn new(keys: Keys, revision: i64) -> Self {
        let view = HostsView { revision, ..HostsView::default() };
        Self { keys, view, leases: BTreeMap::new(), wanted: None, anchor: None }
    }

    pub(super) fn view(&self) -> &HostsView {
        &self.view
    }

    pub(super) fn into_view(self) -> HostsView {
        self.view
    }

    pub(super) fn wanted(&self) -> Option<&WantedDocument> {
        self.wanted.as_ref()
    }

    pub(super) fn anchor(&self) -> Option<&Anchor> {
        self.anchor.as_ref()
    }

    /// Whether any host is known.
    pub(super) fn has_hosts(&self) -> bool {
        !self.view.leases.is_empty() || !self.view.records.is_empty()
    }

    /// Folds a change in. Folding the same ones again, in order, changes nothing.
    pub(super) fn apply(&mut self, change: &Change) {
        self.view.revision = self.view.revision.max(change.revision);
        self.settle_anchor(change);
        if let Some(name) = change.key.strip_prefix(&self.keys.leases()) {
            self.lease(name, change);
        } else if let Some(name) = change.key.strip_prefix(&self.keys.hosts()) {
            self.record(name, change);
        } else if change.key == self.keys.wanted() {
            self.wanted = change.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
        }
    }

    fn settle_anchor(&mut self, change: &Change) {
        match (&self.anchor, &change.value) {
            (Some(anchor), None) if anchor.key == change.key => self.anchor = None,
            (Some(anchor), Some(_)) if anchor.revision > change.revision => {}
            (_, None) => {}
            (_, Some(_)) => {
                let Change { key, revision, lease, .. } = change;
                self.anchor = Some(Anchor { key: key.clone(), revision: *revision, lease: *lease });
            }
        }
    }

    fn lease(&mut self, name: &str, change: &Change) {
        self.leases.remove(&change.key);
        self.note(change, None);
        let subnet = parse_subnet_key(name);
        if let Some(value) = &change.value {
            match subnet.clone().and_then(|_| LeaseValue::parse(value)) {
                Ok(value) => {
                    let entry = LeaseEntry { value, mod_revision: change.revision, lease_id: change.lease };
                    self.leases.insert(change.key.clone(), entry);
                }
                Err(error) => self.note(change, Some(error.to_string())),
            }
        }
        if let Ok(subnet) = subnet {
            self.elect(subnet);
        }
    }

    /// Of several keys of one subnet the first in order counts, as for flanneld.
    fn elect(&mut self, subnet: Subnet) {
        let name = format!("{}{}", self.keys.leases(), subnet_key(subnet));
        let same = |key: &String| key.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('&'));
        let mut candidates = self.leases.range(name.clone()..).take_while(|(key, _)| key.starts_with(&name));
        match candidates.find(|(key, _)| same(key)) {
            Some((_, entry)) => self.view.leases.insert(subnet, entry.clone()),
            None => self.view.leases.remove(&subnet),
        };
    }

    fn record(&mut self, name: &str, change: &Change) {
        self.note(change, None);
        let node = match NodeId::new(name) {
            Ok(node) => node,
            Err(error) => return self.note(change, change.value.is_some().then(|| error.to_string())),
        };
        let Some(value) = &change.value else {
            self.view.records.remove(&node);
            return;
        };
        match serde_json::from_slice::<HostDocument>(value) {
            Ok(record) if record.node == node => {
                self.view.records.insert(node, record);
            }
            outcome => {
                self.view.records.remove(&node);
                let complaint = match outcome {
                    Ok(record) => format!("node: {:?} stands in another node's record", record.node.as_str()),
                    Err(error) => error.to_string(),
                };
                self.note(change, Some(complaint));
            }
        }
    }

    fn note(&mut self, change: &Change, complaint: Option<String>) {
        match complaint {
            Some(complaint) => self.view.unreadable.insert(change.key.clone(), complaint),
            None => self.view.unreadable.remove(&change.key),
        };
    }
}

#[cfg(test)]
#[path = "fold_test.rs"]
mod tests;
