//! What the tests share: a private network and mount namespace with a bpffs of its own, a data
//! plane in it, and frames.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

pub mod frame;
pub mod way;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use weft_abi::SLOT_IFINDEX_BASE;
use weft_datapath::{Datapath, Outcome, Probe, Program};
use weft_model::datapath::{DenyAction, Endpoint, Host, Limited, MapOp, PeerHost, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Peer, PolicySet, PortRange, Precedence, Rule, Traffic, Transport, Verdict};

/// The verdict of a program that passes a packet on.
pub const PASS: i32 = -1;
/// The verdict of one that drops it.
pub const DROP: i32 = 2;
/// The verdict of one that sends an answer.
pub const REDIRECT: i32 = 7;

/// The slot under test, its address and its tag.
pub const SLOT: Slot = Slot(5);
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 5);
pub const OWN_TAG: u16 = 0x0a05;
/// A neighbour on the same host.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 6);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 1);
pub const VTEP: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 0);
/// A workload of a peer that speaks GBP, the peer's own address, and its underlay address.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 2, 9);
pub const REMOTE_VTEP: Ipv4Addr = Ipv4Addr::new(10, 255, 2, 0);
pub const REMOTE_UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// A workload of a weft peer without GBP.
pub const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 255, 4, 9);
pub const PLAIN_UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
/// A workload of an unmanaged peer.
pub const FLANNEL: Ipv4Addr = Ipv4Addr::new(10, 255, 3, 9);
pub const FLANNEL_UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// An address that is nobody's we know, and one of this host.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub const VNI: u32 = 1;
pub const VXLAN_PORT: u16 = 8472;
pub const SHIFT: u8 = 16;

/// The hardware address of the gateway.
pub fn gateway_mac() -> Mac {
    Mac::for_host(GATEWAY)
}

pub fn own_mac() -> Mac {
    Mac::for_workload(OWN)
}

/// Where maps of this layout are pinned.
pub fn maps(folder: &Path) -> PathBuf {
    folder.join(format!("v{}/maps", weft_abi::LAYOUT_VERSION))
}

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tries until there is something.
#[track_caller]
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Runs a program to its end; its failure is the test's.
pub fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves the calling thread into namespaces of its own, which end with it, and mounts a bpffs.
pub fn isolate() -> PathBuf {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root and namespaces");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Over the real one, for this thread only: nothing is left behind.
    let temporary = std::env::temp_dir();
    mount(Some("tmpfs"), &temporary, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let folder = temporary.join(format!("weft-bpf-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), none).unwrap();
    run("ip link set lo up");
    folder
}

pub fn host() -> Host {
    Host {
        overlay: "10.255.0.0/16".parse().unwrap(),
        gateway: GATEWAY,
        vtep: VTEP,
        vni: VNI,
        vxlan_port: VXLAN_PORT,
        mark_shift: SHIFT,
        link_local: false,
        denials_per_second: 1,
        denials_burst: 1000,
        allowed: None,
        fast_path: true,
    }
}

pub fn endpoint() -> Endpoint {
    Endpoint {
        slot: SLOT,
        ip: OWN,
        mac: own_mac(),
        tag: Tag::new(OWN_TAG),
        set: SetId(1),
        isolated: true,
        hosts_may_reach: false,
        host_listed_only: false,
        deny: DenyAction::Drop,
        audit: false,
        limited: Limited::default(),
    }
}

pub fn rule(direction: Direction, peer: Peer, traffic: Traffic) -> Rule {
    Rule { direction, peer, traffic, precedence: Precedence::policy(100), verdict: Verdict::Allow, id: 1 }
}

pub fn tag_peer(tag: u16) -> Peer {
    Peer::Tag(Tag::new(tag).unwrap())
}

pub fn ports(protocol: impl Into<Transport>, start: u16, end: u16) -> Traffic {
    Traffic::Ports(protocol.into(), PortRange::new(start, end).unwrap())
}

pub fn set(rules: Vec<Rule>) -> PolicySet {
    PolicySet { isolated: true, hosts_may_reach: false, host_listed_only: false, rules }
}

/// A data plane with one endpoint, in slot [`SLOT`], whose veth exists.
pub struct Bench {
    pub datapath: Datapath,
    pub folder: PathBuf,
    sets: u32,
    pub endpoint: Endpoint,
}

impl Bench {
    pub fn new(rules: Vec<Rule>) -> Self {
        let folder = isolate();
        let index = SLOT_IFINDEX_BASE + u32::from(SLOT.0);
        run(&format!("ip link add w5 index {index} type veth peer name c5"));
        let mut datapath = Datapath::open(&folder, &host()).unwrap();
        let peer = |underlay, vtep, gbp, unmanaged| PeerHost { underlay, vtep, gbp, unmanaged };
        let ops = [
            MapOp::PutPeer("10.255.2.0/24".parse().unwrap(), peer(REMOTE_UNDERLAY, REMOTE_VTEP, true, false)),
            MapOp::PutPeer(
                "10.255.4.0/24".parse().unwrap(),
                peer(PLAIN_UNDERLAY, Ipv4Addr::new(10, 255, 4, 0), false, false),
            ),
            MapOp::PutPeer(
                "10.255.3.0/24".parse().unwrap(),
                peer(FLANNEL_UNDERLAY, Ipv4Addr::new(10, 255, 3, 0), false, true),
            ),
            MapOp::PutHostAddress(HOST),
            MapOp::PutHostAddress(GATEWAY),
            MapOp::PutHostAddress(VTEP),
        ];
        datapath.apply(&ops).unwrap();
        let mut bench = Self { datapath, folder, sets: 0, endpoint: endpoint() };
        bench.rules(rules);
        bench
    }

    /// Puts other rules in force for the endpoint, as the agent does.
    pub fn rules(&mut self, rules: Vec<Rule>) {
        self.sets += 1;
        let old = self.endpoint.set;
        self.endpoint.set = SetId(self.sets);
        let mut ops = vec![
            MapOp::PutSet(self.endpoint.set, set(rules)),
            MapOp::PutEndpoint(self.endpoint.clone()),
            MapOp::Barrier,
        ];
        if self.sets > 1 {
            ops.push(MapOp::RemoveSet(old));
        }
        self.datapath.apply(&ops).unwrap();
    }

    /// Changes the endpoint.
    pub fn change(&mut self, change: impl FnOnce(&mut Endpoint)) {
        change(&mut self.endpoint);
        self.datapath.apply(&[MapOp::PutEndpoint(self.endpoint.clone())]).unwrap();
    }

    pub fn probe(&self, program: Program, frame: &[u8], mark: u32, ingress_ifindex: u32) -> Outcome {
        let ifindex = match program {
            Program::FromWorkload | Program::ToWorkload => SLOT_IFINDEX_BASE + u32::from(SLOT.0),
            _ => 0,
        };
        let probe = Probe { frame, mark, ifindex, ingress_ifindex, gso_size: 0, repeat: 1 };
        self.datapath.probe(program, &probe).unwrap()
    }

    /// What the workload sends.
    pub fn out(&self, frame: &[u8]) -> Outcome {
        self.probe(Program::FromWorkload, frame, 0, 0)
    }

    /// What reaches the workload through the host, with a tag in the mark.
    pub fn arrive(&self, frame: &[u8], tag: u16) -> Outcome {
        self.probe(Program::ToWorkload, frame, u32::from(tag) << SHIFT, 1)
    }

    /// What the host itself sends to the workload.
    pub fn by_host(&self, frame: &[u8]) -> Outcome {
        self.probe(Program::ToWorkload, frame, 0, 0)
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.datapath.counters().unwrap()[name]
    }

    /// Lets a time in all flows of a table be so many seconds longer ago. `field`: its place in a `Conn`.
    pub fn age(&self, table: &str, field: usize, seconds: u64) {
        use aya::maps::{HashMap, Map, MapData};
        let data = MapData::from_pin(maps(&self.folder).join(table)).unwrap();
        let mut flows: HashMap<_, [u8; 16], [u8; 24]> = HashMap::try_from(Map::LruHashMap(data)).unwrap();
        let keys: Vec<_> = flows.keys().map(Result::unwrap).collect();
        assert!(!keys.is_empty(), "nothing is in {table}");
        for key in keys {
            let mut conn = flows.get(&key, 0).unwrap();
            let time = &mut conn[field..field + 4];
            let then = u32::from_ne_bytes(time.try_into().unwrap());
            let units = u32::try_from((seconds * 1_000_000_000) >> 30).unwrap();
            time.copy_from_slice(&then.wrapping_sub(units).to_ne_bytes());
            flows.insert(key, conn, 0).unwrap();
        }
    }

    /// Asserts the verdict, and that exactly this reason was counted, once.
    #[track_caller]
    pub fn expect(&self, reason: &str, verdict: i32, probe: impl FnOnce(&Self) -> Outcome) -> Outcome {
        let before = self.datapath.counters().unwrap();
        let outcome = probe(self);
        let after = self.datapath.counters().unwrap();
        let moved: Vec<_> = after
            .iter()
            .filter(|(name, count)| before[*name] != **count)
            .filter(|(name, _)| !matches!(**name, "record-limited" | "record-lost" | "rejected"))
            .map(|(name, count)| (*name, count - before[*name]))
            .collect();
        let want = if reason.is_empty() { vec![] } else { vec![(reason, 1)] };
        assert_eq!((outcome.verdict, moved), (verdict, want));
        outcome
    }
}
