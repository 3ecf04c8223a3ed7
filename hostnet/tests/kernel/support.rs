//! Private namespaces, hosts in them, and readers that are not ours.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use weft_hostnet::{Executor, Netns, SnapshotScope};
use weft_model::bandwidth::{Bandwidth, Limit};
use weft_model::id::{Attachment, IfName, Slot};
use weft_model::mac::Mac;
use weft_model::net::NetworkConfig;
use weft_model::op::Op;
use weft_model::overlay::{Actual, Desired, Peer, Placement, Workload, desired, plan};
use weft_model::policy::Protocol;
use weft_model::ports::PortMapping;
use weft_model::workload::{Wiring, host_ifname, plan_host, plan_workload};

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Runs a program; its output. Fails with its complaint.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {complaint}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ifname(name: &str) -> IfName {
    name.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

/// A network namespace of this test alone; removed at the end.
pub(crate) struct Space {
    pub(crate) name: String,
}

impl Space {
    pub(crate) fn new() -> Self {
        let name = format!("wht{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(self.path()).unwrap()
    }

    pub(crate) fn executor(&self) -> Executor {
        Executor::in_namespace(&self.netns()).unwrap()
    }

    /// Runs a command line inside: words separated by spaces.
    pub(crate) fn sh(&self, line: &str) -> String {
        let mut arguments = vec!["netns", "exec", self.name.as_str()];
        arguments.extend(line.split_whitespace());
        run("ip", &arguments)
    }

    /// Pings an address until it answers.
    pub(crate) fn ping(&self, address: &str) {
        self.sh(&format!("ping -q -c 1 -w {} {address}", PATIENCE.as_secs()));
    }

    /// Runs a command line inside and reads its JSON; nothing printed is an empty list.
    pub(crate) fn json(&self, line: &str) -> Value {
        let text = self.sh(line);
        if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
    }

    /// The link of that name as `ip -d -j link` shows it.
    pub(crate) fn link(&self, name: &str) -> Value {
        let found = self.json(&format!("ip -d -j link show dev {name}"));
        found[0].clone()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.name]);
    }
}

/// A host: a namespace with an underlay device, and what its network should be.
pub(crate) struct Host {
    pub(crate) space: Space,
    pub(crate) executor: Executor,
    pub(crate) placement: Placement,
    pub(crate) peers: Vec<Peer>,
    pub(crate) workloads: BTreeMap<Attachment, Workload>,
    /// Namespaces of the workloads.
    pub(crate) inside: Vec<Space>,
}

pub(crate) fn network() -> NetworkConfig {
    NetworkConfig::new("10.255.0.0/16".parse().unwrap(), None, None, None).unwrap()
}

/// Odd ones are limited.
fn limits(slot: u16) -> Bandwidth {
    let limit = (slot % 2 == 1).then_some(Limit { rate: 80_000_000, burst: 8_000_000 });
    Bandwidth { ingress: limit, egress: limit }
}

/// The second workload has two ports of the host.
fn ports(slot: u16) -> Vec<PortMapping> {
    let mapping = |protocol, host_ip, host_port, container_port| PortMapping {
        protocol,
        host_ip,
        host_port: NonZeroU16::new(host_port).unwrap(),
        container_port: NonZeroU16::new(container_port).unwrap(),
    };
    if slot != 2 {
        return Vec::new();
    }
    vec![mapping(Protocol::Tcp, None, 8080, 80), mapping(Protocol::Udp, Some(ip("192.0.2.1")), 53, 5353)]
}

pub(crate) fn peer(number: u8) -> Peer {
    let subnet = network().subnet(u32::from(number)).unwrap();
    let public_ip = Ipv4Addr::new(192, 0, 2, number.saturating_add(100));
    Peer { subnet, public_ip, vtep_mac: subnet.vtep_mac(), gbp: true, managed: true }
}

/// A peer behind the underlay's router.
pub(crate) fn peer_far(number: u8) -> Peer {
    Peer { public_ip: Ipv4Addr::new(198, 51, 100, number), ..peer(number) }
}

impl Host {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        // The other end stays here, so that the underlay has a carrier.
        space.sh("ip link add under address 02:00:00:00:0e:01 type veth peer name wire address 02:00:00:00:0e:02");
        space.sh("ip addr add 192.0.2.1/24 dev under");
        space.sh("ip link set under up");
        space.sh("ip link set wire up");
        let mut executor = space.executor();
        let underlay = executor.link(&ifname("under")).unwrap().unwrap();
        let placement = Placement {
            network: network(),
            subnet: network().subnet(0).unwrap(),
            public_ip: ip("192.0.2.1"),
            underlay_index: underlay.index,
            mtu: 1450,
            bridge: ifname("weft0"),
            vxlan: ifname("weft-vx1"),
            vni: 1,
            port: 8472,
            masquerade: true,
            mark_shift: 16,
            host_services: None,
        };
        let peers = vec![peer(10), peer(11), peer(12)];
        Self { space, executor, placement, peers, workloads: BTreeMap::new(), inside: Vec::new() }
    }

    /// Wires a workload as the plugin does, and counts it as committed.
    pub(crate) fn add_workload(&mut self, slot: u16) -> Wiring {
        let inside = Space::new();
        let subnet = self.placement.subnet;
        let wiring = Wiring {
            attachment: Attachment {
                container_id: format!("container-{slot}").parse().unwrap(),
                ifname: ifname("eth0"),
            },
            token: "0123456789abcdef".parse().unwrap(),
            slot: Slot(slot),
            address: subnet.address(u32::from(slot)).unwrap(),
            gateway: subnet.gateway(),
            gateway_mac: subnet.gateway_mac(),
            mtu: self.placement.mtu,
            bridge: None,
            mac: None,
        };
        self.executor.execute(&plan_host(&wiring, "weft"), Some(&inside.netns())).unwrap();
        inside.executor().execute(&plan_workload(&wiring), None).unwrap();
        let (ip, mac, limits) = (wiring.address, wiring.workload_mac(), limits(slot));
        let workload = Workload { ip, mac, ports: ports(slot), limits };
        self.workloads.insert(wiring.attachment.clone(), workload);
        self.inside.push(inside);
        wiring
    }

    pub(crate) fn desired(&self) -> Desired {
        desired(&self.placement, &self.peers, &self.workloads)
    }

    pub(crate) fn snapshot(&mut self) -> Actual {
        let scope = SnapshotScope::of(&self.desired());
        self.executor.snapshot(&scope).unwrap()
    }

    /// What there is to do.
    pub(crate) fn plan(&mut self) -> Vec<Op> {
        let actual = self.snapshot();
        plan(&self.desired(), &actual)
    }

    /// One pass; then nothing may be left to do.
    pub(crate) fn reconcile(&mut self) -> Vec<Op> {
        let ops = self.plan();
        self.executor.execute(&ops, None).unwrap_or_else(|error| panic!("{error}\n{}", text(&ops)));
        let rest = self.plan();
        assert!(rest.is_empty(), "left to do:\n{}after:\n{}", text(&rest), text(&ops));
        ops
    }

    /// Name of a workload's end on the host.
    pub(crate) fn port(&self, slot: u16) -> IfName {
        let container_id = format!("container-{slot}").parse().unwrap();
        host_ifname(&Attachment { container_id, ifname: ifname("eth0") })
    }

    /// The whole network of the host in the words of `ip`, `bridge` and `nft`, a line a fact, without
    /// what is numbered anew when a device is.
    pub(crate) fn portrait(&self) -> String {
        let mut lines = Vec::new();
        for link in self.space.json("ip -d -j link").as_array().unwrap() {
            let port = &link["linkinfo"]["info_slave_data"];
            let facts = ["ifname", "address", "mtu", "master", "ifalias"].map(|key| link[key].to_string());
            let settings = ["isolated", "learning", "flood", "hairpin"].map(|key| port[key].to_string());
            lines.push(format!("{} {}", facts.join(" "), settings.join(" ")));
        }
        for link in self.space.json("ip -4 -j addr").as_array().unwrap() {
            lines.push(format!("{} {}", link["ifname"], link["addr_info"]));
        }
        for command in ["ip -4 route", "ip -4 neigh show nud permanent", "bridge fdb", "nft list ruleset"] {
            let listing = self.space.sh(command);
            // Multicast groups are the kernel's own affair.
            let own = listing.lines().filter(|line| !line.starts_with("33:33:") && !line.starts_with("01:00:5e:"));
            // A device's carrier, too: routes are told of it a moment later.
            lines.extend(own.map(|line| line.replace(" linkdown", "")));
        }
        lines.sort_unstable();
        lines.join("\n")
    }
}

/// Fails with the lines that differ.
pub(crate) fn assert_same(is: &str, should: &str, when: &str) {
    let missing: Vec<&str> = should.lines().filter(|line| !is.contains(line)).collect();
    let surplus: Vec<&str> = is.lines().filter(|line| !should.contains(line)).collect();
    assert!(is == should, "{when}: missing {missing:#?}, surplus {surplus:#?}");
}

pub(crate) fn text(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("  {op}\n")).collect()
}
