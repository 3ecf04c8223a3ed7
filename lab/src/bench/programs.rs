//! What a packet costs in each program, by test runs on made-up packets (BPF_PROG_TEST_RUN): over an empty program,
//! in turn with it, while 100,000 connections are live, as many a workload as its share holds. They go through the
//! host's stack.
//!
//! `established_packet…`: a connection's packets on end, as a transfer sends them: always the same one's, or another
//! one's each round (`_100k`); `_uncached`: one packet of each connection in no order, code and data gone cold between
//! two packets, which is the processor's caches at their worst. `new_flow…`: first packets, likewise one by one.
//!
//! All of it takes turns, round by round: a slow moment of the machine is everybody's. And programs are loaded anew
//! some times: where the kernel puts them is chance, and worth ten nanoseconds.

use super::frame::{ACK, SYN, tcp, vxlan};
use super::stats::median_with_bounds;
use super::{Summary, apart};
use crate::shell::sh;
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use weft_datapath::{Datapath, Probe, Program};
use weft_model::compile::{Policies, Stance, policy_set};
use weft_model::datapath::{Endpoint, Host, MapOp, PeerHost, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::{Isolation, Policy, PortRange, Protocol};

const LOADS: usize = 6;
const ROUNDS_A_LOAD: usize = 12;
/// Runs of a program between two looks at the empty one: shorter than what a busy machine gives a process at a time.
const ON_END: u32 = 10_000;
/// The same, where each run is timed by itself.
const SINGLE: usize = 250;

/// Live connections.
const FLOWS: u32 = 100_000;
/// Their workloads: each has as many as its share of the table holds (384).
const WORKLOADS: u16 = 262;
const FIRST_SLOT: u16 = 5;
/// Of slot 0's interface ([`weft_datapath`] finds the slot by it).
const IFINDEX: u32 = 0x0100_0000;

const VTEP: Ipv4Addr = Ipv4Addr::new(10, 255, 16, 0);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 16, 1);
const UNDERLAY: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1));
const PEER_TAG: u16 = 7;
const SHIFT: u8 = 16;
const PORT: u16 = 8472;

const PROGRAMS: [Program; 5] =
    [Program::FromWorkload, Program::ToWorkload, Program::ToOverlay, Program::FromOverlay, Program::FromUnderlay];

pub(super) fn measure(summary: &mut Summary) -> Result<()> {
    // Its namespaces end with the thread.
    let measured = std::thread::spawn(|| -> Result<Summary> {
        let folder = isolate()?;
        let mut bench = Bench::new(&folder)?;
        let (mut flows, mut samples) = (Flows { order: 1, begun: FLOWS }, Samples::new());
        for number in 0..FLOWS {
            bench.establish(number)?;
        }
        for _ in 0..LOADS {
            bench.load_again(&folder)?;
            for _ in 0..ROUNDS_A_LOAD {
                bench.round(&mut flows, &mut samples)?;
            }
        }
        Ok(summarize(&samples))
    });
    summary.extend(measured.join().map_err(|_panic| anyhow!("the measuring thread panicked"))??);
    Ok(())
}

/// Namespaces and a bpffs, with the workloads' interfaces.
fn isolate() -> Result<PathBuf> {
    let folder = apart::isolate()?;
    // Both ends of a veth are a slot's: nothing goes through them.
    for slot in (FIRST_SLOT..FIRST_SLOT + WORKLOADS).step_by(2) {
        let end = |slot: u16| format!("w{slot} index {}", IFINDEX + u32::from(slot));
        sh(&format!("ip link add {} type veth peer name {}", end(slot), end(slot + 1)))?;
    }
    Ok(folder)
}

/// Nanoseconds over the empty program, by what was measured and by program.
type Samples = BTreeMap<&'static str, BTreeMap<Program, Vec<f64>>>;

/// Which connection comes next, by number.
struct Flows {
    order: u32,
    begun: u32,
}

impl Flows {
    /// A live one.
    fn live(&mut self) -> u32 {
        // Full period: every one comes once before any comes again.
        self.order = (self.order.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)) & 0x1_ffff;
        self.order % FLOWS
    }

    /// One that never was.
    fn another(&mut self) -> u32 {
        self.begun += 1;
        self.begun
    }
}

/// A data plane with workloads that a remote group may reach.
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
        let peer = PeerHost { underlay: UNDERLAY.0, vtep: Ipv4Addr::new(10, 255, 2, 0), gbp: true, unmanaged: false };
        let mut ops = vec![MapOp::PutPeer("10.255.2.0/24".parse()?, peer), MapOp::PutSet(SetId(1), set)];
        ops.extend((0..u32::from(WORKLOADS)).map(|number| MapOp::PutEndpoint(endpoint(number))));
        datapath.apply(&ops)?;
        Ok(Self(datapath))
    }

    /// The same maps under programs that are loaded anew.
    fn load_again(&mut self, folder: &Path) -> Result<()> {
        self.0 = Datapath::open(folder, &host()?)?;
        Ok(())
    }

    /// Nanoseconds of a run on a packet of the connection.
    fn run(&self, program: Program, number: u32, frame: &[u8], repeat: u32) -> Result<f64> {
        let ifindex = IFINDEX + u32::from(slot(number).0);
        let (mark, ifindex) = match program {
            Program::ToWorkload => (u32::from(PEER_TAG) << SHIFT, ifindex),
            Program::FromWorkload => (0, ifindex),
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
        self.run(Program::ToWorkload, number, &arriving(number, SYN), 1)?;
        self.run(Program::FromWorkload, number, &leaving(number, SYN | ACK), 1)?;
        Ok(())
    }

    /// Everything once.
    fn round(&self, flows: &mut Flows, samples: &mut Samples) -> Result<()> {
        for program in PROGRAMS {
            let mut note = |name, nanoseconds| {
                samples.entry(name).or_default().entry(program).or_default().push(nanoseconds);
            };
            note("established_packet_ns_over_empty", self.on_end(program, 0)?);
            note("established_packet_ns_over_empty_100k", self.on_end(program, flows.live())?);
            let packet = |number| established(program, number);
            note("established_packet_ns_over_empty_100k_uncached", self.singly(program, || flows.live(), packet)?);
            let first = match program {
                Program::FromWorkload => leaving,
                Program::ToWorkload => arriving,
                _ => continue,
            };
            note("new_flow_ns_over_empty", self.singly(program, || flows.another(), |number| first(number, SYN))?);
        }
        Ok(())
    }

    /// One connection's packets.
    fn on_end(&self, program: Program, number: u32) -> Result<f64> {
        let frame = established(program, number);
        let empty = self.run(Program::Empty, number, &frame, ON_END)?;
        Ok(self.run(program, number, &frame, ON_END)? - empty)
    }

    /// Packets of other connections each, timed one by one.
    fn singly(&self, program: Program, mut next: impl FnMut() -> u32, packet: impl Fn(u32) -> Vec<u8>) -> Result<f64> {
        let (mut ours, mut empty) = (Vec::new(), Vec::new());
        for _ in 0..SINGLE {
            let number = next();
            let frame = packet(number);
            empty.push(self.run(Program::Empty, number, &frame, 1)?);
            ours.push(self.run(program, number, &frame, 1)?);
        }
        Ok(median_with_bounds(&ours).0 - median_with_bounds(&empty).0)
    }
}

/// Medians with their bounds; for each thing measured, the program that costs most stands for all.
fn summarize(samples: &Samples) -> Summary {
    let mut summary = Summary::new();
    for (name, programs) in samples {
        let mut worst: f64 = 0.0;
        for (program, samples) in programs {
            let (median, low, high) = median_with_bounds(samples);
            let name = format!("{name}_{}", program.name());
            summary.insert(format!("{name}_low"), low);
            summary.insert(format!("{name}_high"), high);
            summary.insert(name, median);
            worst = worst.max(median);
        }
        summary.insert((*name).to_owned(), worst);
    }
    summary
}

fn host() -> Result<Host> {
    Ok(Host {
        overlay: "10.255.0.0/16".parse()?,
        gateway: GATEWAY,
        vtep: VTEP,
        vni: 1,
        vxlan_port: PORT,
        mark_shift: SHIFT,
        link_local: false,
        denials_per_second: 1,
        denials_burst: 5,
        allowed: None,
        fast_path: false,
    })
}

/// The slot of a connection's workload, and its address.
fn slot(number: u32) -> Slot {
    Slot(FIRST_SLOT + u16::try_from(number % u32::from(WORKLOADS)).unwrap_or_default())
}

fn own(number: u32) -> Ipv4Addr {
    (u32::from(VTEP) + u32::from(slot(number).0)).into()
}

fn endpoint(number: u32) -> Endpoint {
    apart::endpoint(slot(number), own(number), Tag::new(8), SetId(1))
}

/// The other side of a connection: address and port.
fn remote(number: u32) -> (Ipv4Addr, u16) {
    let [_, _, _, host] = (number % 200 + 2).to_be_bytes();
    (Ipv4Addr::new(10, 255, 2, host), u16::try_from(1024 + number / 200 % 64_000).unwrap_or(1))
}

/// A packet towards the workload.
fn arriving(number: u32, flags: u8) -> Vec<u8> {
    let own = own(number);
    tcp(Mac::for_host(GATEWAY), Mac::for_workload(own), remote(number), (own, 80), flags)
}

/// A packet of the workload.
fn leaving(number: u32, flags: u8) -> Vec<u8> {
    let own = own(number);
    let port = if flags == SYN { 40_000 } else { 80 };
    tcp(Mac::for_workload(own), Mac::for_host(GATEWAY), (own, port), remote(number), flags)
}

/// A packet of an established flow, as the program sees it.
fn established(program: Program, number: u32) -> Vec<u8> {
    match program {
        Program::FromWorkload | Program::ToOverlay => leaving(number, ACK),
        Program::FromUnderlay => vxlan(UNDERLAY, PORT, 1, &arriving(number, ACK)),
        _ => arriving(number, ACK),
    }
}
