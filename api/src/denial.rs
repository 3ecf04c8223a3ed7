//! Records of denied packets and of allowed connections, for people and for log pipelines.

use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use weft_model::id::{GroupId, Tag};
use weft_model::policy::Isolation;

/// A denied (or audited) packet, or the first one of an allowed connection: a line of `GET /v1/denials`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialRecord {
    /// When, RFC 3339 with nanoseconds.
    pub at: String,
    /// Why (`weft-abi`'s reason names).
    pub reason: String,
    /// `drop`, `reject`, `audit` or `allow`.
    pub action: String,
    /// The rule that decided: its number in the judged workload's policy set. None: no rule matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// What that rule is, or why there is none; nothing where no rule is asked (forged addresses, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// `ingress` or `egress`, as the judged workload sees it.
    pub direction: String,
    /// Where from.
    pub source: Party,
    /// Where to.
    pub destination: Party,
    /// `TCP`, `UDP`, `ICMP` or a number.
    pub protocol: String,
    /// TCP flags such as `SYN`; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tcp_flags: String,
    /// ICMP type, for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code, for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// The packet's mark in this host's stack.
    pub mark: u32,
    /// Interface the decision was made on.
    pub interface: String,
    /// Records of this pair left out since the last one (the counters have them).
    pub suppressed: u32,
}

impl DenialRecord {
    /// Whether the packet passed: allowed, or only audited.
    #[must_use]
    pub fn passed(&self) -> bool {
        matches!(self.action.as_str(), "audit" | "allow")
    }
}

/// What decided about a packet, by the policies that were in force when its record was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// In words, for people.
    pub text: String,
    /// As [`crate::explain::Judgement::because`]; `unknown` where policies have changed since, or were written by an
    /// earlier agent.
    pub because: String,
    /// Where the rule comes from, such as `policy app → web tcp 8080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The rule's tier: `admin`, `policy` or `baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The rule's priority within its tier; the higher wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The host's mode of isolation, where that closes the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The revision of policies that the host enforced.
    pub revision: i64,
}

/// One side of a denied packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Address.
    pub ip: Ipv4Addr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// Its group, where it is known: by the tag it bears or because it runs here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Its group's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Its container id, where it runs here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Its host, where its address lies in a host's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Who a container is, in the log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct CfContainer {
    /// Garden handle, or sandbox id.
    pub container_id: String,
    /// App GUID, or group.
    pub app_guid: String,
    /// Space GUID.
    pub space_guid: String,
    /// Organization GUID.
    pub organization_guid: String,
    /// The host's underlay address.
    pub host_ip: String,
    /// The host's id.
    pub host_guid: String,
}

/// The line CF's iptables-logger writes for a denied packet (`cfnetworking.iptables`), plus `weft`,
/// a field of ours with both groups named.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CfLogLine<'a> {
    /// Seconds since 1970 with nine decimals, as text.
    pub timestamp: String,
    /// `cfnetworking.iptables`.
    pub source: &'static str,
    /// `cfnetworking.iptables.ingress-denied` and so on.
    pub message: String,
    /// 1, info.
    pub log_level: u8,
    /// The rest.
    pub data: CfLogData<'a>,
}

/// `data` of [`CfLogLine`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CfLogData<'a> {
    /// The judged container, for egress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<CfContainer>,
    /// The judged container, for ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<CfContainer>,
    /// The packet.
    pub packet: CfPacket<'a>,
    /// What CF's shape has no place for.
    pub weft: &'a DenialRecord,
}

/// `data.packet` of [`CfLogLine`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CfPacket<'a> {
    /// `ingress` or `egress`.
    pub direction: &'a str,
    /// Whether it passed (allowed, or audit).
    pub allowed: bool,
    /// Source address.
    pub src_ip: Ipv4Addr,
    /// Destination address.
    pub dst_ip: Ipv4Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// `TCP`, `UDP`, `ICMP`.
    pub protocol: &'a str,
    /// The tag, as iptables prints marks: `0x1`.
    pub mark: String,
    /// ICMP type, else 0.
    pub icmp_type: u8,
    /// ICMP code, else 0.
    pub icmp_code: u8,
}

impl<'a> CfLogLine<'a> {
    /// The line for a record. `at_ns`: nanoseconds since 1970. `container`: the judged workload.
    #[must_use]
    pub fn new(record: &'a DenialRecord, at_ns: i128, container: CfContainer) -> Self {
        let allowed = record.passed();
        let ingress = record.direction == "ingress";
        let verdict = if allowed { "allowed" } else { "denied" };
        let (source, destination) = if ingress { (None, Some(container)) } else { (Some(container), None) };
        Self {
            timestamp: format!("{}.{:09}", at_ns.div_euclid(1_000_000_000), at_ns.rem_euclid(1_000_000_000)),
            source: "cfnetworking.iptables",
            message: format!("cfnetworking.iptables.{}-{verdict}", record.direction),
            log_level: 1,
            data: CfLogData {
                source,
                destination,
                packet: CfPacket {
                    direction: &record.direction,
                    allowed,
                    src_ip: record.source.ip,
                    dst_ip: record.destination.ip,
                    src_port: record.source.port,
                    dst_port: record.destination.port,
                    protocol: &record.protocol,
                    mark: format!("{:#x}", record.source.tag.map_or(0, Tag::get)),
                    icmp_type: record.icmp_type.unwrap_or(0),
                    icmp_code: record.icmp_code.unwrap_or(0),
                },
                weft: record,
            },
        }
    }
}
