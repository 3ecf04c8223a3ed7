//! Who is who on this host and beyond it: what tasks other than the worker need to know, published
//! by the worker as a whole after every change.

use crate::in_force::InForce;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_model::group::Identity;
use weft_model::id::{Attachment, GroupId, NodeId, Slot, Tag};
use weft_model::net::Subnet;

/// A snapshot of names.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// This host's subnet.
    pub subnet: Option<Subnet>,
    /// Workloads here, by slot.
    pub endpoints: BTreeMap<Slot, Resident>,
    /// Groups by tag, everywhere.
    pub groups: BTreeMap<Tag, GroupId>,
    /// Names of hosts by subnet, this one's included.
    pub hosts: BTreeMap<Subnet, String>,
    /// The revision of policies the programs judge by; 0: none yet.
    pub enforced: i64,
    /// The store's epoch that revision belongs to.
    pub epoch: String,
    /// What the programs judge by, once there are programs and policies.
    pub in_force: Option<Arc<InForce>>,
}

/// A workload here.
#[derive(Debug, Clone)]
pub struct Resident {
    /// Whose.
    pub attachment: Attachment,
    /// Its group.
    pub group: Option<GroupId>,
    /// Its group's tag.
    pub tag: Option<Tag>,
    /// What the runtime said of it.
    pub identity: Identity,
    /// Its end on the host.
    pub host_ifname: String,
}

impl Directory {
    /// The workload here that has the address.
    #[must_use]
    pub fn resident(&self, ip: Ipv4Addr) -> Option<&Resident> {
        let offset = self.subnet?.offset(ip)?;
        self.endpoints.get(&Slot(u16::try_from(offset).ok()?))
    }

    /// The address of a slot.
    #[must_use]
    pub fn address(&self, slot: Slot) -> Option<Ipv4Addr> {
        self.subnet.and_then(|subnet| subnet.address(slot.0.into()))
    }

    /// The name of the host in whose subnet the address lies.
    #[must_use]
    pub fn host_of(&self, ip: Ipv4Addr) -> Option<&str> {
        self.hosts.iter().find(|(subnet, _)| subnet.offset(ip).is_some()).map(|(_, name)| name.as_str())
    }
}

/// Who this host is; fixed for the agent's life.
#[derive(Debug, Clone)]
pub struct HostName {
    /// Its id.
    pub node: NodeId,
    /// Its name among people.
    pub hostname: String,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
}
