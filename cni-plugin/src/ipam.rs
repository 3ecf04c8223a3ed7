//! The config's `ipam` section: the agent's own addresses, or another plugin's.
//!
//! A delegate decides which address, the agent still has to agree: it must lie in this host's subnet,
//! since other hosts find it by that alone.

use crate::config::{Config, invalid, shown};
use crate::delegate::Delegate;
use crate::error::{CniError, Code};
use crate::requested::Requested;
use crate::result::CniResult;
use ipnetwork::{IpNetwork, Ipv4Network};
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use weft_model::op::{Op, Route};
use weft_model::workload::Wiring;

/// `ipam.type` of the agent's own addresses; also meant when there is none.
const OWN: &str = "weft";

/// The plugin `ipam.type` names; `None`: the agent's own addresses.
///
/// # Errors
/// Code 7 for a name that is none, 2 for settings beside our own type, which would do nothing.
pub fn delegate(config: &Config) -> Result<Option<Delegate>, CniError> {
    let Some(section) = config.object("ipam")? else {
        return Ok(None);
    };
    let kind = match section.get("type") {
        None | Some(Value::Null) => "",
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(invalid("ipam.type", other, "a string")),
    };
    if !kind.is_empty() && kind != OWN {
        return Delegate::named(kind).map(Some);
    }
    match section.iter().find(|(key, _)| *key != "type") {
        None => Ok(None),
        Some((key, value)) => {
            let msg = format!(
                "unsupported field ipam.{key} = {}: the addresses of ipam type {OWN} are weftd's, see its settings",
                shown(value)
            );
            Err(CniError::new(Code::UnsupportedField, msg))
        }
    }
}

/// What a delegate gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated {
    /// Who.
    pub kind: String,
    /// The workload's address.
    pub address: Ipv4Addr,
    /// Its gateway, if it names one.
    gateway: Option<Ipv4Addr>,
    /// Destinations beside the default route, and through which gateway, if that is said.
    routes: Vec<(Ipv4Network, Option<Ipv4Addr>)>,
    /// DNS for the result; may be empty.
    pub dns: Map<String, Value>,
}

impl Delegated {
    /// Reads a delegate's result.
    ///
    /// # Errors
    /// Code 7, naming what weft cannot wire: it does exactly one IPv4 address a workload.
    pub fn of(kind: &str, result: &CniResult) -> Result<Self, CniError> {
        let fail = |what: String| CniError::new(Code::InvalidConfig, format!("ipam {kind} gave {what}"));
        let given: Vec<&str> = result.addresses().map(|(address, _)| address).collect();
        let [(address, gateway)] = result.addresses().collect::<Vec<_>>()[..] else {
            let list = given.join(", ");
            return Err(fail(format!("{} addresses ({list}): weft wires exactly one, of IPv4", given.len())));
        };
        let Ok(IpNetwork::V4(network)) = address.parse() else {
            return Err(fail(format!("the address {address:?}: weft wires exactly one, of IPv4")));
        };
        let inet = |text: &str| {
            let parsed = text.parse::<Ipv4Addr>();
            parsed.map_err(|error| fail(format!("the gateway {text:?}: must be an IPv4 address ({error})")))
        };
        let mut routes = Vec::new();
        for route in result.routes() {
            routes.push(read_route(route, inet).map_err(|what| match what {
                Ok(what) => fail(what),
                Err(error) => error,
            })?);
        }
        Ok(Self {
            kind: kind.to_owned(),
            address: network.ip(),
            gateway: gateway.map(inet).transpose()?,
            routes,
            dns: result.dns().clone(),
        })
    }

    /// The same, if it is what the runtime asked for: the delegate was asked too, and one that does not know how gives any.
    ///
    /// # Errors
    /// Code 7 for another address.
    pub fn as_requested(self, requested: Option<Requested>) -> Result<Self, CniError> {
        match requested {
            Some(Requested { address, field }) if address != self.address => {
                let msg = format!("ipam {} gave {}: must be {address}, as {field} says", self.kind, self.address);
                Err(CniError::new(Code::InvalidConfig, msg))
            }
            _ => Ok(self),
        }
    }

    /// The routes to put inside beside those every workload has. A workload has one gateway.
    ///
    /// # Errors
    /// Code 7 for another gateway than this host's.
    pub fn plan(&self, wiring: &Wiring) -> Result<Vec<Op>, CniError> {
        let gateways = self.gateway.iter().chain(self.routes.iter().filter_map(|(_, gateway)| gateway.as_ref()));
        if let Some(other) = gateways.into_iter().find(|gateway| **gateway != wiring.gateway) {
            let msg = format!(
                "ipam {} gave the gateway {other}: the gateway of this host's workloads is {}",
                self.kind, wiring.gateway
            );
            return Err(CniError::new(Code::InvalidConfig, msg));
        }
        let own = [Ipv4Network::from(wiring.gateway)];
        let more = self.routes.iter().map(|(destination, _)| *destination);
        let more = more.filter(|destination| destination.prefix() != 0 && !own.contains(destination));
        Ok(more.map(|destination| Op::ReplaceRoute(through_gateway(wiring, destination))).collect())
    }
}

/// A workload's route through its gateway.
#[must_use]
pub fn through_gateway(wiring: &Wiring, destination: Ipv4Network) -> Route {
    Route {
        destination,
        via: Some(wiring.gateway),
        link: wiring.attachment.ifname.clone(),
        onlink: false,
        source: Some(wiring.address),
    }
}

type Read = Result<(Ipv4Network, Option<Ipv4Addr>), Result<String, CniError>>;

fn read_route(route: &Map<String, Value>, inet: impl Fn(&str) -> Result<Ipv4Addr, CniError>) -> Read {
    let shown = || Value::Object(route.clone()).to_string();
    if let Some(key) = route.keys().find(|key| *key != "dst" && *key != "gw") {
        return Err(Ok(format!("a route with {key} ({}): weft knows dst and gw", shown())));
    }
    let destination = route.get("dst").and_then(Value::as_str).and_then(|text| text.parse::<Ipv4Network>().ok());
    let Some(destination) = destination.filter(|network| network.ip() == network.network()) else {
        return Err(Ok(format!("the route {}: dst must be an IPv4 network", shown())));
    };
    let gateway = match route.get("gw") {
        None | Some(Value::Null) => None,
        Some(value) => Some(inet(value.as_str().unwrap_or_default()).map_err(Err)?),
    };
    Ok((destination, gateway))
}
