//! `runtimeConfig`: what runtimes ask for besides the connection. Keys in any case (containerd's `HostPort`), and
//! as Garden writes them (`host_port`); `null`, absent and empty are the same.

use crate::args::Args;
use crate::bandwidth;
use crate::config::{Config, invalid, list, lookup, object_of, text_of};
use crate::error::CniError;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use weft_model::capability::Capabilities;
use weft_model::mac::Mac;
use weft_model::policy::Protocol;
use weft_model::ports::PortMapping;

type Object = Map<String, Value>;

/// What the agent is to carry out.
///
/// # Errors
/// Code 7 with field, value and what is allowed.
pub fn wanted(config: &Config, args: &Args) -> Result<Capabilities, CniError> {
    let runtime = config.object("runtimeConfig")?;
    let part = |key: &str| runtime.and_then(|runtime| lookup(runtime, key));
    Ok(Capabilities {
        ports: port_mappings(part("portMappings"))?,
        mac: mac(part("mac"), args.mac.as_deref())?,
        bandwidth: bandwidth::read("runtimeConfig.bandwidth", part("bandwidth"))?,
    })
}

/// The result's `dns` as the runtime wants it: `servers`, `searches`, `options` of the capability.
///
/// # Errors
/// Code 7 if it is something else.
pub fn dns(config: &Config) -> Result<Object, CniError> {
    let runtime = config.object("runtimeConfig")?;
    let field = "runtimeConfig.dns";
    let Some(asked) = object_of(field, runtime.and_then(|runtime| lookup(runtime, "dns")))? else {
        return Ok(Object::new());
    };
    let mut dns = Object::new();
    for (theirs, ours) in [("servers", "nameservers"), ("searches", "search"), ("options", "options")] {
        let texts = list(&format!("{field}.{theirs}"), lookup(asked, theirs))?;
        if let Some(other) = texts.iter().find(|text| !text.is_string()) {
            return Err(invalid(&format!("{field}.{theirs}"), other, "a list of strings"));
        }
        if !texts.is_empty() {
            dns.insert(ours.to_owned(), Value::Array(texts.to_vec()));
        }
    }
    Ok(dns)
}

fn port_mappings(value: Option<&Value>) -> Result<Vec<PortMapping>, CniError> {
    let field = "runtimeConfig.portMappings";
    let mapping = |(number, value): (usize, &Value)| port_mapping(&format!("{field}[{number}]"), value);
    list(field, value)?.iter().enumerate().map(mapping).collect()
}

fn port_mapping(field: &str, value: &Value) -> Result<PortMapping, CniError> {
    let Value::Object(map) = value else { return Err(invalid(field, value, "an object")) };
    // CNI's name, then Garden's.
    let find = |cni: &str, garden: &str| lookup(map, cni).or_else(|| lookup(map, garden));
    Ok(PortMapping {
        protocol: protocol(&format!("{field}.protocol"), lookup(map, "protocol"))?,
        host_ip: host_ip(&format!("{field}.hostIP"), find("hostIP", "host_ip"))?,
        host_port: port(&format!("{field}.hostPort"), find("hostPort", "host_port"))?,
        container_port: port(&format!("{field}.containerPort"), find("containerPort", "container_port"))?,
    })
}

fn protocol(field: &str, value: Option<&Value>) -> Result<Protocol, CniError> {
    let text = text_of(field, value)?.unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(invalid(field, &text.into(), "tcp or udp")),
    }
}

fn host_ip(field: &str, value: Option<&Value>) -> Result<Option<Ipv4Addr>, CniError> {
    let text = text_of(field, value)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let one_hosts = |ip: &Ipv4Addr| !ip.is_multicast() && !ip.is_broadcast();
    match text.parse().ok().filter(one_hosts) {
        Some(Ipv4Addr::UNSPECIFIED) => Ok(None),
        Some(ip) => Ok(Some(ip)),
        None => Err(invalid(field, &text.into(), "an IPv4 address of this host, or empty or 0.0.0.0 for all")),
    }
}

fn port(field: &str, value: Option<&Value>) -> Result<NonZeroU16, CniError> {
    let number = value.and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok()).and_then(NonZeroU16::new);
    number.ok_or_else(|| invalid(field, value.unwrap_or(&Value::Null), "a whole number from 1 to 65535"))
}

fn mac(value: Option<&Value>, arg: Option<&str>) -> Result<Option<Mac>, CniError> {
    let field = "runtimeConfig.mac";
    let asked = text_of(field, value)?.filter(|text| !text.is_empty());
    let (field, text) = match (asked, arg) {
        (Some(text), _) => (field, text),
        (None, Some(text)) => ("MAC of CNI_ARGS", text.to_owned()),
        (None, None) => return Ok(None),
    };
    let parsed = text.parse();
    parsed.map(Some).map_err(|_error| invalid(field, &text.into(), "six bytes in hexadecimal with ':' between"))
}
