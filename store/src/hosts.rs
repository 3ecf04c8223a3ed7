//! Hosts: their leases (flannel's keys) and their records (ours).

use crate::StoreError;
use std::collections::BTreeMap;
use std::future::Future;
use weft_api::flannel::{Config, LeaseValue};
use weft_api::stored::{EnforcedDocument, HostDocument, WantedDocument};
use weft_model::id::NodeId;
use weft_model::net::Subnet;

/// All hosts at one revision of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostsView {
    /// The store's revision this view shows.
    pub revision: i64,
    /// Leases by subnet.
    pub leases: BTreeMap<Subnet, LeaseEntry>,
    /// weft's host records.
    pub records: BTreeMap<NodeId, HostDocument>,
    /// Keys below `subnets` or `hosts` that could not be read, and why: skipped, counted.
    pub unreadable: BTreeMap<String, String>,
}

/// A lease in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseEntry {
    /// The host's public address and VTEP.
    pub value: LeaseValue,
    /// The key's modification revision, for conditional changes.
    pub mod_revision: i64,
    /// The etcd lease the key hangs on; 0: none (flannel's reservation).
    pub lease_id: i64,
}

/// A hold on a key of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The etcd lease.
    pub lease_id: i64,
    /// The key's modification revision when we wrote it.
    pub mod_revision: i64,
}

/// What came of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Won(Hold),
    /// Somebody else was faster, or the key is not as we thought: look again.
    Lost,
}

/// Where hosts claim subnets and say who they are.
pub trait HostStore: Send + Sync + 'static {
    /// A live view of all hosts.
    type Follower: HostsFollower;

    /// The overlay's configuration; `None`: nobody has written it.
    fn network(&self) -> impl Future<Output = Result<Option<Config>, StoreError>> + Send;

    /// Writes the overlay's configuration if there is none; says what stands there now.
    fn init_network(&self, json: &str) -> impl Future<Output = Result<Config, StoreError>> + Send;

    /// From now on the store counts as it is, although it is younger than what was seen of it; followers
    /// are to be started anew.
    fn accept_rewound(&self);

    /// All hosts, now.
    fn hosts(&self) -> impl Future<Output = Result<HostsView, StoreError>> + Send;

    /// A live view: lists, then watches.
    fn follow_hosts(&self) -> impl Future<Output = Result<Self::Follower, StoreError>> + Send;

    /// Claims a free subnet: lease key (must not exist) on a fresh 24 h grant, and host record, in one
    /// transaction.
    fn create(
        &self,
        subnet: Subnet,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Takes over or rewrites a key that is ours (same `expected` modification revision), keeping its
    /// etcd lease; and the host record with it. A key without one (a reservation) stays without.
    fn rewrite(
        &self,
        subnet: Subnet,
        expected: i64,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Keeps the etcd lease alive and says how many seconds it has. `Ok(None)`: it has run out (TTL 0)
    /// and with it the key. Lease 0, a reservation's, needs no keeping.
    fn keep_alive(&self, lease_id: i64) -> impl Future<Output = Result<Option<i64>, StoreError>> + Send;

    /// Gives the subnet back: deletes lease key and host record if the key still is `hold`'s.
    fn release(
        &self,
        node: &NodeId,
        subnet: Subnet,
        hold: Hold,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Removes the record of a host that is no more, and what it said it enforces.
    fn forget(&self, node: &NodeId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Says which revision this host enforces (key on the host's etcd lease).
    fn report_enforced(
        &self,
        node: &NodeId,
        lease_id: i64,
        enforced: &EnforcedDocument,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A live view of hosts. Watches are restarted and lists repeated inside; what comes out is always
/// a whole view.
pub trait HostsFollower: Send {
    /// The view as of the last [`Self::changed`].
    fn view(&self) -> &HostsView;

    /// What somebody waits for, if anybody does.
    fn wanted(&self) -> Option<&WantedDocument>;

    /// Waits for the next change and folds all that is there into the view. An error leaves the view
    /// as it was; calling again tries again (the caller waits in between).
    fn changed(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
}
