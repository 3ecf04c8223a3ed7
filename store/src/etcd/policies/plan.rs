//! What a request writes, and what must not have changed meanwhile. Pure.

use super::document::{Stored, json};
use super::snapshot::Snapshot;
use crate::StoreError;
use crate::etcd::keys::Keys;
use std::collections::{BTreeMap, BTreeSet};
use weft_api::policies::PolicyTarget;
use weft_api::stored::{GroupDocument, GroupState, SourceDocument, TagDocument};
use weft_model::id::{GroupId, Tag};
use weft_model::policy::Policy;

/// etcd's default `--max-txn-ops`, for compares and for operations.
pub(super) const MAX_OPERATIONS: usize = 128;

/// Bytes a transaction; etcd's default `--max-request-bytes` is 1.5 MiB.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Bytes a source group's document; documents are not divided (yet).
const MAX_DOCUMENT: usize = 256 << 10;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Create,
    Delete,
}

impl Request {
    pub(super) fn op(self) -> &'static str {
        match self {
            Self::Create => "create policies",
            Self::Delete => "delete policies",
        }
    }
}

/// Keys and what they are to hold; `None`: nothing.
pub(super) type Writes = BTreeMap<String, Option<String>>;

/// A request turned into writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Modification revisions the writes rest on; 0: the key must be absent.
    pub(super) expect: BTreeMap<String, i64>,
    /// What is written.
    pub(super) writes: Writes,
    /// Tags that are given out.
    pub(super) tags: Vec<Tag>,
    /// How many policies are added or removed.
    pub(super) count: usize,
}

impl Plan {
    /// Whether one transaction takes it, with the compares and operations every change has.
    pub(super) fn fits(&self) -> bool {
        const OWN: usize = 2;
        self.expect.len() + OWN <= MAX_OPERATIONS && self.writes.len() + OWN <= MAX_OPERATIONS && {
            let compares: usize = self.expect.keys().map(|key| key.len() + 32).sum();
            let writes: usize = self.writes.iter().map(size).sum();
            compares + writes <= MAX_BYTES
        }
    }
}

/// What a write takes in a transaction, bytes, generously.
pub(super) fn size((key, value): (&String, &Option<String>)) -> usize {
    key.len() + value.as_ref().map_or(0, String::len) + 32
}

/// Plans `request`. `choose` gives a free tag, another one at every call.
///
/// # Errors
/// [`StoreError::NoTagFree`], [`StoreError::TooLarge`], [`StoreError::Document`] for a document that
/// would have to be changed and cannot be read.
pub(super) fn plan(
    keys: &Keys,
    snapshot: &Snapshot,
    request: Request,
    policies: &BTreeSet<Policy>,
    choose: impl FnMut() -> Option<Tag>,
) -> Result<Plan, StoreError> {
    let mut plan = Plan::default();
    if request == Request::Create {
        name_groups(&mut plan, keys, snapshot, policies, choose)?;
    }
    let mut sources: BTreeMap<&GroupId, BTreeSet<PolicyTarget>> = BTreeMap::new();
    for policy in policies {
        sources.entry(&policy.source).or_default().insert(policy.into());
    }
    for (source, targets) in sources {
        change_source(&mut plan, keys, snapshot, request, source, targets)?;
    }
    Ok(plan)
}

/// Every group named must be live: a new one gets a tag, a releasing one keeps its own. Live ones are
/// compared only, so that requests naming a popular destination do not get in each other's way.
fn name_groups(
    plan: &mut Plan,
    keys: &Keys,
    snapshot: &Snapshot,
    policies: &BTreeSet<Policy>,
    mut choose: impl FnMut() -> Option<Tag>,
) -> Result<(), StoreError> {
    let named: BTreeSet<_> = policies.iter().flat_map(|policy| [&policy.source, &policy.destination]).collect();
    for group in named {
        let key = keys.group(group);
        snapshot.readable(&key)?;
        let known = snapshot.groups.get(group);
        plan.expect.insert(key.clone(), known.map_or(0, |known| known.revision));
        let tag = match known.map(|known| &known.document) {
            Some(GroupDocument { state: GroupState::Live, .. }) => continue,
            Some(releasing) => releasing.tag,
            None => {
                let tag = choose().ok_or(StoreError::NoTagFree)?;
                let document = TagDocument::Live { tag, group: group.clone() };
                plan.expect.insert(keys.tag(tag), 0);
                plan.writes.insert(keys.tag(tag), Some(json(&document)));
                plan.tags.push(tag);
                tag
            }
        };
        let document = GroupDocument { group: group.clone(), tag, state: GroupState::Live };
        plan.writes.insert(key, Some(json(&document)));
    }
    Ok(())
}

fn change_source(
    plan: &mut Plan,
    keys: &Keys,
    snapshot: &Snapshot,
    request: Request,
    source: &GroupId,
    targets: BTreeSet<PolicyTarget>,
) -> Result<(), StoreError> {
    let key = keys.source(source);
    snapshot.readable(&key)?;
    let known: Option<&Stored<SourceDocument>> = snapshot.sources.get(source);
    let before: BTreeSet<_> = known.map(|known| known.document.policies.iter().cloned().collect()).unwrap_or_default();
    let after: BTreeSet<_> = match request {
        Request::Create => before.union(&targets).cloned().collect(),
        Request::Delete => before.difference(&targets).cloned().collect(),
    };
    plan.expect.insert(key.clone(), known.map_or(0, |known| known.revision));
    plan.count += before.len().abs_diff(after.len());
    if before.len() == after.len() {
        return Ok(());
    }
    let document = SourceDocument { source: source.clone(), policies: after.into_iter().collect() };
    let text = (!document.policies.is_empty()).then(|| json(&document));
    let bytes = text.as_ref().map_or(0, String::len);
    // A document that is too large already may shrink.
    if bytes > MAX_DOCUMENT && request == Request::Create {
        let remedy = "give the group's policies fewer destinations, or wider port ranges";
        return Err(StoreError::TooLarge { key, bytes, limit: MAX_DOCUMENT, remedy });
    }
    plan.writes.insert(key, text);
    Ok(())
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
