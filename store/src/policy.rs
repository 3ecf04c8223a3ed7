//! Policies and tags.

use crate::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use weft_api::stored::EnforcedDocument;
use weft_model::id::{GroupId, NodeId, Tag};
use weft_model::policy::Policy;

/// All policies and tags at one revision: a consistent cut, never half of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyView {
    /// The revision: the modification revision of `head` (0: no change was ever made).
    pub revision: i64,
    /// The last change's id.
    pub change: String,
    /// The store's epoch; empty if none was begun.
    pub epoch: String,
    /// All policies.
    pub policies: BTreeSet<Policy>,
    /// Tags of groups, live and releasing.
    pub tags: BTreeMap<GroupId, Tag>,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The revision that has it (an older one if there was nothing to change).
    pub revision: i64,
    /// How many policies were added or removed.
    pub count: usize,
}

/// Where policies and tags live.
pub trait PolicyStore: Send + Sync + 'static {
    /// A live view of policies.
    type Follower: PolicyFollower;

    /// Adds policies, all or none; groups named for the first time get tags. What is there already
    /// changes nothing.
    fn create(&self, policies: &[Policy]) -> impl Future<Output = Result<Changed, StoreError>> + Send;

    /// Removes policies, all or none; what is not there is passed over.
    fn delete(&self, policies: &[Policy]) -> impl Future<Output = Result<Changed, StoreError>> + Send;

    /// Everything, now.
    fn policies(&self) -> impl Future<Output = Result<PolicyView, StoreError>> + Send;

    /// A live view, going on from `from` (what an agent kept on its disk). With `from` nothing is asked:
    /// the first [`PolicyFollower::changed`] finds out whether the store still knows that revision, lists
    /// if it was compacted, and fails with [`StoreError::Rewound`] if the store never had it.
    fn follow_policies(
        &self,
        from: Option<PolicyView>,
    ) -> impl Future<Output = Result<Self::Follower, StoreError>> + Send;

    /// `policies_last_updated`: nanoseconds, strictly increasing with every change.
    fn last_updated(&self) -> impl Future<Output = Result<i64, StoreError>> + Send;

    /// Gives back tags of groups that no policy names and re-uses none before its quarantine is over;
    /// finishes what a dead server left. To be called now and then by every server.
    fn sweep(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Says that somebody waits until every host enforces `revision`.
    fn want(&self, revision: i64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Which revision each host holding a lease enforces; hosts that never said are missing.
    fn enforced(&self) -> impl Future<Output = Result<BTreeMap<NodeId, EnforcedDocument>, StoreError>> + Send;

    /// Which weft hosts hold a lease now: those that have to enforce a revision before everybody does.
    fn hosts_holding_leases(&self) -> impl Future<Output = Result<BTreeSet<NodeId>, StoreError>> + Send;
}

/// A live view of policies; see [`crate::hosts::HostsFollower`].
pub trait PolicyFollower: Send {
    /// The view as of the last [`Self::changed`].
    fn view(&self) -> &PolicyView;

    /// Waits until a later revision is complete.
    ///
    /// # Errors
    /// [`StoreError::Rewound`] if the store is younger than the view: freeze, and let a person decide.
    fn changed(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
}
