//! An address asked for by name: `ips` of `runtimeConfig`, `args.cni.ips` of the config, `IP` of `CNI_ARGS`.

use crate::args::Args;
use crate::config::{Config, invalid, list, lookup, object_of};
use crate::error::CniError;
use ipnetwork::IpNetwork;
use serde_json::Value;
use std::net::Ipv4Addr;

const ALLOWED: &str = "one IPv4 address of this host's subnet, as a.b.c.d or a.b.c.d/nn";

/// The address the workload must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// It.
    pub address: Ipv4Addr,
    /// Who says so.
    pub field: &'static str,
}

/// Reads all three. The same address may stand in several of them; the prefix length is not used, for a
/// workload has a /32.
///
/// # Errors
/// Code 7 for what is no IPv4 address, and for a second one: a workload has one.
pub fn requested(config: &Config, args: &Args) -> Result<Option<Requested>, CniError> {
    let runtime = config.object("runtimeConfig")?.and_then(|runtime| lookup(runtime, "ips"));
    let structured = object_of("args.cni", config.object("args")?.and_then(|args| lookup(args, "cni")))?;
    let structured = structured.and_then(|cni| lookup(cni, "ips"));
    let arg = args.ip.as_deref().map(Value::from);
    let sources = [
        ("runtimeConfig.ips", list("runtimeConfig.ips", runtime)?),
        ("args.cni.ips", list("args.cni.ips", structured)?),
    ];
    let named = sources.into_iter().flat_map(|(field, values)| values.iter().map(move |value| (field, value)));
    let mut found: Option<Requested> = None;
    for (field, value) in named.chain(arg.iter().map(|value| ("IP of CNI_ARGS", value))) {
        let address = read(field, value)?;
        match found {
            Some(first) if first.address != address => {
                let allowed =
                    format!("{} as {} says, or absent: a workload has one address", first.address, first.field);
                return Err(invalid(field, value, &allowed));
            }
            _ => found = found.or(Some(Requested { address, field })),
        }
    }
    Ok(found)
}

fn read(field: &str, value: &Value) -> Result<Ipv4Addr, CniError> {
    match value.as_str().and_then(|text| text.parse().ok()) {
        Some(IpNetwork::V4(network)) => Ok(network.ip()),
        _ => Err(invalid(field, value, ALLOWED)),
    }
}
