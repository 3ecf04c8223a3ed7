//! flannel's documents in etcd, which weft shares: `<prefix>/config` and `<prefix>/subnets/<key>`.
//!
//! Read tolerantly, written exactly as flanneld writes them (flannel 0.28, `pkg/subnet`,
//! `pkg/lease`): a key or value below `subnets` that flanneld cannot parse makes it forget all peers.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::net::Ipv4Addr;
use weft_model::mac::Mac;
use weft_model::net::{NetworkConfig, NetworkError, Subnet};

/// Default of `--etcd-prefix`.
pub const DEFAULT_PREFIX: &str = "/coreos.com/network";

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlannelError {
    /// Not JSON, or of the wrong shape.
    #[error("not a flannel document: {0}")]
    Json(String),
    /// `Network` missing.
    #[error("please define a correct Network parameter in the flannel config")]
    NoNetwork,
    /// A field's value.
    #[error("{field}: invalid value {value}: {allowed}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What may.
        allowed: &'static str,
    },
    /// The network cannot be divided that way.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A key that names no subnet.
    #[error("key {0:?} names no IPv4 subnet (such as 10.5.34.0-24)")]
    Key(String),
    /// A lease of another backend.
    #[error("backend {0:?} is not vxlan")]
    Backend(String),
}

/// What `<prefix>/config` says, as far as weft uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The network and its subnets.
    pub network: NetworkConfig,
    /// VXLAN network identifier, if the backend section names one.
    pub vni: Option<u32>,
    /// UDP port, if it names one other than 0 (0: the kernel's default, 8472).
    pub port: Option<u16>,
}

/// Reads `<prefix>/config`; field names in any case, as Go does.
///
/// # Errors
/// [`FlannelError`] naming the field.
pub fn parse_config(text: &[u8]) -> Result<Config, FlannelError> {
    let config: RawConfig = fold_and_parse(text)?;
    let network = config.network.ok_or(FlannelError::NoNetwork)?;
    let network = network.parse().ok().ok_or(FlannelError::Field {
        field: "Network",
        value: network,
        allowed: "an IPv4 network such as 10.5.0.0/16",
    })?;
    let backend = config.backend.unwrap_or_default();
    if let Some(kind) = backend.kind.filter(|kind| !kind.eq_ignore_ascii_case("vxlan")) {
        return Err(FlannelError::Backend(kind));
    }
    Ok(Config {
        network: NetworkConfig::new(network, config.subnetlen, config.subnetmin, config.subnetmax)?,
        vni: backend.vni,
        port: backend.port.filter(|port| *port != 0),
    })
}

#[derive(Deserialize, Default)]
struct RawConfig {
    network: Option<String>,
    subnetlen: Option<u8>,
    subnetmin: Option<Ipv4Addr>,
    subnetmax: Option<Ipv4Addr>,
    backend: Option<RawBackend>,
}

#[derive(Deserialize, Default)]
struct RawBackend {
    #[serde(rename = "type")]
    kind: Option<String>,
    vni: Option<u32>,
    port: Option<u16>,
}

/// A host's lease: the value below `<prefix>/subnets/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseValue {
    /// The host's underlay address.
    pub public_ip: Ipv4Addr,
    /// VXLAN network identifier it uses.
    pub vni: u32,
    /// Hardware address of its VXLAN device.
    pub vtep_mac: Mac,
}

#[derive(Serialize)]
struct WrittenLease<'a> {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<()>,
    #[serde(rename = "BackendType")]
    backend_type: &'a str,
    #[serde(rename = "BackendData")]
    backend_data: WrittenBackend,
}

#[derive(Serialize)]
struct WrittenBackend {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    vtep_mac: Mac,
}

#[derive(Deserialize)]
struct RawLease {
    #[serde(default, deserialize_with = "null_is_default")]
    publicip: Option<Ipv4Addr>,
    #[serde(default)]
    backendtype: String,
    #[serde(default)]
    backenddata: Option<RawLeaseBackend>,
}

#[derive(Deserialize)]
struct RawLeaseBackend {
    #[serde(default)]
    vni: u32,
    vtepmac: Option<String>,
}

impl LeaseValue {
    /// The bytes flanneld would write: its order, its spelling, no spaces.
    #[must_use]
    pub fn to_json(&self) -> String {
        let written = WrittenLease {
            public_ip: self.public_ip,
            public_ipv6: None,
            backend_type: "vxlan",
            backend_data: WrittenBackend { vni: self.vni, vtep_mac: self.vtep_mac },
        };
        #[expect(clippy::unwrap_used, reason = "numbers and texts only: it has no way to fail")]
        serde_json::to_string(&written).unwrap()
    }

    /// Reads what any flanneld or weft agent wrote.
    ///
    /// # Errors
    /// [`FlannelError`]; the caller skips that one host and keeps the others.
    pub fn parse(text: &[u8]) -> Result<Self, FlannelError> {
        let raw: RawLease = fold_and_parse(text)?;
        if raw.backendtype != "vxlan" {
            return Err(FlannelError::Backend(raw.backendtype));
        }
        let public_ip = raw.publicip.filter(|ip| !ip.is_unspecified()).ok_or(FlannelError::Field {
            field: "PublicIP",
            value: "none".to_owned(),
            allowed: "an IPv4 address other than 0.0.0.0",
        })?;
        let (vni, mac) = raw.backenddata.map_or((0, None), |data| (data.vni, data.vtepmac));
        let vtep_mac = mac.as_deref().and_then(|mac| mac.parse().ok()).ok_or(FlannelError::Field {
            field: "BackendData.VtepMAC",
            value: mac.unwrap_or_else(|| "none".to_owned()),
            allowed: "six bytes in hexadecimal with colons",
        })?;
        Ok(Self { public_ip, vni, vtep_mac })
    }
}

/// The last part of a lease's key: `10.5.34.0-24`.
#[must_use]
pub fn subnet_key(subnet: Subnet) -> String {
    let network = subnet.network();
    format!("{}-{}", network.network(), network.prefix())
}

/// Reads the last part of a lease's key; of a dual-stack key (`10.5.34.0-24&fd00:5:0:1::-64`) the
/// IPv4 part.
///
/// # Errors
/// [`FlannelError::Key`].
pub fn parse_subnet_key(key: &str) -> Result<Subnet, FlannelError> {
    let invalid = || FlannelError::Key(key.to_owned());
    let v4 = key.split('&').next().unwrap_or(key);
    let (address, prefix) = v4.split_once('-').ok_or_else(invalid)?;
    let address: Ipv4Addr = address.parse().ok().ok_or_else(invalid)?;
    let prefix: u8 = prefix.parse().ok().ok_or_else(invalid)?;
    let network = ipnetwork::Ipv4Network::new(address, prefix).ok().ok_or_else(invalid)?;
    Subnet::try_from(network).ok().ok_or_else(invalid)
}

/// Parses JSON after turning all object keys to lower case.
fn fold_and_parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, FlannelError> {
    let json = |error: serde_json::Error| FlannelError::Json(error.to_string());
    let value: Value = serde_json::from_slice(text).map_err(json)?;
    serde_json::from_value(fold(value)).map_err(json)
}

fn fold(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key.to_lowercase(), fold(value))).collect(),
        Value::Array(list) => list.into_iter().map(fold).collect(),
        other => other,
    }
}

fn null_is_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Addr>, D::Error> {
    Option::<Ipv4Addr>::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:1b:b9:d3:64:63"}}"#;

    #[test]
    fn writes_byte_for_byte_what_flanneld_writes() {
        let lease = LeaseValue::parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(lease.to_json(), WRITTEN);
    }

    #[test]
    fn reads_other_spellings_and_refuses_what_would_hurt() {
        let other = br#" {"backendType":"vxlan","publicip":"192.0.2.1","extra":1,"BackendData":{"VtepMAC":"F2-1B-B9-D3-64-63","GBP":true}} "#;
        assert_eq!(LeaseValue::parse(other).unwrap().vtep_mac.to_string(), "f2:1b:b9:d3:64:63");
        for bad in [
            "",
            "null",
            "[]",
            "7",
            r#"{"PublicIP":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"f2:1b:b9:d3:64:63"}}"#,
            r#"{"PublicIP":"0.0.0.0","BackendType":"vxlan","BackendData":{"VtepMAC":"f2:1b:b9:d3:64:63"}}"#,
            r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#,
            r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":null}"#,
            r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":"1","VtepMAC":"zz"}}"#,
        ] {
            assert!(LeaseValue::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_name_subnets() {
        let subnet = parse_subnet_key("10.5.34.0-24").unwrap();
        assert_eq!(subnet_key(subnet), "10.5.34.0-24");
        assert_eq!(parse_subnet_key("10.5.34.0-24&fd00:5:0:1::-64").unwrap(), subnet);
        for bad in ["leader", "10.5.34.0", "10.5.34.5-24", "0.0.0.0-0", "10.5.34.0-33", "fd00::-64", ""] {
            assert!(parse_subnet_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn config_in_any_case_with_flannels_texts() {
        let config = parse_config(br#"{"Network":"10.255.0.0/16","Backend":{"Type":"VXLAN","Port":4789}}"#).unwrap();
        assert_eq!((config.network.subnet_len(), config.port, config.vni), (24, Some(4789), None));
        assert_eq!(parse_config(b"{}").unwrap_err(), FlannelError::NoNetwork);
        assert!(parse_config(br#"{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}"#).is_err());
        for bad in [r#"{"network":"x"}"#, r#"{"network":"10.0.0.0"}"#, r#"{"Network":"10.0.0.0/16","SubnetLen":"24"}"#]
        {
            assert!(parse_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
