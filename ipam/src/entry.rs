//! What the pool keeps for an attachment.

use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use weft_model::capability::Capabilities;
use weft_model::group::Identity;
use weft_model::id::{Attachment, GroupId, Slot, Token};
use weft_model::mac::Mac;

/// Who asks for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For whom.
    pub attachment: Attachment,
    /// A fresh token; used only if the attachment has none yet.
    pub token: Token,
    /// Path of the workload's namespace.
    pub netns: String,
    /// Name of the network config it is attached by: a GC speaks of one network's workloads.
    pub network: String,
    /// The address it must have; `None`: the next free one.
    pub address: Option<Ipv4Addr>,
    /// What the runtime said of the workload.
    pub identity: Identity,
    /// The group that came of it.
    pub group: Option<GroupId>,
    /// What else it asked for.
    pub capabilities: Capabilities,
}

/// An address in use, and what else is remembered of its owner: DEL carries neither metadata nor
/// annotations, so whatever is needed later is kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// This incarnation.
    pub token: Token,
    /// Where in the subnet.
    pub slot: Slot,
    /// Path of the workload's namespace.
    pub netns: String,
    /// Name of the network config it is attached by; empty: not known (an adopted workload, or one of
    /// an agent that did not keep it), which no GC touches.
    #[serde(default)]
    pub network: String,
    /// What the runtime said of the workload.
    #[serde(default)]
    pub identity: Identity,
    /// Its group.
    #[serde(default)]
    pub group: Option<GroupId>,
    /// What else it asked for.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// How far it is.
    pub state: State,
}

impl Entry {
    /// Its hardware address, given its IP address.
    #[must_use]
    pub fn mac(&self, ip: Ipv4Addr) -> Mac {
        self.capabilities.mac.unwrap_or_else(|| Mac::for_workload(ip))
    }
}

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The plugin is wiring it.
    Reserved {
        /// When it was asked for last, seconds since the boot.
        since: u64,
    },
    /// It is wired, judged and up.
    Committed,
}
