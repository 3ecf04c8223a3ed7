//! The agent's configuration: flags over a TOML file over defaults; all errors at once.

mod check;

use check::check;
use clap::Parser;
use serde::Deserialize;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use weft_api::logging::Logging;
use weft_model::compile::Stance;
use weft_model::datapath::{DenyAction, MapSizes};
use weft_model::group::GroupRules;
use weft_model::id::IfName;

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

/// The configuration that a file with this text makes.
#[cfg(test)]
pub(crate) fn of_text(text: &str) -> Config {
    check(toml::from_str(text).unwrap(), "h1").unwrap()
}

#[cfg(test)]
mod tests;
