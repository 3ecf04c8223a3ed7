//! Our own documents in the store, below `/weft/v1/`.

use crate::policies::PolicyTarget;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use weft_model::id::{GroupId, NodeId, Tag};
use weft_model::net::Subnet;

/// Where everything of ours lives.
pub const ROOT: &str = "/weft/v1";

/// `policy/sources/<group>`: all policies of one source group, sorted and unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDocument {
    /// The source group.
    pub source: GroupId,
    /// Whom it may reach.
    pub policies: Vec<PolicyTarget>,
}

/// `policy/groups/<group>`: the group's tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDocument {
    /// The group.
    pub group: GroupId,
    /// Its tag.
    pub tag: Tag,
    /// Whether it is in use.
    pub state: GroupState,
}

/// State of a group's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// Policies name it.
    Live,
    /// No policy names it any more; a policy that names it again revives it with its tag.
    Releasing,
}

/// `policy/tags/<4HEX>`: who has the tag, or had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TagDocument {
    /// A group's.
    Live {
        /// The tag.
        tag: Tag,
        /// Whose.
        group: GroupId,
    },
    /// Given back, but packets with it may still be under way and hosts may still know it.
    Quarantined {
        /// The tag.
        tag: Tag,
        /// The revision at which it was given back.
        released: i64,
        /// When, RFC 3339.
        at: String,
    },
}

/// `policy/intent`: a change too large for one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentDocument {
    /// The change's id.
    pub change: String,
    /// How far it is.
    pub state: IntentState,
    /// How many chunks were staged.
    pub chunks: u32,
    /// SHA-256 of all chunks in order, hex.
    pub sha256: String,
    /// Which server.
    pub by: String,
}

/// How far a large change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentState {
    /// Nothing has happened yet; death means that nothing will.
    Preparing,
    /// It will happen: any server rolls it forward.
    Committed,
}

/// `policy/head`: the last operation of every change. Its modification revision is the change's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadDocument {
    /// The change's id.
    pub change: String,
    /// When, RFC 3339.
    pub at: String,
    /// Which server.
    pub by: String,
}

/// `epoch`: one life of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochDocument {
    /// Its id.
    pub epoch: String,
    /// `policies_last_updated` is this plus the head's revision, nanoseconds.
    pub base_ns: i64,
    /// When it began, RFC 3339.
    pub since: String,
}

/// `hosts/<node-id>`: a weft host; not bound to a lease, so that its subnet stays known when its
/// lease has run out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDocument {
    /// The host's id.
    pub node: NodeId,
    /// Its name among people.
    pub hostname: String,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// The subnet it has or had last.
    pub subnet: Subnet,
    /// One run of its agent.
    pub instance: String,
    /// When it was last written, RFC 3339.
    pub last_seen: String,
    /// Whether its VXLAN device speaks GBP: then tags may be sent to it, and count from it.
    #[serde(default)]
    pub gbp: bool,
}

/// `enforced/<node-id>`: the revision a host's programs judge by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedDocument {
    /// The revision.
    pub revision: i64,
    /// When, RFC 3339.
    pub at: String,
    /// The store's epoch the revision belongs to: after a wipe, numbers begin anew. Empty: not known.
    #[serde(default)]
    pub epoch: String,
}

/// `wanted`: somebody waits for a revision to be enforced everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedDocument {
    /// The revision.
    pub revision: i64,
    /// Until when, RFC 3339.
    pub until: String,
}
