//! The result of ADD, in the config's version, and earlier results of the chain.

use crate::config::{Config, shown};
use crate::error::{CniError, Code};
use crate::version::Version;
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use weft_model::workload::Wiring;

/// A result: all that versions 0.3.0 to 1.1.0 know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniResult {
    cni_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    ips: Vec<Ip>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    routes: Vec<Map<String, Value>>,
    #[serde(deserialize_with = "null_as_empty")]
    dns: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    sandbox: String,
    #[serde(rename = "socketPath", skip_serializing_if = "Option::is_none")]
    socket_path: Option<String>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pci_id: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Ip {
    /// `4` or `6`, below 1.0.0 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
}

/// Go writes a nil list or map as `null`.
fn null_as_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl CniResult {
    /// The result of earlier plugins of the chain, if there are any.
    ///
    /// # Errors
    /// Code 6 if it is no result, 1 if it is of a version we do not speak.
    pub fn previous(config: &Config) -> Result<Option<Self>, CniError> {
        let Some(value) = config.get("prevResult") else {
            return Ok(None);
        };
        Self::read(value).map(Some).map_err(|error| match error.code {
            6 => CniError::new(Code::Decoding, format!("could not parse prevResult: {error}")).details(shown(value)),
            _ => error,
        })
    }

    /// Reads a plugin's result.
    ///
    /// # Errors
    /// Code 6 if it is none, 1 if it is of a version we do not speak.
    pub fn read(value: &Value) -> Result<Self, CniError> {
        // A list would be read too, as the fields one after the other.
        if !value.is_object() {
            return Err(CniError::new(Code::Decoding, "it is no object"));
        }
        let result: Self =
            serde_json::from_value(value.clone()).map_err(|error| CniError::new(Code::Decoding, error.to_string()))?;
        // Absent: the config's own.
        if !result.cni_version.is_empty() {
            Version::parse(&result.cni_version)?;
        }
        Ok(result)
    }

    /// Its addresses with prefix length, each with its gateway.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.ips.iter().map(|ip| (ip.address.as_str(), ip.gateway.as_deref().filter(|text| !text.is_empty())))
    }

    /// Its routes.
    pub fn routes(&self) -> impl Iterator<Item = &Map<String, Value>> {
        self.routes.iter()
    }

    /// Its DNS.
    #[must_use]
    pub fn dns(&self) -> &Map<String, Value> {
        &self.dns
    }

    /// Adds what was wired: the host's bridge, the host's end, the workload's end, its address and routes.
    pub fn add_workload(&mut self, wiring: &Wiring, sandbox: &str) {
        if let Some(bridge) = &wiring.bridge {
            self.interfaces.push(Interface {
                name: bridge.to_string(),
                mac: wiring.gateway_mac.to_string(),
                mtu: Some(wiring.mtu),
                ..Interface::default()
            });
        }
        self.interfaces.push(Interface {
            name: wiring.host_ifname().to_string(),
            mac: wiring.host_mac().to_string(),
            mtu: Some(wiring.mtu),
            ..Interface::default()
        });
        self.interfaces.push(Interface {
            name: wiring.attachment.ifname.to_string(),
            mac: wiring.workload_mac().to_string(),
            mtu: Some(wiring.mtu),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        });
        self.ips.push(Ip {
            version: None,
            interface: i64::try_from(self.interfaces.len() - 1).ok(),
            address: format!("{}/32", wiring.address),
            gateway: Some(wiring.gateway.to_string()),
        });
        self.routes.push(Map::from_iter([
            ("dst".to_owned(), Value::from("0.0.0.0/0")),
            ("gw".to_owned(), Value::from(wiring.gateway.to_string())),
        ]));
    }

    /// Adds a route through the workload's gateway.
    pub fn add_route(&mut self, destination: Ipv4Network, gateway: Ipv4Addr) {
        self.routes.push(Map::from_iter([
            ("dst".to_owned(), Value::from(destination.to_string())),
            ("gw".to_owned(), Value::from(gateway.to_string())),
        ]));
    }

    /// Sets DNS: what the runtime or the config says, else the agent's servers, else what earlier plugins said.
    pub fn set_dns(&mut self, asked: &Map<String, Value>, servers: &[Ipv4Addr]) {
        if !asked.is_empty() {
            self.dns = asked.clone();
        } else if !servers.is_empty() {
            let servers = servers.iter().map(|ip| Value::from(ip.to_string())).collect();
            self.dns = Map::from_iter([("nameservers".to_owned(), Value::Array(servers))]);
        }
    }

    /// Whether an interface with an address is in it, as ADD would have said.
    #[must_use]
    pub fn has(&self, ifname: &str, is_sandbox: impl Fn(&str) -> bool, address: Ipv4Addr) -> bool {
        let address = format!("{address}/32");
        self.ips.iter().filter(|ip| ip.address == address).any(|ip| {
            ip.interface
                .and_then(|index| self.interfaces.get(usize::try_from(index).ok()?))
                .is_some_and(|link| link.name == ifname && is_sandbox(&link.sandbox))
        })
    }

    /// As printed: in that version, with nothing that came later.
    #[must_use]
    pub fn to_json(self, version: Version) -> String {
        #[expect(clippy::unwrap_used, reason = "text keys and plain values always serialise")]
        let mut text = serde_json::to_string_pretty(&self.in_version(version)).unwrap();
        text.push('\n');
        text
    }

    /// The same as a value.
    #[must_use]
    pub fn to_value(self, version: Version) -> Value {
        serde_json::to_value(self.in_version(version)).unwrap_or_default()
    }

    fn in_version(mut self, version: Version) -> Self {
        version.as_str().clone_into(&mut self.cni_version);
        for ip in &mut self.ips {
            let family = if ip.address.contains(':') { "6" } else { "4" };
            ip.version = (version < Version::V100).then(|| family.to_owned());
        }
        if version < Version::V110 {
            for link in &mut self.interfaces {
                (link.mtu, link.socket_path, link.pci_id) = (None, None, None);
            }
            for route in &mut self.routes {
                route.retain(|key, _| key == "dst" || key == "gw");
            }
        }
        self
    }
}
