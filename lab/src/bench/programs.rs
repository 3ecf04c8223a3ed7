//! What a packet costs in each program, by test runs on made-up packets (BPF_PROG_TEST_RUN): over an
//! empty program, in turn with it. With one flow, and with 100,000 live ones: a flow's packets on end, as
//! a transfer sends them, and (`uncached`) one packet of each flow in no order, code and data gone cold
//! between two packets, which is the processor's caches at their worst.

use super::Summary;
use super::frame::{ACK, SYN, tcp, vxlan};
use super::stats::median_with_bounds;
use crate::shell::sh;
use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use weft_datapath::{Datapath, Probe, Program};
use weft_model::compile::{Policies, Stance, policy_set};
use weft_model::datapath::{DenyAction, Endpoint, Host, Limited, MapOp, PeerHost, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::{Isolation, Policy, PortRange, Protocol};

const PAIRS: usize = 40;
/// Runs of a program between two looks at the empty one, one flow.
const HOT: u32 = 50_000;
/// The same, many flows: each run is timed by itself.
const COLD: usize = 500;
const FLOWS: u32 = 100_000;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 5);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 1);
const UNDERLAY: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1));
const SLOT: Slot = Slot(5);
const PEER_TAG: u16 = 7;
const SHIFT: u8 = 16;
const PORT: u16 = 8472;
/// The slot's interface ([`weft_datapath`] finds the slot by it).
const IFINDEX: u32 = 0x0100_0005;

const PROGRAMS: [Program; 5] =
    [Program::FromWorkload, Program::ToWorkload, Program::ToOverlay, Program::FromOverlay, Program::FromUnderlay];

pub(super) fn measure(summary: &mut Summary) -> Result<()> {
    // Its namespaces end with the thread.
    let measured = std::thread::spawn(|| -> Result<Summary> {
        let folder = isolate()?;
        let bench = Bench::new(&folder)?;
        let mut summary = Summary::new();
        bench.one_flow(&mut summary)?;
        bench.new_flows(&mut summary)?;
        bench.many_flows(&mut summary)?;
        Ok(summary)
    });
    summary.extend(measured.join().map_err(|_panic| anyhow!("the measuring thread panicked"))??);
    Ok(())
}

/// Moves the thread into namespaces of its own, with a bpffs.
fn isolate() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("root and namespaces are needed")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let folder = std::env::temp_dir();
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), none)?;
    sh("ip link set lo up")?;
    sh(&format!("ip link add w5 index {IFINDEX} type veth peer name c5"))?;
    Ok(folder)
}

/// A data plane with one workload that a remote group may reach.
struct Bench(Datapath);

impl Bench {
    fn new(folder: &Path) -> Result<Self> {
        let mut datapath = Datapath::open(folder, &host()?)?;
        let (from, to) = ("peer".parse()?, "own".parse()?);
        let tag = |number| Tag::new(number).context("a tag");
        let ports = PortRange::new(80, 80).context("a port")?;
        let policy = Policy { source: from, destination: to, protocol: Protocol::Tcp, ports };
        let tags = [(policy.source.clone(), tag(PEER_TAG)?), (policy.destination.clone(), tag(8)?)].into();
        let stance = Stance { isolation: Isolation::Always, hosts_may_reach: false, host_services: None };
        let set = policy_set(Some(&policy.destination), &stance, &Policies::new([&policy], tags));
        let endpoint = Endpoint {
            slot: SLOT,
            ip: OWN,
            mac: Mac::for_workload(OWN),
            tag: Tag::new(8),
            set: SetId(1),
            isolated: true,
            hosts_may_reach: false,
            host_listed_only: false,
            deny: DenyAction::Drop,
            audit: false,
            limited: Limited::default(),
        };
        let peer = PeerHost { underlay: UNDERLAY.0, vtep: Ipv4Addr::new(10, 255, 2, 0), gbp: true, unmanaged: false };
        datapath.apply(&[
            MapOp::PutPeer("10.255.2.0/24".parse()?, peer),
            MapOp::PutSet(SetId(1), set),
            MapOp::PutEndpoint(endpoint),
        ])?;
        Ok(Self(datapath))
    }

    /// Nanoseconds of a run.
    fn run(&self, program: Program, frame: &[u8], repeat: u32) -> Result<f64> {
        let (mark, ifindex) = match program {
            Program::ToWorkload => (u32::from(PEER_TAG) << SHIFT, IFINDEX),
            Program::FromWorkload => (0, IFINDEX),
            Program::ToOverlay => (8 << SHIFT, 0),
            Program::FromOverlay => (u32::from(PEER_TAG), 0),
            Program::FromUnderlay | Program::Empty => (0, 0),
        };
        let probe = Probe { frame, mark, ifindex, ingress_ifindex: 1, gso_size: 0, repeat };
        let outcome = self.0.probe(program, &probe)?;
        anyhow::ensure!(outcome.verdict == -1, "{} did not pass the packet", program.name());
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one packet")]
        Ok(outcome.duration.as_nanos() as f64)
    }

    fn establish(&self, number: u32) -> Result<()> {
        self.run(Program::ToWorkload, &arriving(number, SYN), 1)?;
        self.run(Program::FromWorkload, &leaving(number, SYN | ACK), 1)?;
        Ok(())
    }

    /// One flow's packets on end; `number` names the flow of each round.
    fn repeatedly(&self, name: &str, mut number: impl FnMut() -> u32, summary: &mut Summary) -> Result<()> {
        let mut worst: f64 = 0.0;
        for program in PROGRAMS {
            let mut over = Vec::new();
            for _ in 0..PAIRS {
                let frame = established(program, number());
                over.push(self.run(program, &frame, HOT)? - self.run(Program::Empty, &frame, HOT)?);
            }
            worst = worst.max(put(summary, &format!("{name}_{}", program.name()), &over));
        }
        summary.insert(name.to_owned(), worst);
        Ok(())
    }

    fn one_flow(&self, summary: &mut Summary) -> Result<()> {
        self.establish(0)?;
        self.repeatedly("established_packet_ns_over_empty", || 0, summary)
    }

    /// First packets of connections that policy allows, each from another port.
    fn new_flows(&self, summary: &mut Summary) -> Result<()> {
        let mut number = FLOWS;
        let frame = |program| {
            number += 1;
            match program {
                Program::FromWorkload => leaving(number, SYN),
                _ => arriving(number, SYN),
            }
        };
        self.singly("new_flow_ns_over_empty", &[Program::FromWorkload, Program::ToWorkload], frame, summary)
    }

    fn many_flows(&self, summary: &mut Summary) -> Result<()> {
        for number in 0..FLOWS {
            self.establish(number)?;
        }
        let mut order = 1_u32;
        let mut next = || {
            // Full period: every flow comes once before any comes again.
            order = (order.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)) & 0x1_ffff;
            order % FLOWS
        };
        self.repeatedly("established_packet_ns_over_empty_100k", &mut next, summary)?;
        let frame = |program| established(program, next());
        self.singly("established_packet_ns_over_empty_100k_uncached", &PROGRAMS, frame, summary)
    }

    /// Packets that are each another one, timed one by one, in turn with the empty program.
    fn singly(
        &self,
        name: &str,
        programs: &[Program],
        mut frame: impl FnMut(Program) -> Vec<u8>,
        summary: &mut Summary,
    ) -> Result<()> {
        let mut worst: f64 = 0.0;
        for program in programs {
            let mut over = Vec::new();
            for _ in 0..PAIRS {
                let (mut ours, mut empty) = (Vec::new(), Vec::new());
                for _ in 0..COLD {
                    let frame = frame(*program);
                    empty.push(self.run(Program::Empty, &frame, 1)?);
                    ours.push(self.run(*program, &frame, 1)?);
                }
                over.push(median_with_bounds(&ours).0 - median_with_bounds(&empty).0);
            }
            worst = worst.max(put(summary, &format!("{name}_{}", program.name()), &over));
        }
        summary.insert(name.to_owned(), worst);
        Ok(())
    }
}

/// The median with its bounds; the median.
fn put(summary: &mut Summary, name: &str, samples: &[f64]) -> f64 {
    let (median, low, high) = median_with_bounds(samples);
    summary.insert(name.to_owned(), median);
    summary.insert(format!("{name}_low"), low);
    summary.insert(format!("{name}_high"), high);
    median
}

fn host() -> Result<Host> {
    Ok(Host {
        overlay: "10.255.0.0/16".parse()?,
        gateway: GATEWAY,
        vtep: Ipv4Addr::new(10, 255, 1, 0),
        vni: 1,
        vxlan_port: PORT,
        mark_shift: SHIFT,
        link_local: false,
        denials_per_second: 1,
        denials_burst: 5,
        allowed: None,
        fast_path: true,
    })
}

/// The other side of a flow: address and port.
fn remote(number: u32) -> (Ipv4Addr, u16) {
    let [_, _, _, host] = (number % 200 + 2).to_be_bytes();
    (Ipv4Addr::new(10, 255, 2, host), u16::try_from(1024 + number / 200 % 64_000).unwrap_or(1))
}

/// A packet towards the workload.
fn arriving(number: u32, flags: u8) -> Vec<u8> {
    let (from, port) = remote(number);
    tcp(Mac::for_host(GATEWAY), Mac::for_workload(OWN), (from, port), (OWN, 80), flags)
}

/// A packet of the workload.
fn leaving(number: u32, flags: u8) -> Vec<u8> {
    let (to, port) = remote(number);
    let own = if flags == SYN { 40_000 } else { 80 };
    tcp(Mac::for_workload(OWN), Mac::for_host(GATEWAY), (OWN, own), (to, port), flags)
}

/// A packet of an established flow, as the program sees it.
fn established(program: Program, number: u32) -> Vec<u8> {
    match program {
        Program::FromWorkload | Program::ToOverlay => leaving(number, ACK),
        Program::FromUnderlay => vxlan(UNDERLAY, PORT, 1, &arriving(number, ACK)),
        _ => arriving(number, ACK),
    }
}
