//! `GET /v1/explain?source=…&destination=…&protocol=…[&port=…]` → [`Explanation`]: whether a new connection
//! would pass, and what decides.
//!
//! `source` and `destination`: an IPv4 address, a container id (or so much of its beginning that it is the only
//! one), or a group. `protocol`: tcp, udp, sctp, icmp or a number; `port`: 1 to 65535, for ICMP the type, or
//! type/code (an echo request if left out).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use weft_model::id::{Attachment, GroupId, Tag};
use weft_model::policy::{ICMP, PortRange, Transport, icmp_port};

/// The question, as it stands in the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// Who opens the connection.
    pub source: String,
    /// To whom.
    pub destination: String,
    /// Over what.
    pub protocol: String,
    /// To which port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// What is asked for: an IP protocol, and its port or what stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// IANA's number.
    pub proto: u8,
    /// The port; for ICMP type × 256 + code; else 0.
    pub port: u16,
}

impl Service {
    /// Parses a protocol and, where it has them, its port.
    ///
    /// # Errors
    /// One line that names the field, its value, and what is allowed.
    pub fn parse(protocol: &str, port: Option<&str>) -> Result<Self, String> {
        let transport =
            [Transport::Tcp, Transport::Udp, Transport::Sctp].into_iter().find(|t| t.to_string() == protocol);
        if let Some(transport) = transport {
            let allowed = "a port from 1 to 65535";
            let port = port.ok_or_else(|| format!("port: missing: {protocol} needs {allowed}"))?;
            let number = port.parse().ok().and_then(|number| PortRange::new(number, number));
            let number = number.ok_or_else(|| format!("port: invalid value {port:?}: must be {allowed}"))?;
            return Ok(Self { proto: transport.number(), port: number.start() });
        }
        if protocol == "icmp" {
            return icmp(port.unwrap_or("8"));
        }
        let refused =
            || format!("protocol: invalid value {protocol:?}: must be tcp, udp, sctp, icmp or a number from 2 to 255");
        let proto = protocol.parse().ok().filter(|number| *number > ICMP).ok_or_else(refused)?;
        if let Some(transport) = [Transport::Tcp, Transport::Udp, Transport::Sctp].iter().find(|t| t.number() == proto)
        {
            return Self::parse(&transport.to_string(), port);
        }
        match port {
            None => Ok(Self { proto, port: 0 }),
            Some(port) => Err(format!("port: invalid value {port:?}: protocol {proto} has no ports")),
        }
    }
}

fn icmp(port: &str) -> Result<Service, String> {
    let (kind, code) = port.split_once('/').unwrap_or((port, "0"));
    match (kind.parse(), code.parse()) {
        (Ok(kind), Ok(code)) => Ok(Service { proto: ICMP, port: icmp_port(kind, code) }),
        _ => Err(format!("port: invalid value {port:?}: for icmp it must be a type or type/code, 0 to 255 each")),
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, code] = self.port.to_be_bytes();
        match self.proto {
            ICMP if code == 0 => write!(f, "icmp type {kind}"),
            ICMP => write!(f, "icmp type {kind} code {code}"),
            6 => write!(f, "tcp {}", self.port),
            17 => write!(f, "udp {}", self.port),
            132 => write!(f, "sctp {}", self.port),
            number => write!(f, "protocol {number}"),
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The outcome.
    pub verdict: Verdict,
    /// Who opens it.
    pub source: PartyView,
    /// To whom.
    pub destination: PartyView,
    /// What is asked for, such as `tcp 8080`.
    pub service: String,
    /// The revision of policies that this agent knows.
    pub revision: i64,
    /// Who judges, in the order in which a packet meets them.
    pub judgements: Vec<Judgement>,
    /// With [`Verdict::Elsewhere`]: the host to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
}

/// Whether a new connection would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing of weft's stops it.
    Allowed,
    /// It is stopped.
    Denied,
    /// Nothing here stops it; the destination's host has the last word.
    Elsewhere,
}

/// A side of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartyView {
    /// As it was asked.
    pub name: String,
    /// What it is: `workload`, `group`, `this host`, `other host`, `workload elsewhere`, `nobody`, `outside`.
    pub kind: String,
    /// Its address, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Its group's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Whose, if it is a workload here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The host it is on, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// What one workload's programs say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The host they run on.
    pub host: String,
    /// `egress` of the source or `ingress` of the destination.
    pub direction: String,
    /// Whether the connection passes.
    pub passes: bool,
    /// It passes, or not: `rule`, `itself`, `own-host`, `hosts-may-reach`, `open`, `isolated`, `host-access`,
    /// `multicast`, `link-local`, `workload-vxlan`.
    pub because: String,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleView>,
    /// Policy says no, and the host only logs it.
    pub audit: bool,
    /// The programs' maps; nothing for a group of which no workload is here: it is judged as one would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
}

/// What [`Judgement::because`] means. A newer agent's codes are their own words.
#[must_use]
pub fn in_words(because: &str) -> &str {
    match because {
        "itself" => "a workload always reaches itself",
        "own-host" => "a host always reaches its workloads",
        "mapped" => "a port of the host is mapped to it",
        "hosts-may-reach" => "other hosts may reach workloads here (hosts_may_reach)",
        "open" => "no rule says no, and none is needed",
        "isolated" => "no policy allows it, and the workload is isolated",
        "host-access" => "workloads reach their own host only on host_services, and this is none",
        "multicast" => "workloads send no multicast or broadcast",
        "link-local" => "169.254.0.0/16 is closed (allow_link_local)",
        "workload-vxlan" => "workloads send no VXLAN",
        other => other,
    }
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// Its number, as in denial records.
    pub id: u32,
    /// Where it comes from, such as `policy app → web tcp 8080`.
    pub origin: String,
}

/// What the programs judge a workload by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    /// The revision the host enforces.
    pub revision: i64,
    /// Whether the maps hold the policies of the newest revision known; if not, the judgement is by what they hold,
    /// or, if that was written by an earlier agent, by what they should hold.
    pub current: bool,
    /// Whether the workload's link bears our programs.
    pub attached: bool,
    /// Number of the policy set.
    pub set: u32,
    /// Its rules; `None`: an earlier agent wrote it.
    pub rules: Option<u32>,
    /// Version of the workload's policy.
    pub generation: u32,
    /// Whether sources need a policy.
    pub isolated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        for (protocol, port, want) in [
            ("tcp", Some("80"), "tcp 80"),
            ("132", Some("80"), "sctp 80"),
            ("icmp", None, "icmp type 8"),
            ("icmp", Some("3/4"), "icmp type 3 code 4"),
            ("47", None, "protocol 47"),
        ] {
            assert_eq!(Service::parse(protocol, port).unwrap().to_string(), want);
        }
    }

    #[test]
    fn errors_name_the_field_its_value_and_what_is_allowed() {
        for (protocol, port, words) in [
            ("tcp", None, ["port: missing", "1 to 65535"]),
            ("tcp", Some("0"), ["port: invalid value \"0\"", "1 to 65535"]),
            ("icmp", Some("8/256"), ["port: invalid value \"8/256\"", "type/code"]),
            ("gre", None, ["protocol: invalid value \"gre\"", "a number"]),
            ("0", None, ["protocol: invalid value \"0\"", "2 to 255"]),
            ("47", Some("1"), ["port: invalid value \"1\"", "no ports"]),
        ] {
            let error = Service::parse(protocol, port).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
