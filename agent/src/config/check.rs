//! What is allowed: an operator's words become a configuration that holds together, or all errors at once.

use super::{Config, ConfigErrors, Raw};
use ipnetwork::Ipv4Network;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use weft_api::logging::{Logging, LoggingChange};
use weft_model::compile::Stance;
use weft_model::datapath::{DenyAction, MapSizes};
use weft_model::group::{GroupRules, HostKind};
use weft_model::id::{GroupId, IfName};
use weft_model::policy::{Isolation, Protocol};

/// Collects errors while values are read.
struct Checker(Vec<String>);

impl Checker {
    fn refuse(&mut self, field: &str, value: impl fmt::Display, allowed: &str) {
        self.0.push(format!("{field}: invalid value \"{value}\": {allowed}"));
    }

    fn parse<T: std::str::FromStr>(&mut self, field: &str, value: Option<&str>, allowed: &str) -> Option<T> {
        let value = value?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.refuse(field, value, allowed);
        }
        parsed
    }

    fn choice<T>(&mut self, field: &str, value: Option<&str>, choices: &[(&str, T)]) -> Option<T>
    where
        T: Copy,
    {
        let value = value?;
        let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.refuse(field, value, &format!("one of {}", names.join(", ")));
        }
        found
    }

    fn range<T: PartialOrd + fmt::Display>(&mut self, field: &str, value: Option<T>, low: T, high: T) -> Option<T> {
        if let Some(value) = value.as_ref().filter(|value| **value < low || **value > high) {
            self.refuse(field, value, &format!("a number from {low} to {high}"));
        }
        value
    }
}

const IFNAME: &str = "an interface name of 1 to 15 characters";

pub(super) fn check(raw: Raw, system_hostname: &str) -> Result<Config, ConfigErrors> {
    let mut c = Checker(Vec::new());
    if raw.kind.is_none() {
        c.0.push("kind: missing: kubernetes or cell".to_owned());
    }
    let kinds = [("kubernetes", HostKind::Kubernetes), ("cell", HostKind::Cell)];
    let kind = c.choice("kind", raw.kind.as_deref(), &kinds).unwrap_or(HostKind::Cell);
    let cell = kind == HostKind::Cell;
    let stance = check_stance(&raw, kind, &mut c);
    let denies = [("reject", DenyAction::Reject), ("drop", DenyAction::Drop)];
    let default_deny = if cell { DenyAction::Reject } else { DenyAction::Drop };
    let run_dir = raw.run_dir.clone().unwrap_or_else(|| PathBuf::from("/run/weft"));
    let config = Config {
        hostname: check_hostname(raw.hostname.as_deref().unwrap_or(system_hostname), &mut c),
        public_ip: c.parse("public_ip", raw.public_ip.as_deref(), "an IPv4 address"),
        interface: c.parse("interface", raw.interface.as_deref(), IFNAME),
        etcd_endpoints: check_endpoints(raw.etcd_endpoints.clone(), &mut c),
        etcd_prefix: check_prefix(raw.etcd_prefix.as_deref(), &mut c),
        initial_network: check_network(&raw, &mut c),
        vni: c.range("vni", raw.vni, 1, (1 << 24) - 1),
        vxlan_port: c.range("vxlan_port", raw.vxlan_port, 1, u16::MAX),
        vxlan_name: c.parse("vxlan_name", raw.vxlan_name.as_deref(), IFNAME),
        bridge: c
            .parse("bridge", Some(raw.bridge.as_deref().unwrap_or("weft0")), IFNAME)
            .unwrap_or_else(placeholder_name),
        mtu: c.range("mtu", raw.mtu, 576, 65535),
        masquerade: !raw.no_masquerade,
        mark_shift: c.range("mark_shift", raw.mark_shift, 0, 16).unwrap_or(16),
        stance,
        deny: c.choice("deny", raw.deny.as_deref(), &denies).unwrap_or(default_deny),
        logging: check_logging(&raw, &mut c),
        map_sizes: check_map_sizes(&raw, &mut c),
        metrics_listen: c.parse(
            "metrics_listen",
            raw.metrics_listen.as_deref(),
            "an IP address and a port such as 127.0.0.1:9469",
        ),
        link_local: raw.allow_link_local,
        groups: GroupRules {
            kind,
            cluster: check_cluster(raw.cluster.as_deref(), &mut c),
            bare_group_namespaces: raw.bare_group_namespaces.clone().unwrap_or_default(),
        },
        dns_servers: check_dns(raw.dns_servers.as_deref().unwrap_or_default(), &mut c),
        cool_down: raw.address_cool_down.unwrap_or(30),
        reserved: check_reserved(raw.reserved_addresses.as_deref().unwrap_or_default(), &mut c),
        state_dir: raw.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/weft")),
        bpf_dir: raw.bpf_dir.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf/weft")),
        tcx: !raw.no_tcx,
        fast_path: c.choice("fast_path", raw.fast_path.as_deref(), &[("on", true), ("off", false)]).unwrap_or(true),
        denial_log: raw.denial_log.unwrap_or_else(|| run_dir.join("denials.log")),
        run_dir,
    };
    if config.vxlan_name.as_ref() == Some(&config.bridge) {
        c.refuse("vxlan_name", &config.bridge, "another name than the bridge's");
    }
    if c.0.is_empty() { Ok(config) } else { Err(ConfigErrors(c.0)) }
}

#[expect(clippy::unwrap_used, reason = "a constant that is a valid name; used only beside an error")]
fn placeholder_name() -> IfName {
    IfName::new("weft0").unwrap()
}

fn check_stance(raw: &Raw, kind: HostKind, c: &mut Checker) -> Stance {
    let cell = kind == HostKind::Cell;
    let modes = [("always", Isolation::Always), ("selected", Isolation::Selected), ("never", Isolation::Never)];
    let default = if cell { Isolation::Always } else { Isolation::Selected };
    if !cell && raw.host_services.is_some() {
        c.0.push("host_services: only for kind cell: pods reach their own host freely".to_owned());
    }
    let services = raw.host_services.iter().flatten().filter_map(|text| {
        let parsed = parse_service(text);
        if parsed.is_none() {
            c.refuse("host_services", text, "tcp:<port> or udp:<port>, port 1 to 65535");
        }
        parsed
    });
    let host_services: BTreeSet<(Protocol, u16)> = services.collect();
    Stance {
        isolation: c.choice("isolation", raw.isolation.as_deref(), &modes).unwrap_or(default),
        hosts_may_reach: raw.hosts_may_reach.unwrap_or(!cell),
        host_services: cell.then_some(host_services),
    }
}

fn check_map_sizes(raw: &Raw, c: &mut Checker) -> MapSizes {
    let default = MapSizes::default();
    let mut entries = |field, value, default| c.range(field, value, 1024, 1 << 24).unwrap_or(default);
    let connections = entries("max_connections", raw.max_connections, default.connections);
    let unanswered = entries("max_unanswered", raw.max_unanswered, default.unanswered);
    let policy_entries = entries("max_policy_entries", raw.max_policy_entries, default.policy_entries);
    let kib = raw.record_buffer_kib.unwrap_or(default.record_bytes >> 10);
    let fits = kib.is_power_of_two() && (64..=262_144).contains(&kib);
    if !fits {
        c.refuse("record_buffer_kib", kib, "a power of two from 64 to 262144");
    }
    let record_bytes = if fits { kib << 10 } else { default.record_bytes };
    MapSizes { connections, unanswered, policy_entries, record_bytes }
}

fn check_logging(raw: &Raw, c: &mut Checker) -> Logging {
    let group = |text: &String| {
        let parsed: Option<GroupId> = text.parse().ok();
        if parsed.is_none() {
            c.refuse("audit_groups", text, "an app's GUID, or k8s:<cluster>/<namespace>[/<name>]");
        }
        parsed
    };
    let change = LoggingChange {
        audit: Some(raw.audit),
        audit_groups: Some(raw.audit_groups.iter().flatten().filter_map(group).collect()),
        allowed: Some(raw.log_allowed),
        kernel_log: Some(raw.kernel_log),
        kernel_lines_per_second: raw.kernel_lines_per_second,
        denials_per_second: raw.denials_per_second,
        denials_burst: raw.denials_burst,
        allowed_per_second: raw.allowed_per_second,
        allowed_burst: raw.allowed_burst,
        workload_records_per_second: raw.workload_records_per_second,
    };
    let logging = Logging::default().with(&change);
    c.0.extend(logging.errors());
    logging
}

fn parse_service(text: &str) -> Option<(Protocol, u16)> {
    let (protocol, port) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    port.parse().ok().filter(|port| *port != 0).map(|port| (protocol, port))
}

fn check_hostname(name: &str, c: &mut Checker) -> String {
    if name.trim().is_empty() || name.len() > 253 || name.chars().any(char::is_control) {
        c.refuse("hostname", name, "1 to 253 printable characters");
    }
    name.to_owned()
}

fn is_endpoint(url: &str) -> bool {
    let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    authority.and_then(|authority| authority.rsplit_once(':')).is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn check_endpoints(endpoints: Option<Vec<String>>, c: &mut Checker) -> Vec<String> {
    let endpoints = endpoints.unwrap_or_else(|| vec!["http://127.0.0.1:2379".to_owned()]);
    for endpoint in &endpoints {
        if !is_endpoint(endpoint) {
            c.refuse("etcd_endpoints", endpoint, "http://<host>:<port>");
        }
    }
    if endpoints.is_empty() {
        c.0.push("etcd_endpoints: must name at least one".to_owned());
    }
    endpoints
}

fn check_prefix(prefix: Option<&str>, c: &mut Checker) -> String {
    let prefix = prefix.unwrap_or(weft_api::flannel::DEFAULT_PREFIX);
    if !prefix.starts_with('/') || prefix.len() < 2 || prefix.starts_with("/weft/") {
        c.refuse("etcd_prefix", prefix, "an absolute path outside /weft");
    }
    prefix.trim_end_matches('/').to_owned()
}

fn check_network(raw: &Raw, c: &mut Checker) -> Option<String> {
    if raw.network.is_none() && raw.subnet_len.is_some() {
        c.0.push("subnet_len: only together with network: otherwise the configuration in the store has it".to_owned());
    }
    let network: Ipv4Network = c.parse("network", raw.network.as_deref(), "an IPv4 network such as 10.255.0.0/16")?;
    let subnet_len = raw.subnet_len;
    if let Err(error) = weft_model::net::NetworkConfig::new(network, subnet_len, None, None) {
        c.0.push(format!("network: {network}: {error}"));
        return None;
    }
    let mut document = serde_json::json!({"Network": network.to_string(), "Backend": {"Type": "vxlan"}});
    if let Some(len) = subnet_len {
        document["SubnetLen"] = len.into();
    }
    if let Some(vni) = raw.vni {
        document["Backend"]["VNI"] = vni.into();
    }
    if let Some(port) = raw.vxlan_port {
        document["Backend"]["Port"] = port.into();
    }
    Some(document.to_string())
}

fn check_cluster(cluster: Option<&str>, c: &mut Checker) -> String {
    let cluster = cluster.unwrap_or("default");
    if cluster.is_empty() || cluster.contains('/') || cluster.len() > 63 {
        c.refuse("cluster", cluster, "1 to 63 characters without '/'");
    }
    cluster.to_owned()
}

fn check_dns(servers: &[String], c: &mut Checker) -> Vec<Ipv4Addr> {
    servers.iter().filter_map(|server| c.parse("dns_servers", Some(server), "IPv4 addresses")).collect()
}

fn check_reserved(texts: &[String], c: &mut Checker) -> Vec<RangeInclusive<Ipv4Addr>> {
    let mut ranges = Vec::new();
    for text in texts {
        match parse_range(text) {
            Some(range) => ranges.push(range),
            None => c.refuse(
                "reserved_addresses",
                text,
                "an IPv4 address, a range such as 10.255.3.10-10.255.3.20, or a network such as 10.255.3.64/28",
            ),
        }
    }
    ranges
}

fn parse_range(text: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse().ok()?, last.parse().ok()?);
        return (first <= last).then_some(first..=last);
    }
    if text.contains('/') {
        let network: Ipv4Network = text.parse().ok()?;
        return (network.ip() == network.network()).then(|| network.network()..=network.broadcast());
    }
    let address: Ipv4Addr = text.parse().ok()?;
    Some(address..=address)
}
