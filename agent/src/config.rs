//! The agent's configuration: flags over a TOML file over defaults; all errors at once.

use clap::Parser;
use ipnetwork::Ipv4Network;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use weft_api::logging::{Logging, LoggingChange};
use weft_model::compile::Stance;
use weft_model::datapath::{DenyAction, MapSizes};
use weft_model::group::{GroupRules, HostKind};
use weft_model::id::{GroupId, IfName};
use weft_model::policy::{Isolation, Protocol};

/// What an operator may write, on the command line or in the file (same names, with `_`).
#[derive(Parser, Deserialize, Debug, Clone, Default)]
#[command(name = "weftd", version, about = "The agent of one host of a weft network")]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// TOML file with any of the options below
    #[arg(long, env = "WEFTD_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print what would be changed on this host, and change nothing
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    /// What this host runs: kubernetes or cell
    #[arg(long, env = "WEFTD_KIND")]
    pub kind: Option<String>,
    /// This host's name among people [default: the system's host name]
    #[arg(long)]
    pub hostname: Option<String>,
    /// Address other hosts reach this one by [default: the first of the underlay interface]
    #[arg(long)]
    pub public_ip: Option<String>,
    /// Interface to the other hosts [default: the one that has public_ip, else the default route's]
    #[arg(long)]
    pub interface: Option<String>,
    /// etcd's client URLs, comma separated [default: http://127.0.0.1:2379]
    #[arg(long, env = "WEFTD_ETCD_ENDPOINTS", value_delimiter = ',')]
    pub etcd_endpoints: Option<Vec<String>>,
    /// Prefix of the lease keys, as flannel's --etcd-prefix [default: /coreos.com/network]
    #[arg(long)]
    pub etcd_prefix: Option<String>,
    /// The overlay's network, written to the store if no configuration stands there yet
    #[arg(long)]
    pub network: Option<String>,
    /// Prefix length of a host's subnet in a configuration written by us, 20 to 30 [default: 24]
    #[arg(long)]
    pub subnet_len: Option<u8>,
    /// VXLAN network identifier [default: the network configuration's, else 1]
    #[arg(long)]
    pub vni: Option<u32>,
    /// UDP port of VXLAN [default: the network configuration's, else 8472]
    #[arg(long)]
    pub vxlan_port: Option<u16>,
    /// Name of the VXLAN device [default: weft-vx<vni>]
    #[arg(long)]
    pub vxlan_name: Option<String>,
    /// Name of the bridge [default: weft0]
    #[arg(long)]
    pub bridge: Option<String>,
    /// MTU of the overlay in bytes [default: the underlay's minus 50]
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Do not masquerade what workloads send out of the overlay
    #[arg(long)]
    pub no_masquerade: bool,
    /// How far tags are shifted in the skb mark, 0 to 16 [default: 16]
    #[arg(long)]
    pub mark_shift: Option<u8>,
    /// Whom workloads protect themselves against: always, selected or never [default: cell always, kubernetes selected]
    #[arg(long)]
    pub isolation: Option<String>,
    /// What denied packets get: reject or drop [default: cell reject, kubernetes drop]
    #[arg(long)]
    pub deny: Option<String>,
    /// Let denied packets pass and only log them
    #[arg(long)]
    pub audit: bool,
    /// The same for workloads of these groups only, comma separated
    #[arg(long, value_delimiter = ',')]
    pub audit_groups: Option<Vec<String>>,
    /// Whether other hosts' own addresses may reach every workload [default: cell false, kubernetes true]
    #[arg(long)]
    pub hosts_may_reach: Option<bool>,
    /// Ports of this host its workloads may open, such as udp:53,tcp:8080; only for cells [default: none]
    #[arg(long, value_delimiter = ',')]
    pub host_services: Option<Vec<String>>,
    /// Let workloads reach 169.254.0.0/16 beyond this host (cloud metadata services)
    #[arg(long)]
    pub allow_link_local: bool,
    /// Name of the Kubernetes cluster, part of its pods' groups [default: default]
    #[arg(long)]
    pub cluster: Option<String>,
    /// Namespaces whose pods may name an app GUID as their group, comma separated
    #[arg(long, value_delimiter = ',')]
    pub bare_group_namespaces: Option<Vec<String>>,
    /// DNS servers for CNI results, comma separated
    #[arg(long, value_delimiter = ',')]
    pub dns_servers: Option<Vec<String>>,
    /// Seconds before a released address is given again [default: 30]
    #[arg(long)]
    pub address_cool_down: Option<u64>,
    /// Addresses no workload gets: single ones, ranges such as 10.255.3.10-10.255.3.20, networks; comma separated
    #[arg(long, value_delimiter = ',')]
    pub reserved_addresses: Option<Vec<String>>,
    /// Folder of socket, lock and journal, on a file system that a reboot empties [default: /run/weft]
    #[arg(long, env = "WEFTD_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// Folder of what outlives a reboot [default: /var/lib/weft]
    #[arg(long, env = "WEFTD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder on a bpffs for maps and links [default: /sys/fs/bpf/weft]
    #[arg(long, env = "WEFTD_BPF_DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// Attach programs to VXLAN device and underlay by clsact even where the kernel has TCX
    #[arg(long)]
    pub no_tcx: bool,
    /// Whether answered flows between workloads go past the host's network stack: on or off [default: on]
    #[arg(long)]
    pub fast_path: Option<String>,
    /// File for denial records, a JSON line each [default: <run_dir>/denials.log]
    #[arg(long)]
    pub denial_log: Option<PathBuf>,
    /// Write DENY_C2C_… lines to the kernel log
    #[arg(long)]
    pub kernel_log: bool,
    /// Such lines a second [default: 10]
    #[arg(long)]
    pub kernel_lines_per_second: Option<u32>,
    /// Denial records a second for one pair of addresses, 0: no limit [default: 1]
    #[arg(long)]
    pub denials_per_second: Option<u32>,
    /// Denial records such a pair may have at once [default: 5]
    #[arg(long)]
    pub denials_burst: Option<u32>,
    /// Log allowed connections too, by their first packet
    #[arg(long)]
    pub log_allowed: bool,
    /// Records of allowed connections a second for one pair of addresses, 0: no limit [default: 100]
    #[arg(long)]
    pub allowed_per_second: Option<u32>,
    /// Records of allowed connections such a pair may have at once [default: 100]
    #[arg(long)]
    pub allowed_burst: Option<u32>,
    /// Records of any kind a second of one workload, 0: no limit [default: 50]
    #[arg(long)]
    pub workload_records_per_second: Option<u32>,
    /// Address and port to serve Prometheus' metrics on, such as 127.0.0.1:9469 [default: only on the socket]
    #[arg(long)]
    pub metrics_listen: Option<String>,
    /// Answered TCP connections the programs remember, 1024 to 16777216 [default: 131072]
    #[arg(long)]
    pub max_connections: Option<u32>,
    /// Other flows they remember, and as many beyond their workload's share, 1024 to 16777216 [default: 65536]
    #[arg(long)]
    pub max_unanswered: Option<u32>,
    /// Entries of policies, 1024 to 16777216 [default: 262144]
    #[arg(long)]
    pub max_policy_entries: Option<u32>,
    /// KiB for records of denials that are not read yet: a power of two from 64 to 262144 [default: 4096]
    #[arg(long)]
    pub record_buffer_kib: Option<u32>,
    /// Log as JSON
    #[arg(long)]
    pub log_json: bool,
}

/// A configuration that holds together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name among people.
    pub hostname: String,
    /// Address to advertise; `None`: the underlay interface's first.
    pub public_ip: Option<Ipv4Addr>,
    /// Underlay interface; `None`: found by address or default route.
    pub interface: Option<IfName>,
    /// etcd's client URLs.
    pub etcd_endpoints: Vec<String>,
    /// Prefix of the lease keys.
    pub etcd_prefix: String,
    /// flannel's config document, if this host should write it where none stands.
    pub initial_network: Option<String>,
    /// VXLAN network identifier, if set by hand.
    pub vni: Option<u32>,
    /// UDP port, if set by hand.
    pub vxlan_port: Option<u16>,
    /// VXLAN device name, if set by hand.
    pub vxlan_name: Option<IfName>,
    /// Bridge name.
    pub bridge: IfName,
    /// Overlay MTU, if set by hand.
    pub mtu: Option<u32>,
    /// Masquerade what leaves the overlay.
    pub masquerade: bool,
    /// Shift of tags in the mark.
    pub mark_shift: u8,
    /// Whom workloads protect themselves against, and what hosts may do.
    pub stance: Stance,
    /// What denied packets get.
    pub deny: DenyAction,
    /// Link-local destinations are open.
    pub link_local: bool,
    /// How groups are made.
    pub groups: GroupRules,
    /// DNS servers for results.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Seconds before an address is given again.
    pub cool_down: u64,
    /// Addresses no workload gets.
    pub reserved: Vec<RangeInclusive<Ipv4Addr>>,
    /// Folders.
    pub run_dir: PathBuf,
    /// What outlives a reboot.
    pub state_dir: PathBuf,
    /// Pins.
    pub bpf_dir: PathBuf,
    /// Whether TCX is used where the kernel has it.
    pub tcx: bool,
    /// Whether flows between workloads go past the host's stack.
    pub fast_path: bool,
    /// Denial records.
    pub denial_log: PathBuf,
    /// What is logged, and what only is.
    pub logging: Logging,
    /// How large the programs' maps are.
    pub map_sizes: MapSizes,
    /// Where metrics are served besides the socket.
    pub metrics_listen: Option<SocketAddr>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} error(s) in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads the file named on the command line and lays the flags over it.
///
/// # Errors
/// All of them, one a line, each with field, value and what is allowed.
pub fn load(flags: Raw, system_hostname: &str) -> Result<Config, ConfigErrors> {
    let file = match &flags.config {
        Some(path) => read_file(path).map_err(|error| ConfigErrors(vec![error]))?,
        None => Raw::default(),
    };
    check(overlay(flags, file), system_hostname)
}

fn read_file(path: &Path) -> Result<Raw, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("config {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("config {}: {}", path.display(), error.to_string().trim_end()))
}

/// Flags win; switches are on if either says so.
fn overlay(flags: Raw, file: Raw) -> Raw {
    macro_rules! first {
        ($($field:ident),*; $($switch:ident),*) => {
            Raw {
                config: flags.config,
                dry_run: flags.dry_run,
                $($field: flags.$field.or(file.$field),)*
                $($switch: flags.$switch || file.$switch,)*
            }
        };
    }
    first!(
        kind, hostname, public_ip, interface, etcd_endpoints, etcd_prefix, network, subnet_len, vni, vxlan_port,
        vxlan_name, bridge, mtu, mark_shift, isolation, deny, hosts_may_reach, host_services, cluster,
        bare_group_namespaces, dns_servers, address_cool_down, reserved_addresses, run_dir, state_dir, bpf_dir, denial_log,
        fast_path,
        audit_groups, kernel_lines_per_second, denials_per_second, denials_burst, allowed_per_second, allowed_burst,
        workload_records_per_second, metrics_listen, max_connections, max_unanswered, max_policy_entries,
        record_buffer_kib;
        no_masquerade, audit, allow_link_local, no_tcx, kernel_log, log_allowed, log_json
    )
}

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

fn check(raw: Raw, system_hostname: &str) -> Result<Config, ConfigErrors> {
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

/// The configuration that a file with this text makes.
#[cfg(test)]
pub(crate) fn of_text(text: &str) -> Config {
    check(toml::from_str(text).unwrap(), "h1").unwrap()
}

#[cfg(test)]
mod tests;
