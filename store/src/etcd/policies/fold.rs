//! Events folded into a view that shows whole changes only. Pure.

use super::document::{parse, parse_group, parse_source};
use super::plan::Writes;
use crate::StoreError;
use crate::etcd::change::Change;
use crate::etcd::keys::{Keys, PolicyPlace, group_of};
use crate::policy::PolicyView;
use std::collections::BTreeMap;
use weft_api::stored::HeadDocument;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

/// A view, and what has happened since its head.
#[derive(Debug, Clone)]
pub(super) struct PolicyFold {
    keys: Keys,
    view: PolicyView,
    /// Changes without a head yet, the last of every key.
    pending: BTreeMap<String, Change>,
}

impl PolicyFold {
    pub(super) fn new(keys: Keys, view: PolicyView) -> Self {
        Self { keys, view, pending: BTreeMap::new() }
    }

    /// A view of everything that stood at one revision. A large change that is committed and not yet
    /// applied in full, `committed`, is folded in: half of it stands already.
    ///
    /// # Errors
    /// [`StoreError::Document`] if the head cannot be read.
    pub(super) fn of(
        keys: Keys,
        listed: &[Change],
        committed: Option<&Writes>,
        epoch: String,
    ) -> Result<Self, StoreError> {
        let mut fold = Self::new(keys, PolicyView { epoch, ..PolicyView::default() });
        for change in listed {
            match fold.keys.policy_place(&change.key) {
                PolicyPlace::Head => {
                    let head = parse::<HeadDocument>(change)?;
                    (fold.view.revision, fold.view.change) = (head.revision, head.document.change);
                }
                _ => fold.apply(change),
            }
        }
        for (key, value) in committed.into_iter().flatten() {
            let value = value.as_ref().map(|value| value.clone().into_bytes());
            fold.apply(&Change { key: key.clone(), value, revision: 0, lease: 0 });
        }
        Ok(fold)
    }

    pub(super) fn view(&self) -> &PolicyView {
        &self.view
    }

    pub(super) fn into_view(self) -> PolicyView {
        self.view
    }

    /// Takes over the epoch that began after the view was listed.
    pub(super) fn set_epoch(&mut self, epoch: String) {
        self.view.epoch = epoch;
    }

    /// Forgets what has no head yet: a new watch tells it again.
    pub(super) fn discard(&mut self) {
        self.pending.clear();
    }

    /// Takes an event in; `true`: the view shows a later revision.
    ///
    /// # Errors
    /// [`StoreError::Rewound`] if the head is gone, [`StoreError::Document`] if it cannot be read: the view
    /// stays.
    pub(super) fn push(&mut self, change: Change) -> Result<bool, StoreError> {
        if self.keys.policy_place(&change.key) != PolicyPlace::Head {
            self.pending.insert(change.key.clone(), change);
            return Ok(false);
        }
        if change.value.is_none() {
            return Err(StoreError::Rewound(format!("{} was deleted", change.key)));
        }
        let head = parse::<HeadDocument>(&change)?;
        for change in std::mem::take(&mut self.pending).into_values() {
            self.apply(&change);
        }
        (self.view.revision, self.view.change) = (head.revision, head.document.change);
        Ok(true)
    }

    fn apply(&mut self, change: &Change) {
        let applied = match self.keys.policy_place(&change.key) {
            PolicyPlace::Group => self.group(change),
            PolicyPlace::Source => self.source(change),
            _ => Ok(()),
        };
        if let Err(error) = applied {
            // What a group may do stays as it was: an unreadable document says nothing.
            tracing::error!(%error, "a document of policies cannot be read and was passed over");
        }
    }

    fn group(&mut self, change: &Change) -> Result<(), StoreError> {
        if change.value.is_some() {
            let document = parse_group(change)?.document;
            self.view.tags.insert(document.group, document.tag);
        } else if let Some(group) = group_of(&change.key) {
            self.view.tags.remove(&group);
        }
        Ok(())
    }

    fn source(&mut self, change: &Change) -> Result<(), StoreError> {
        let Some(source) = group_of(&change.key) else { return Ok(()) };
        let document = change.value.is_some().then(|| parse_source(change)).transpose()?;
        let old: Vec<_> = self.of_source(&source).cloned().collect();
        for policy in &old {
            self.view.policies.remove(policy);
        }
        if let Some(document) = document {
            self.view.policies.extend(document.document.policies.iter().map(|target| target.policy(&source)));
        }
        Ok(())
    }

    fn of_source<'a>(&'a self, source: &'a GroupId) -> impl Iterator<Item = &'a Policy> {
        let first = lowest(source);
        first
            .into_iter()
            .flat_map(move |first| self.view.policies.range(first..).take_while(move |policy| policy.source == *source))
    }
}

/// The first a policy of that source can be in the order of policies.
fn lowest(source: &GroupId) -> Option<Policy> {
    Some(Policy {
        source: source.clone(),
        destination: GroupId::new("\u{1}").ok()?,
        protocol: Protocol::Tcp,
        ports: PortRange::new(1, 1)?,
    })
}

#[cfg(test)]
#[path = "fold_test.rs"]
mod tests;
