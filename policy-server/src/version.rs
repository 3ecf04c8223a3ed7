//! The two versions of Cloud Foundry's API: v1 has port ranges, v0 single ports.

use crate::json::{Fields, Node, WrongType};
use serde::Serialize;
use weft_api::policies::{DestinationBody, PolicyBody, PolicyFault, PolicyList, PortsBody, SourceBody};
use weft_model::policy::Policy;

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V0,
    V1,
}

/// Why a body holds no policies; the texts are Cloud Foundry's as far as they do not quote Go's types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("mapper: unmarshal json: {0}")]
    Json(String),
    #[error("mapper: validate policies: {0}")]
    Policy(String),
}

impl Version {
    /// Exactly `v0` or `v1`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "v0" => Some(Self::V0),
            "v1" => Some(Self::V1),
            _ => None,
        }
    }

    /// The policies of a request's body.
    pub(crate) fn read(self, body: &[u8]) -> Result<Vec<Policy>, BodyFault> {
        let node = Node::parse(body).map_err(BodyFault::Json)?;
        let bodies = self.bodies(&node).map_err(|error| BodyFault::Json(error.to_string()))?;
        if bodies.is_empty() {
            return Err(BodyFault::Policy(PolicyFault::NoPolicies.to_string()));
        }
        bodies
            .iter()
            .map(PolicyBody::validate)
            .collect::<Result<_, _>>()
            .map_err(|fault| BodyFault::Policy(self.words(&fault)))
    }

    /// The body of an answer. v0 cannot show ranges of ports and leaves them out.
    pub(crate) fn list<'a>(self, policies: impl Iterator<Item = &'a Policy>) -> List {
        match self {
            Self::V0 => List::V0(ListV0::new(policies)),
            Self::V1 => {
                let policies: Vec<_> = policies.map(PolicyBody::from).collect();
                List::V1(PolicyList { total_policies: policies.len(), policies })
            }
        }
    }

    fn bodies(self, node: &Node) -> Result<Vec<PolicyBody>, WrongType> {
        let policies = Fields::of(node)?.list("policies")?;
        let numbered = policies.iter().enumerate();
        numbered
            .map(|(index, policy)| self.body(policy).map_err(|error| error.inside(&format!("policies[{index}]"))))
            .collect()
    }

    fn body(self, node: &Node) -> Result<PolicyBody, WrongType> {
        let policy = Fields::of(node)?;
        let source = policy.fields("source")?;
        let destination = policy.fields("destination")?;
        Ok(PolicyBody {
            source: read_source(source).map_err(|error| error.inside("source"))?,
            destination: self.read_destination(destination).map_err(|error| error.inside("destination"))?,
        })
    }

    fn read_destination(self, fields: Fields<'_>) -> Result<DestinationBody, WrongType> {
        let ports = match self {
            Self::V0 => {
                let port = fields.whole("port")?;
                PortsBody { start: port, end: port }
            }
            Self::V1 => {
                let ports = fields.fields("ports")?;
                let number = |key| ports.whole(key).map_err(|error| error.inside("ports"));
                PortsBody { start: number("start")?, end: number("end")? }
            }
        };
        Ok(DestinationBody {
            id: fields.text("id")?,
            tag: fields.text("tag")?,
            protocol: fields.text("protocol")?,
            ports,
        })
    }

    /// A fault in this version's words. v0 of Cloud Foundry takes ports above 65535, which nothing
    /// could enforce; here they are as wrong as negative ones.
    fn words(self, fault: &PolicyFault) -> String {
        match (self, fault) {
            (Self::V0, PolicyFault::Start(port) | PolicyFault::End(port)) => {
                format!("invalid port {port}, must be in range 1-65535")
            }
            (Self::V0, PolicyFault::NoStart) => "missing port".to_owned(),
            _ => fault.to_string(),
        }
    }
}

fn read_source(fields: Fields<'_>) -> Result<SourceBody, WrongType> {
    Ok(SourceBody { id: fields.text("id")?, tag: fields.text("tag")? })
}

/// A list of policies in the shape of either version.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum List {
    V0(ListV0),
    V1(PolicyList),
}

#[derive(Debug, Serialize)]
pub(crate) struct ListV0 {
    total_policies: usize,
    policies: Vec<PolicyV0>,
}

#[derive(Debug, Serialize)]
struct PolicyV0 {
    source: SourceBody,
    destination: DestinationV0,
}

#[derive(Debug, Serialize)]
struct DestinationV0 {
    id: String,
    protocol: String,
    port: u16,
}

impl ListV0 {
    fn new<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let policies: Vec<_> = policies
            .filter(|policy| policy.ports.start() == policy.ports.end())
            .map(|policy| PolicyV0 {
                source: PolicyBody::from(policy).source,
                destination: DestinationV0 {
                    id: policy.destination.to_string(),
                    protocol: policy.protocol.to_string(),
                    port: policy.ports.start(),
                },
            })
            .collect();
        Self { total_policies: policies.len(), policies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(version: Version, body: &str) -> String {
        version.read(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn absence_in_all_its_spellings() {
        for body in ["null", "{}", r#"{"policies":null}"#, r#"{"policies":[]}"#] {
            assert_eq!(fault(Version::V1, body), "mapper: validate policies: missing policies", "{body}");
        }
        for body in
            [r#"{"policies":[null]}"#, r#"{"policies":[{"source":null}]}"#, r#"{"policies":[{"source":{"id":null}}]}"#]
        {
            assert_eq!(fault(Version::V1, body), "mapper: validate policies: missing source id", "{body}");
        }
    }

    #[test]
    fn each_version_misses_the_others_port() {
        let v0 = r#"{"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","port":80}}]}"#;
        let v1 = r#"{"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"tcp","ports":{"start":80,"end":80}}}]}"#;
        assert_eq!(Version::V0.read(v0.as_bytes()), Version::V1.read(v1.as_bytes()));
        assert_eq!(fault(Version::V0, v1), "mapper: validate policies: missing port");
        assert_eq!(fault(Version::V1, v0), "mapper: validate policies: missing start port");
        for port in ["-1", "70000"] {
            assert_eq!(
                fault(Version::V0, &v0.replace("80", port)),
                format!("mapper: validate policies: invalid port {port}, must be in range 1-65535")
            );
        }
    }

    #[test]
    fn wrong_types_name_the_field() {
        for (body, text) in [
            ("7", "the body must be an object, not a number"),
            (r#"{"policies":{}}"#, "policies must be a list, not an object"),
            (r#"{"policies":[{"source":{"id":7}}]}"#, "policies[0].source.id must be text, not a number"),
            (
                r#"{"policies":[{"destination":{"ports":{"end":"80"}}}]}"#,
                "policies[0].destination.ports.end must be a whole number, not text",
            ),
        ] {
            assert_eq!(fault(Version::V1, body), format!("mapper: unmarshal json: {text}"));
        }
    }
}
