//! Cloud Foundry's network policy API: payloads, validation in its order, its error texts.
//!
//! Source of the texts: cf-networking-release, `policy-server/api/policy_validator.go`, seen running.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};

/// A list of policies, as `GET …/policies` answers it (v1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyList {
    /// How many.
    pub total_policies: usize,
    /// Them.
    pub policies: Vec<PolicyBody>,
}

/// One policy in API shape. As in a request: not yet validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PolicyBody {
    /// Who connects.
    #[serde(default)]
    pub source: SourceBody,
    /// To whom, over what.
    #[serde(default)]
    pub destination: DestinationBody,
}

/// The source of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SourceBody {
    /// Group id.
    #[serde(default)]
    pub id: String,
    /// Only the internal API shows tags; requests must not name them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
}

/// The destination of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DestinationBody {
    /// Group id.
    #[serde(default)]
    pub id: String,
    /// As [`SourceBody::tag`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: String,
    /// Ports.
    #[serde(default)]
    pub ports: PortsBody,
}

/// Ports in API shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PortsBody {
    /// The first.
    #[serde(default)]
    pub start: i64,
    /// The last.
    #[serde(default)]
    pub end: i64,
}

/// Why a request is refused; the texts are Cloud Foundry's. The first fault of the first policy wins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// An empty or absent list.
    #[error("missing policies")]
    NoPolicies,
    /// No source id.
    #[error("missing source id")]
    NoSource,
    /// No destination id.
    #[error("missing destination id")]
    NoDestination,
    /// A protocol other than `tcp` and `udp`.
    #[error("invalid destination protocol, specify either udp or tcp")]
    Protocol,
    /// Start after end.
    #[error("invalid port range {0}-{1}, start must be less than or equal to end")]
    Range(i64, i64),
    /// A negative start.
    #[error("invalid start port {0}, must be in range 1-65535")]
    Start(i64),
    /// Start 0 or absent.
    #[error("missing start port")]
    NoStart,
    /// An end beyond 65535.
    #[error("invalid end port {0}, must be in range 1-65535")]
    End(i64),
    /// A tag in a request.
    #[error("tags may not be specified")]
    Tags,
    /// An id our store cannot hold (longer than 255 bytes, or with NUL).
    #[error("invalid {field} id, must be 1 to 255 bytes without NUL")]
    Id {
        /// `source` or `destination`.
        field: &'static str,
    },
}

impl PolicyBody {
    /// The policy, if it is one: faults in Cloud Foundry's order.
    ///
    /// # Errors
    /// The first [`PolicyFault`].
    pub fn validate(&self) -> Result<Policy, PolicyFault> {
        let Self { source, destination } = self;
        let PortsBody { start, end } = destination.ports;
        if source.id.is_empty() {
            return Err(PolicyFault::NoSource);
        }
        if destination.id.is_empty() {
            return Err(PolicyFault::NoDestination);
        }
        let protocol = match destination.protocol.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(PolicyFault::Protocol),
        };
        if start > end {
            return Err(PolicyFault::Range(start, end));
        }
        if start < 0 {
            return Err(PolicyFault::Start(start));
        }
        if start == 0 {
            return Err(PolicyFault::NoStart);
        }
        let end = u16::try_from(end).ok().ok_or(PolicyFault::End(end))?;
        // Not above `end`, so it fits.
        let start = u16::try_from(start).ok().ok_or(PolicyFault::Start(start))?;
        let ports = PortRange::new(start, end).ok_or(PolicyFault::NoStart)?;
        if !source.tag.is_empty() || !destination.tag.is_empty() {
            return Err(PolicyFault::Tags);
        }
        let group = |field, id: &str| GroupId::new(id).ok().ok_or(PolicyFault::Id { field });
        Ok(Policy {
            source: group("source", &source.id)?,
            destination: group("destination", &destination.id)?,
            protocol,
            ports,
        })
    }
}

/// Validates a whole request.
///
/// # Errors
/// The first [`PolicyFault`] of the first faulty policy.
pub fn validate(policies: &[PolicyBody]) -> Result<Vec<Policy>, PolicyFault> {
    if policies.is_empty() {
        return Err(PolicyFault::NoPolicies);
    }
    policies.iter().map(PolicyBody::validate).collect()
}

impl From<&Policy> for PolicyBody {
    fn from(policy: &Policy) -> Self {
        Self {
            source: SourceBody { id: policy.source.to_string(), tag: String::new() },
            destination: DestinationBody {
                id: policy.destination.to_string(),
                tag: String::new(),
                protocol: policy.protocol.to_string(),
                ports: PortsBody { start: policy.ports.start().into(), end: policy.ports.end().into() },
            },
        }
    }
}

/// Whom a source group may reach: a line of its stored document. `ports` is written `"8080-8080"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyTarget {
    /// The destination group.
    pub to: GroupId,
    /// Over what.
    pub protocol: Protocol,
    /// To which ports.
    #[serde(serialize_with = "write_ports", deserialize_with = "read_ports")]
    pub ports: PortRange,
}

impl PolicyTarget {
    /// The policy this line stands for in `source`'s document.
    #[must_use]
    pub fn policy(&self, source: &GroupId) -> Policy {
        Policy { source: source.clone(), destination: self.to.clone(), protocol: self.protocol, ports: self.ports }
    }
}

impl From<&Policy> for PolicyTarget {
    fn from(policy: &Policy) -> Self {
        Self { to: policy.destination.clone(), protocol: policy.protocol, ports: policy.ports }
    }
}

/// Reads `8080` or `8080-8090`.
#[must_use]
pub fn parse_ports(text: &str) -> Option<PortRange> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(start.parse().ok()?, end.parse().ok()?)
}

fn write_ports<S: Serializer>(ports: &PortRange, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ports)
}

fn read_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PortRange, D::Error> {
    struct Ports;
    impl Visitor<'_> for Ports {
        type Value = PortRange;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("ports such as 8080-8090")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
            parse_ports(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> PolicyBody {
        serde_json::from_str(json).unwrap()
    }

    fn fault(source: &str, destination: &str) -> String {
        let json = format!(r#"{{"source":{source},"destination":{destination}}}"#);
        body(&json).validate().unwrap_err().to_string()
    }

    #[test]
    fn faults_in_cloud_foundrys_order_and_words() {
        let ok = r#"{"id":"a"}"#;
        let with = |ports: &str| format!(r#"{{"id":"b","protocol":"tcp","ports":{ports}}}"#);
        assert_eq!(fault("{}", "{}"), "missing source id");
        assert_eq!(fault(ok, "{}"), "missing destination id");
        assert_eq!(
            fault(ok, r#"{"id":"b","protocol":"icmp"}"#),
            "invalid destination protocol, specify either udp or tcp"
        );
        assert_eq!(
            fault(ok, r#"{"id":"b","protocol":"TCP"}"#),
            "invalid destination protocol, specify either udp or tcp"
        );
        let cases = [
            (r#"{"start":80,"end":0}"#, "invalid port range 80-0, start must be less than or equal to end"),
            (r#"{"start":-5,"end":-1}"#, "invalid start port -5, must be in range 1-65535"),
            (r#"{"start":0,"end":0}"#, "missing start port"),
            (r#"{"start":0,"end":80}"#, "missing start port"),
            (r#"{"start":65536,"end":65536}"#, "invalid end port 65536, must be in range 1-65535"),
            (r#"{"start":80,"end":70000}"#, "invalid end port 70000, must be in range 1-65535"),
        ];
        for (ports, want) in cases {
            assert_eq!(fault(ok, &with(ports)), want);
        }
        assert_eq!(fault(r#"{"id":"a","tag":"x"}"#, &with(r#"{"start":80,"end":80}"#)), "tags may not be specified");
        assert_eq!(validate(&[]).unwrap_err().to_string(), "missing policies");
    }

    #[test]
    fn a_good_policy_reads_back() {
        let json = r#"{"source":{"id":"a"},"destination":{"id":"b","protocol":"udp","ports":{"start":53,"end":54}}}"#;
        let policy = body(json).validate().unwrap();
        assert_eq!(serde_json::to_string(&PolicyBody::from(&policy)).unwrap(), json);
        let line = serde_json::to_string(&PolicyTarget::from(&policy)).unwrap();
        assert_eq!(line, r#"{"to":"b","protocol":"udp","ports":"53-54"}"#);
        assert_eq!(serde_json::from_str::<PolicyTarget>(&line).unwrap().policy(&policy.source), policy);
    }
}
