//! The agent's API on its unix socket: HTTP/1.1 with JSON bodies, root only.
//!
//! | method and path | body → answer |
//! |---|---|
//! | `POST /v1/reserve` | [`ReserveRequest`] → [`ReserveResponse`] |
//! | `POST /v1/commit` | [`CommitRequest`] → [`CommitResponse`] |
//! | `POST /v1/release` | [`ReleaseRequest`] → [`ReleaseResponse`] |
//! | `POST /v1/remove` | [`RemoveRequest`] → [`RemoveResponse`] |
//! | `POST /v1/check` | [`CheckRequest`] → [`CheckResponse`], or 500 [`ApiError`] with what is not as it should be |
//! | `POST /v1/gc` | [`GcRequest`] → [`GcResponse`], or 500 [`ApiError`] with all that could not be removed |
//! | `GET /v1/ready` | → 200 [`Ready`], or 503 [`ApiError`] when an ADD would fail |
//! | `GET /v1/status` | → [`Status`] |
//! | `GET /v1/endpoints` | → `[`[`EndpointView`]`]` |
//! | `GET`, `PUT`, `DELETE /v1/logging` | [`crate::logging::LoggingChange`] → [`crate::logging::LoggingView`]; `DELETE` takes changes back |
//! | `GET /metrics` | → text, for Prometheus |
//! | `GET /v1/explain?…` | → [`crate::explain::Explanation`] |
//! | `GET /v1/denials?follow=true` | → [`crate::denial::DenialRecord`]s, one JSON document a line |
//!
//! Every status but 200 carries an [`ApiError`].

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_model::bandwidth::Means;
use weft_model::capability::Capabilities;
use weft_model::group::{HostKind, Identity};
use weft_model::id::{Attachment, GroupId, NodeId, Tag, Token};
use weft_model::mac::Mac;
use weft_model::net::Subnet;
use weft_model::workload::Wiring;

/// The socket's default path.
pub const DEFAULT_SOCKET: &str = "/run/weft/agent.sock";

/// Folder of notes the plugin leaves when the agent is away, next to the socket. A note is a file
/// `<anything>.json` with a [`ReleaseRequest`]; names that begin with `.` are being written.
pub const NOTES_FOLDER: &str = "del";

/// Step one of ADD: give me an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReserveRequest {
    /// For whom. The same attachment gets the same address and token until it is released.
    pub attachment: Attachment,
    /// The path of the workload's namespace, for the agent's collection.
    pub netns: String,
    /// Name of the network config it is attached by: a GC speaks of one network's workloads.
    #[serde(default)]
    pub network: String,
    /// The address it must have, of this host's subnet; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// What the runtime said of its identity.
    pub identity: Identity,
    /// What else it asked for.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// The reservation; it lapses if it is not committed within two minutes and no link bears its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReserveResponse {
    /// What to wire.
    pub wiring: Wiring,
    /// The group the workload will be in.
    pub group: Option<GroupId>,
    /// Whether this attachment is committed already: ADD was called twice.
    pub committed: bool,
    /// What of the capabilities will be carried out: all, or the agent is older than they are.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// Step two of ADD: the veth is there, down; attach, register, raise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRequest {
    /// For whom.
    pub attachment: Attachment,
    /// From the reservation.
    pub token: Token,
}

/// The workload is wired, judged and up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitResponse {
    /// DNS servers for the result, where the host's configuration names some.
    #[serde(default)]
    pub dns_servers: Vec<Ipv4Addr>,
}

/// The workload is gone, or should be. A hint: the agent makes sure that the link is gone, or bears
/// another token, before it gives the address back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRequest {
    /// Whose.
    pub attachment: Attachment,
    /// The incarnation, if the plugin saw its link's alias or made it.
    #[serde(default)]
    pub token: Option<Token>,
}

/// What came of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseResponse {
    /// Whether there was something to release.
    pub released: bool,
}

/// DEL: take the workload down, its link and its address. What comes while the kernel is at it goes with
/// the next pass together, since a pass over many links takes as long as one over one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveRequest {
    /// Whose.
    pub attachment: Attachment,
}

/// The workload is down: its link is gone from the kernel, both ends, and its address is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveResponse {
    /// Whether there was something to release.
    pub released: bool,
    /// A link of somebody else's has the name of the workload's end on the host; it stays.
    #[serde(default)]
    pub foreign: bool,
}

/// Is the workload as its commit left it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    /// Which.
    pub attachment: Attachment,
}

/// On the host's side it is: link, port, programs, maps, settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResponse {
    /// How it was wired, for whoever looks at its namespace.
    pub wiring: Wiring,
}

/// Remove the workloads of a network that its runtime does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRequest {
    /// Name of the network config.
    pub network: String,
    /// Its workloads; all others of that network are removed.
    pub valid: BTreeSet<Attachment>,
}

/// What a GC removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcResponse {
    /// Workloads whose links are gone and whose addresses are free.
    pub removed: Vec<Attachment>,
}

/// An ADD would work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The host's subnet.
    pub subnet: Subnet,
    /// What its kernel has for limits of bandwidth; an agent of an earlier version does not tell.
    #[serde(default)]
    pub means: Means,
}

/// Any error of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// What kind.
    pub code: ErrorCode,
    /// One line for a person.
    pub message: String,
    /// More, such as what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// Kinds of errors, with the HTTP status and CNI code they go with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is no valid one. 400, CNI 7.
    Invalid,
    /// Not now, try again (no lease yet, no address free, a token that was collected). 503, CNI 11;
    /// as the answer to [`Ready`] STATUS 50.
    TryAgain,
    /// As [`Self::TryAgain`], and workloads that run already may be affected. 503, CNI 11; as the answer
    /// to [`Ready`] STATUS 51.
    Limited,
    /// The workload exists already. 409, CNI 999.
    Exists,
    /// The agent could not do it. 500, CNI 999.
    Internal,
}

impl ErrorCode {
    /// The HTTP status.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::TryAgain | Self::Limited => 503,
            Self::Exists => 409,
            Self::Internal => 500,
        }
    }

    /// The CNI error code (spec 1.1.0, "Error").
    #[must_use]
    pub const fn cni_code(self) -> u32 {
        match self {
            Self::Invalid => 7,
            Self::TryAgain | Self::Limited => 11,
            Self::Exists | Self::Internal => 999,
        }
    }
}

/// How the host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The host's id.
    pub node: NodeId,
    /// What it runs.
    pub kind: HostKind,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Its subnet, once it has one.
    pub subnet: Option<Subnet>,
    /// State of the lease: none, settling, held, cached, lost, draining.
    pub lease: String,
    /// Whether the store answers.
    pub store: StoreStatus,
    /// Peers in use.
    pub peers: Vec<PeerView>,
    /// Peers that are not used, and why.
    pub refused_peers: Vec<String>,
    /// Committed workloads.
    pub endpoints: u32,
    /// Addresses free to give.
    pub free_addresses: u32,
    /// Workloads the agent collected since its start: they had lost their link without a DEL.
    #[serde(default)]
    pub collected: u64,
    /// The revision of policies this host's programs judge by.
    pub enforced_revision: i64,
    /// Reconciliation of the host's network.
    pub network: SyncStatus,
    /// Reconciliation of the kernel programs' maps.
    pub datapath: SyncStatus,
    /// The kernel; an agent of an earlier version does not tell.
    #[serde(default)]
    pub kernel: KernelView,
    /// Packets by reason (`weft-abi`'s names).
    pub counters: BTreeMap<String, u64>,
    /// Bytes of kernel memory by map.
    #[serde(default)]
    pub maps: BTreeMap<String, u64>,
    /// How full the maps are.
    #[serde(default)]
    pub map_fill: BTreeMap<String, MapFill>,
    /// What became of records of denials.
    #[serde(default)]
    pub logged: crate::logging::LogCounts,
    /// Whatever needs a person's eye.
    pub alarms: Vec<String>,
}

/// How full a map of the kernel programs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapFill {
    /// Entries it has; of `ct_est4`, whose oldest give way, at most a minute ago.
    pub entries: u64,
    /// Entries it takes.
    pub capacity: u64,
}

impl MapFill {
    /// From four fifths on: the next change of a large policy needs room for the new set beside the old one.
    #[must_use]
    pub fn is_nearly_full(self) -> bool {
        self.entries * 5 >= self.capacity * 4
    }
}

/// Whether the store answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// It does.
    pub connected: bool,
    /// The last error, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The kernel as the programs need it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelView {
    /// Its release, such as `6.1.0-56-amd64`; empty until the programs are loaded.
    pub release: String,
    /// What it lacks and what follows, a line each; found out by trying.
    pub missing: Vec<String>,
}

/// A peer in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// Its subnet.
    pub subnet: Subnet,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Whether a weft agent runs there.
    pub managed: bool,
    /// Whether tags are exchanged with it.
    pub gbp: bool,
    /// Its host name, where its record says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// The last pass found nothing to do, or did it.
    pub in_sync: bool,
    /// Changes made since the agent's start, by hand-made drift or by new facts.
    pub changes: u64,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Whose.
    pub attachment: Attachment,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its end on the host.
    pub host_ifname: String,
    /// Its namespace's path.
    pub netns: String,
    /// Name of the network config it is attached by; empty: not known.
    #[serde(default)]
    pub network: String,
    /// Its group.
    pub group: Option<GroupId>,
    /// Its group's tag.
    pub tag: Option<Tag>,
    /// `reserved` or `committed`.
    pub state: String,
    /// Whether policy judges who reaches it.
    pub isolated: bool,
    /// How many rules say who may.
    pub rules: u32,
    /// Version of its policy in the data plane.
    pub generation: u32,
    /// What the runtime said of it.
    pub identity: Identity,
    /// Interface index of its end on the host.
    #[serde(default)]
    pub host_ifindex: u32,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Ports of the host that lead to it, its limits, the hardware address it asked for.
    #[serde(default)]
    pub capabilities: Capabilities,
}
