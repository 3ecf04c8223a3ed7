//! What the number of policies costs a new flow: in our programs, by test runs (BPF_PROG_TEST_RUN) on one data
//! plane with workloads under 10, 1,000, 10,000 and 100,000 policies, in turn; and beside it in a chain of
//! iptables rules as Silk writes them, by connections through a router, in turn with an empty chain.

use super::stats::median_with_bounds;
use super::{Summary, apart};
use crate::lab::Lab;
use crate::probe::{HttpServer, inside};
use crate::shell::{command_in, sh, sh_in};
use crate::underlay::{add_netns, netns};
use anyhow::{Context, Result, anyhow, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use weft_datapath::{Datapath, Probe, Program};
use weft_model::datapath::{Endpoint, Host, MapOp, PeerHost, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Peer, PolicySet, PortRange, Precedence, Rule, Traffic, Transport, Verdict};

const PAIRS: usize = 40;
/// Test runs of a pair.
const RUNS: u32 = 300;
/// Who opens flows.
const PEERS: u32 = 64;
/// Each peer has policies for two ports.
const PORTS: [u16; 2] = [80, 443];
/// Tags that 100,000 policies name.
const TAGS: u32 = 50_000;
/// Policies, and how the figures call their number.
const SIZES: [(u32, &str); 4] = [(10, "10"), (1_000, "1k"), (10_000, "10k"), (100_000, "100k")];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 1);
const SHIFT: u8 = 16;
/// Interface of slot 0 (`weft_datapath` finds the slot by it).
const IFINDEX: u32 = 0x0100_0000;

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    // Its namespaces end with the thread.
    let measured = std::thread::spawn(programs).join().map_err(|_panic| anyhow!("the measuring thread panicked"))?;
    summary.extend(measured?);
    iptables(lab, summary)
}

/// New flows under each number of policies, in turn with the least.
fn programs() -> Result<Summary> {
    let mut summary = Summary::new();
    let datapath = data_plane(&mut summary)?;
    let mut opened: u32 = 0;
    let mut under_ten = Vec::new();
    for (size, name) in SIZES.into_iter().skip(1) {
        let (mut over, mut ratios, mut random) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let mut samples: [Vec<f64>; 4] = Default::default();
            for _ in 0..RUNS {
                opened += 1;
                let anybody = opened.wrapping_mul(2_654_435_761) % TAGS.min(size / 2);
                for (sample, (program, workload, peer)) in samples.iter_mut().zip([
                    (Program::Empty, 10, opened % PEERS),
                    (Program::ToWorkload, 10, opened % PEERS),
                    (Program::ToWorkload, size, opened % PEERS),
                    (Program::ToWorkload, size, anybody),
                ]) {
                    sample.push(new_flow(&datapath, program, workload, peer, opened)?);
                }
            }
            let [empty, least, many, at_random] = samples.map(|samples| median_with_bounds(&samples).0);
            under_ten.push(least - empty);
            over.push(many - empty);
            ratios.push((many - empty) / (least - empty));
            random.push((at_random - empty) / (least - empty));
        }
        put(&mut summary, &format!("policy_new_flow_ns_{name}"), &over);
        put(&mut summary, &format!("policy_scale_ratio_{name}"), &ratios);
        put(&mut summary, &format!("policy_scale_ratio_{name}_random"), &random);
    }
    put(&mut summary, "policy_new_flow_ns_10", &under_ten);
    Ok(summary)
}

/// The median and its bounds.
fn put(summary: &mut Summary, name: &str, samples: &[f64]) {
    let (median, low, high) = median_with_bounds(samples);
    summary.extend([(name.to_owned(), median), (format!("{name}_low"), low), (format!("{name}_high"), high)]);
}

/// A workload for each of [`SIZES`], in namespaces of the thread's own.
fn data_plane(summary: &mut Summary) -> Result<Datapath> {
    let folder = apart::isolate()?;
    let mut datapath = Datapath::open(&folder, &host()?)?;
    let peer = PeerHost {
        underlay: Ipv4Addr::new(192, 0, 2, 2),
        vtep: Ipv4Addr::new(10, 255, 2, 0),
        gbp: true,
        unmanaged: false,
    };
    datapath.apply(&[MapOp::PutPeer("10.255.2.0/24".parse()?, peer)])?;
    for (number, (size, name)) in (1..).zip(SIZES) {
        let slot = slot(size);
        sh(&format!("ip link add w{number} index {} type veth peer name c{number}", IFINDEX + u32::from(slot.0)))?;
        let set = policies(size)?;
        let started = Instant::now();
        datapath.apply(&[MapOp::PutSet(SetId(number), set)])?;
        summary.insert(format!("policy_set_write_ms_{name}"), started.elapsed().as_secs_f64() * 1e3);
        datapath.apply(&[MapOp::PutEndpoint(endpoint(slot, SetId(number)))])?;
    }
    Ok(datapath)
}

fn slot(size: u32) -> Slot {
    Slot(match size {
        10 => 10,
        1_000 => 11,
        10_000 => 12,
        _ => 13,
    })
}

fn address(slot: Slot) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(GATEWAY) - 1 + u32::from(slot.0))
}

fn endpoint(slot: Slot, set: SetId) -> Endpoint {
    apart::endpoint(slot, address(slot), Tag::new(u16::MAX), set)
}

/// So many allow policies, of as few peers as have two ports each. Where there are fewer than peers, the last
/// two let everybody in: the peers' own tags are looked for all the same.
fn policies(size: u32) -> Result<PolicySet> {
    let rule = |number: u32| -> Result<Rule> {
        let port = PORTS[usize::from(number % 2 == 1)];
        let everybody = size < 2 * PEERS && number + 2 >= size;
        Ok(Rule {
            direction: Direction::Ingress,
            peer: if everybody { Peer::Any } else { Peer::Tag(tag(number / 2)?) },
            traffic: Traffic::Ports(Transport::Tcp, PortRange::new(port, port).context("a port")?),
            precedence: Precedence::policy(1),
            verdict: Verdict::Allow,
            id: number + 1,
        })
    };
    let rules = (0..size).map(rule).collect::<Result<_>>()?;
    Ok(PolicySet { isolated: true, hosts_may_reach: false, host_listed_only: false, rules })
}

fn tag(peer: u32) -> Result<Tag> {
    u16::try_from(peer + 1).ok().and_then(Tag::new).with_context(|| format!("no tag for peer {peer}"))
}

/// Nanoseconds of a run with the first packet of a connection that policy allows.
fn new_flow(datapath: &Datapath, program: Program, size: u32, peer: u32, opened: u32) -> Result<f64> {
    let slot = slot(size);
    let tag = tag(peer)?;
    let [.., third, last] = (peer % PEERS + 2).to_be_bytes();
    let from = (Ipv4Addr::new(10, 255, 2 + third, last), u16::try_from(1024 + opened % 60_000).unwrap_or(1));
    let frame = syn(slot, from, PORTS[usize::from(opened % 2 == 1)]);
    let probe = Probe {
        frame: &frame,
        mark: u32::from(tag.get()) << SHIFT,
        ifindex: IFINDEX + u32::from(slot.0),
        ingress_ifindex: 1,
        gso_size: 0,
        repeat: 1,
    };
    let outcome = datapath.probe(program, &probe)?;
    ensure!(outcome.verdict == -1, "{} refused tag {tag} under {size} policies", program.name());
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one packet")]
    Ok(outcome.duration.as_nanos() as f64)
}

/// The programs look at headers, not at checksums.
fn syn(slot: Slot, from: (Ipv4Addr, u16), port: u16) -> Vec<u8> {
    let own = address(slot);
    let mut frame = [&Mac::for_workload(own).0[..], &Mac::for_host(GATEWAY).0, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(from.0.octets());
    frame.extend(own.octets());
    frame.extend(from.1.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x10, 0, 0, 0, 0, 0]);
    frame
}

fn host() -> Result<Host> {
    Ok(Host {
        overlay: "10.255.0.0/16".parse()?,
        gateway: GATEWAY,
        vtep: Ipv4Addr::new(10, 255, 1, 0),
        vni: 1,
        vxlan_port: 8472,
        mark_shift: SHIFT,
        link_local: false,
        denials_per_second: 1,
        denials_burst: 5,
        allowed: None,
        fast_path: true,
    })
}

/// Connections of a pair through each chain.
const CONNECTIONS: usize = 10;
const CHAINS: [(u32, &str); 4] = [(0, "none"), (10, "10"), (1_000, "1k"), (10_000, "10k")];
const SERVER_PORT: u16 = 8080;

/// Microseconds that a chain adds to a connection, whose SYN is let through by the rule in its middle.
fn iptables(lab: &Lab, summary: &mut Summary) -> Result<()> {
    let [client, router, server] =
        ["silk-client", "silk-router", "silk-server"].map(|name| (name, netns(&lab.name, name)));
    for (name, _) in [&client, &router, &server] {
        add_netns(&lab.name, name)?;
    }
    let (client, router, server) = (client.1, router.1, server.1);
    plug(&router, &client, "client0", "198.18.0")?;
    plug(&router, &server, "server0", "198.18.1")?;
    sh_in(&router, "sysctl -qw net.ipv4.ip_forward=1")?;
    for number in 1..CHAINS.len() {
        sh_in(&server, &format!("ip addr add 198.18.1.{}/32 dev eth0", 10 + number))?;
    }
    sh_in(&server, "ip addr add 198.18.1.10/32 dev eth0")?;
    restore(&router, &rules()?)?;
    let _server = HttpServer::start(&server, SERVER_PORT)?;
    let samples = inside(&client, connections)??;
    for ((_, name), over) in CHAINS.iter().zip(samples).skip(1) {
        put(summary, &format!("iptables_new_flow_us_{name}"), &over);
    }
    Ok(())
}

/// A cable from the router (`.1`) to another namespace (`.2`).
fn plug(router: &Path, other: &Path, end: &str, network: &str) -> Result<()> {
    let name = other.file_name().and_then(|name| name.to_str()).context("a namespace's name")?;
    sh_in(router, &format!("ip link add {end} type veth peer name eth0 netns {name}"))?;
    sh_in(router, &format!("ip addr add {network}.1/24 dev {end}"))?;
    sh_in(router, &format!("ip link set {end} up"))?;
    for line in [
        format!("ip addr add {network}.2/24 dev eth0"),
        "ip link set lo up".to_owned(),
        "ip link set eth0 up".to_owned(),
        format!("ip route add default via {network}.1"),
    ] {
        sh_in(other, &line)?;
    }
    Ok(())
}

/// A chain for each destination; the sender's mark stands in for the tag that came with VXLAN. All but one rule
/// are for other destinations, as on a cell, and the one that allows stands in the middle.
fn rules() -> Result<String> {
    const MARK: u32 = 0xfffe;
    let mut text = format!(
        "*mangle\n-A PREROUTING -i client0 -j MARK --set-xmark {MARK:#x}/0xffffffff\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n"
    );
    for (size, _) in CHAINS {
        writeln!(text, ":vpa--{size} - [0:0]")?;
    }
    for (number, (size, _)) in (10..).zip(CHAINS) {
        let own = format!("198.18.1.{number}");
        writeln!(text, "-A FORWARD -d {own} -j vpa--{size}")?;
        for rule in 0..size {
            let (to, mark) = if rule == size / 2 {
                (own.clone(), MARK)
            } else {
                (format!("198.19.{}.{}", rule / 200 % 200, rule % 200), rule % 5_000 + 1)
            };
            let policy = format!("src:{:08x}-a_dst:{:08x}-b", mark, rule);
            writeln!(
                text,
                "-A vpa--{size} -d {to} -p tcp -m tcp --dport {SERVER_PORT} -m mark --mark {mark:#x} -j ACCEPT -m comment --comment {policy}"
            )?;
        }
    }
    text.push_str("-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n");
    Ok(text)
}

fn restore(router: &Path, rules: &str) -> Result<()> {
    let mut child = command_in(router, Path::new("iptables-restore")).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "iptables-restore refused the rules");
    Ok(())
}

/// Of each chain, in turn: how much longer connections take than through the empty one, microseconds.
fn connections() -> Result<Vec<Vec<f64>>> {
    let mut over = vec![Vec::new(); CHAINS.len()];
    for pair in 0..=PAIRS {
        let mut took = Vec::new();
        for number in (10..).take(CHAINS.len()) {
            let to = SocketAddr::from((Ipv4Addr::new(198, 18, 1, number), SERVER_PORT));
            let samples: Vec<f64> = (0..CONNECTIONS).map(|_| connect(to)).collect::<Result<_>>()?;
            took.push(median_with_bounds(&samples).0);
        }
        // The first warms caches and neighbours.
        if pair > 0 {
            over.iter_mut().zip(&took).for_each(|(over, took_here)| over.push(took_here - took[0]));
        }
    }
    Ok(over)
}

fn connect(to: SocketAddr) -> Result<f64> {
    let started = Instant::now();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).with_context(|| format!("through to {to}"))?;
    let took = started.elapsed();
    drop(stream);
    Ok(took.as_secs_f64() * 1e6)
}
