//! Real sockets in two workloads of one host, behind attached programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::*;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_abi::SLOT_IFINDEX_BASE;
use weft_datapath::Datapath;
use weft_model::datapath::{DenyAction, Endpoint, Host, Limited, MapOp, SetId};
use weft_model::id::{IfName, Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Protocol, Rule};

type Task = Box<dyn FnOnce() + Send>;

/// A workload: a thread in a network namespace of its own that does what it is told.
struct Workload {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Workload {
    fn start() -> Self {
        let (tasks, inbox): (Sender<Task>, Receiver<Task>) = channel();
        let (ready, started) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            inbox.into_iter().for_each(|task| task());
        });
        let tid = started.recv().unwrap();
        Self { tasks: Some(tasks), thread: Some(thread), tid }
    }

    /// Runs `task` in the workload's namespace and waits for what it returns.
    fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.tasks.as_ref().unwrap().send(Box::new(move || done.send(task()).unwrap())).unwrap();
        result.recv_timeout(2 * PATIENCE).expect("the workload's task ended")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A host with two workloads: slot 5 (the server, tag 5) and slot 6 (the client, tag 6).
struct World {
    datapath: Datapath,
    server: Workload,
    client: Workload,
    sets: u32,
}

fn member(slot: u16, set: u32) -> Endpoint {
    let ip = Ipv4Addr::new(10, 255, 1, slot as u8);
    Endpoint {
        slot: Slot(slot),
        ip,
        mac: Mac::for_workload(ip),
        tag: Tag::new(slot),
        set: SetId(set),
        isolated: true,
        hosts_may_reach: false,
        host_listed_only: false,
        deny: DenyAction::Reject,
        audit: false,
        limited: Limited::default(),
    }
}

impl World {
    fn new(rules: Vec<Rule>) -> Self {
        let folder = isolate();
        let mut datapath = Datapath::open(&folder, &host()).unwrap();
        run(&format!("ip link add weft0 address {} type bridge", gateway_mac()));
        run("ip addr add 10.255.1.1/24 dev weft0");
        run("ip link set weft0 up");
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.weft0.send_redirects=0");
        datapath
            .apply(&[
                MapOp::PutHostAddress(GATEWAY),
                MapOp::PutSet(SetId(1), set(rules)),
                MapOp::PutSet(SetId(2), set(vec![])),
            ])
            .unwrap();
        let [server, client] = [5, 6].map(|slot| {
            let workload = Workload::start();
            let (ip, mac) = (member(slot, 1).ip, member(slot, 1).mac);
            let index = SLOT_IFINDEX_BASE + u32::from(slot);
            run(&format!(
                "ip link add w{slot} index {index} type veth peer name eth0 address {mac} netns {}",
                workload.tid
            ));
            workload.run(move || {
                run("ip link set lo up");
                run(&format!("ip addr add {ip}/32 dev eth0"));
                run("ip link set eth0 up");
                run("ip route add 10.255.1.1 dev eth0");
                run("ip route add default via 10.255.1.1 dev eth0");
            });
            datapath.apply(&[MapOp::PutEndpoint(member(slot, if slot == 5 { 1 } else { 2 }))]).unwrap();
            datapath.attach_workload(&IfName::new(format!("w{slot}")).unwrap()).unwrap();
            run(&format!("ip link set w{slot} master weft0"));
            run(&format!("ip link set w{slot} type bridge_slave isolated on"));
            run(&format!("ip link set w{slot} up"));
            workload
        });
        for workload in [&server, &client] {
            // A bridge forwards to a port a moment after it is up; and neighbours are known from here on.
            // An address that nobody has answered for yet ends a ping.
            workload.run(|| {
                until("the gateway", || {
                    let ping = Command::new("ping").args(["-q", "-c", "1", "-W", "1", &GATEWAY.to_string()]).output();
                    ping.unwrap().status.success().then_some(())
                });
            });
        }
        Self { datapath, server, client, sets: 2 }
    }

    /// Puts other rules in force for the server.
    fn rules(&mut self, rules: Vec<Rule>) {
        self.sets += 1;
        let ops =
            [MapOp::PutSet(SetId(self.sets), set(rules)), MapOp::PutEndpoint(member(5, self.sets)), MapOp::Barrier];
        self.datapath.apply(&ops).unwrap();
    }

    /// Connects from the client to the server.
    fn connect(&self, port: u16) -> Result<TcpStream, ErrorKind> {
        self.connect_from(0, port)
    }

    /// The same from a port of the client's, 0: any.
    fn connect_from(&self, from: u16, port: u16) -> Result<TcpStream, ErrorKind> {
        let connect = move || -> nix::Result<TcpStream> {
            let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(NEIGHBOUR, from)))?;
            connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(OWN, port)))?;
            Ok(TcpStream::from(fd))
        };
        self.client.run(move || connect().map_err(|error| std::io::Error::from(error).kind()))
    }

    fn counter(&self, name: &str) -> u64 {
        self.datapath.counters().unwrap()[name]
    }

    /// Asks the server by UDP, and again while nobody answers: what came back, and how soon after the question.
    fn ask(&self, client: &UdpSocket, port: u16) -> (Result<usize, ErrorKind>, Duration) {
        let socket = client.try_clone().unwrap();
        self.client.run(move || {
            socket.connect((OWN, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            until("an answer, or a refusal", || {
                let since = Instant::now();
                let received = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 16]));
                let answer = received.map_err(|error| error.kind());
                (answer != Err(ErrorKind::WouldBlock)).then(|| (answer, since.elapsed()))
            })
        })
    }

    /// A socket of the client's.
    fn socket(&self) -> UdpSocket {
        self.client.run(|| UdpSocket::bind((Ipv4Addr::new(10, 255, 1, 6), 0)).unwrap())
    }
}

/// The kernel's own count of the programs' runs, and the packets they counted: each by its one fate, those that went
/// past the stack for both ends.
fn runs_and_packets(datapath: &Datapath) -> (u64, u64) {
    let ids: Vec<u32> = datapath.program_ids().unwrap().into_values().collect();
    let ours = aya::programs::loaded_programs().flatten().filter(|program| ids.contains(&program.id()));
    let counters = datapath.counters().unwrap();
    let besides =
        ["audited", "rejected", "answer-limited", "conntrack-full", "record-limited", "record-lost", "direct"];
    let fates: u64 = counters.iter().filter(|(name, _)| !besides.contains(name)).map(|(_, count)| count).sum();
    (ours.map(|program| program.run_count()).sum(), fates - counters["direct"])
}

#[test]
fn every_run_of_a_program_is_counted_once_by_what_became_of_its_packet() {
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    let world = World::new(vec![allow(Protocol::Tcp, 80)]);
    let listener = world.server.run(|| TcpListener::bind((OWN, 80)).unwrap());
    let client = patient(world.connect(80).unwrap());
    exchange([&client, &patient(listener.accept().unwrap().0)], 1 << 20);
    assert_eq!(world.connect(81).err(), Some(ErrorKind::ConnectionRefused));
    for name in ["direct", "policy", "rejected", "passed"] {
        assert!(world.counter(name) > 0, "{name}");
    }
    // The namespaces' own noise goes on: both are read again until none comes between.
    until("the same sum", || {
        let (runs, packets) = runs_and_packets(&world.datapath);
        (runs == packets && runs > 100).then_some(())
    });
}

/// A refusal needs no second packet: those would be sent a second later. Said of the quickest of many, as the
/// machine may be slow.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Both ways at once, so many bytes each; whoever receives has all of it.
fn exchange(ends: [&TcpStream; 2], bytes: usize) {
    std::thread::scope(|scope| {
        for (mut from, mut to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            scope.spawn(move || from.write_all(&vec![7; bytes]).unwrap());
            scope.spawn(move || to.read_exact(&mut vec![0; bytes]).unwrap());
        }
    });
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Drops, as kube-proxy does, what the host's conntrack takes for invalid: it has seen of these connections what
/// went through the stack, and no more.
fn drop_invalid() {
    run("nft add table ip guard");
    run("nft add chain ip guard forward { type filter hook forward priority 0 ; }");
    run("nft add rule ip guard forward ct state invalid counter drop");
}

fn allow(protocol: Protocol, port: u16) -> Rule {
    rule(Direction::Ingress, tag_peer(6), ports(protocol, port, port))
}

#[test]
fn tcp_is_allowed_refused_at_once_and_revoked() {
    let mut world = World::new(vec![allow(Protocol::Tcp, 80)]);
    let [open, shut] = [80, 81].map(|port| world.server.run(move || TcpListener::bind((OWN, port)).unwrap()));
    let mut client = world.connect(80).expect("allowed");
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let (mut server, _) = open.accept().unwrap();
    until("a refusal at once", || {
        let since = Instant::now();
        assert_eq!(world.connect(81).err(), Some(ErrorKind::ConnectionRefused));
        (since.elapsed() < AT_ONCE).then_some(())
    });
    shut.set_nonblocking(true).unwrap();
    assert_eq!(shut.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nothing reached the server");

    // A stream goes on through a policy that still allows it, and ends with one that does not.
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match server.read(&mut buffer) {
                Ok(0) => return (total, None),
                Ok(count) => total += count,
                Err(error) => return (total, Some(error.kind())),
            }
        }
    });
    let data = vec![7; 1 << 16];
    for _ in 0..200 {
        client.write_all(&data).unwrap();
    }
    world.rules(vec![allow(Protocol::Tcp, 80), allow(Protocol::Tcp, 8080)]);
    for _ in 0..200 {
        client.write_all(&data).unwrap();
    }
    world.rules(vec![]);
    let error = until("the stream's end", || client.write_all(&data).err()).kind();
    assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    let counters = world.datapath.counters().unwrap();
    assert!(counters["revoked"] >= 1 && counters["rejected"] >= 2, "{counters:?}");
    assert_eq!(world.connect(80).err(), Some(ErrorKind::ConnectionRefused));
    world.rules(vec![allow(Protocol::Tcp, 80)]);
    assert!(world.connect(80).is_ok());
    drop(client);
    drop(reader);
}

#[test]
fn udp_is_allowed_answered_and_refused() {
    let mut world = World::new(vec![allow(Protocol::Udp, 53)]);
    let server = world.server.run(|| UdpSocket::bind((OWN, 53)).unwrap());
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 16];
        loop {
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            if &buffer[..count] == b"end" {
                return;
            }
            server.send_to(b"!", from).unwrap();
        }
    });
    let client = world.socket();
    assert_eq!(world.ask(&client, 53).0, Ok(1));
    let other = world.socket();
    until("a refusal at once", || {
        let (refused, took) = world.ask(&other, 54);
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        (took < AT_ONCE).then_some(())
    });
    world.rules(vec![]);
    // Answers to questions that were asked twice may still come.
    until("a refusal", || (world.ask(&client, 53).0 == Err(ErrorKind::ConnectionRefused)).then_some(()));
    world.server.run(|| UdpSocket::bind((OWN, 0)).unwrap().send_to(b"end", (OWN, 53)).unwrap());
    answering.join().unwrap();
}

#[test]
fn a_big_datagram_passes_in_fragments() {
    let world = World::new(vec![allow(Protocol::Udp, 53)]);
    let server = world.server.run(|| UdpSocket::bind((OWN, 53)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let client = world.socket();
    let mut buffer = vec![0; 32_000];
    let received = until("a datagram", || {
        client.send_to(&[7; 20_000], (OWN, 53)).unwrap();
        server.recv(&mut buffer).ok()
    });
    assert_eq!(received, 20_000);
}

#[test]
fn the_host_reaches_its_workloads_and_they_answer() {
    let world = World::new(vec![]);
    let listener = world.server.run(|| TcpListener::bind((OWN, 80)).unwrap());
    let mut host = TcpStream::connect_timeout(&(OWN, 80).into(), PATIENCE).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"health").unwrap();
    let mut buffer = [0; 6];
    host.read_exact(&mut buffer).unwrap();
    until("an answer to a ping", || {
        let ping = Command::new("ping").args(["-q", "-c", "1", "-W", "1", &OWN.to_string()]).output().unwrap();
        ping.status.success().then_some(())
    });
}

#[test]
fn replacing_programs_under_traffic_loses_nothing() {
    let mut world = World::new(vec![allow(Protocol::Udp, 53)]);
    let server = world.server.run(|| UdpSocket::bind((OWN, 53)).unwrap());
    let shut = world.server.run(|| UdpSocket::bind((OWN, 54)).unwrap());
    shut.set_nonblocking(true).unwrap();
    let (client, forbidden) = (world.socket(), world.socket());
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 16];
        let mut got = 0u32;
        loop {
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            if &buffer[..count] == b"end" {
                return got;
            }
            got += 1;
            server.send_to(&buffer[..count], from).unwrap();
        }
    });
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let talker = {
        let (stop, answered) = (stop.clone(), answered.clone());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            let mut sent = 0u32;
            let mut buffer = [0; 16];
            while !stop.load(Ordering::Relaxed) {
                client.send_to(b"ping", (OWN, 53)).unwrap();
                forbidden.send_to(b"ping", (OWN, 54)).ok();
                assert_eq!(client.recv(&mut buffer).expect("an answer to every packet"), 4);
                sent += 1;
                answered.store(sent, Ordering::Relaxed);
            }
            client.send_to(b"end", (OWN, 53)).unwrap();
            sent
        })
    };
    // Another process of another version: the same maps, other programs.
    let veths = ["w5", "w6"].map(|name| IfName::new(name).unwrap());
    let folder = std::env::temp_dir().read_dir().unwrap().next().unwrap().unwrap().path();
    let mut replace = || {
        let mut next = Datapath::open(&folder, &host()).unwrap();
        for veth in &veths {
            next.reattach_workload(veth).unwrap();
        }
        world.datapath = next;
    };
    // Five times, however long that takes, and until that many packets met it.
    for _ in 0..5 {
        replace();
    }
    until("traffic while programs are replaced", || {
        replace();
        (talker.is_finished() || answered.load(Ordering::Relaxed) > 100).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    let sent = talker.join().unwrap();
    assert_eq!(echo.join().unwrap(), sent);
    assert_eq!(
        shut.recv(&mut [0; 16]).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "a forbidden packet slipped through"
    );
}

#[test]
fn answered_connections_go_past_the_stack_and_its_conntrack_never_minds() {
    let mut world = World::new(vec![allow(Protocol::Tcp, 80)]);
    drop_invalid();
    let listener = world.server.run(|| TcpListener::bind((OWN, 80)).unwrap());
    let open = |world: &World| {
        let client = patient(world.connect_from(40000, 80).unwrap());
        (client, patient(listener.accept().unwrap().0))
    };
    let (client, server) = open(&world);
    let before = world.counter("direct");
    exchange([&client, &server], 4 << 20);
    assert!(world.counter("direct") > before + 100);
    // A changed policy is asked at the next packet, where that is.
    world.rules(vec![allow(Protocol::Tcp, 80), allow(Protocol::Tcp, 81)]);
    exchange([&client, &server], 1 << 20);
    // To the last acknowledgement: the server closes first, and the client's port is free at once.
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    assert_eq!((&server).read(&mut [0; 1]).unwrap(), 0);
    drop(server);
    // The same addresses and ports again, and reset.
    let (client, server) = open(&world);
    exchange([&client, &server], 1 << 20);
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&client, sockopt::Linger, &at_once).unwrap();
    drop(client);
    assert_eq!((&server).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(server);
    let (client, server) = open(&world);
    exchange([&client, &server], 1 << 20);
}

#[test]
fn a_direct_connection_is_reset_at_both_ends_when_its_policy_is_taken_back() {
    let mut world = World::new(vec![allow(Protocol::Tcp, 80)]);
    drop_invalid();
    let listener = world.server.run(|| TcpListener::bind((OWN, 80)).unwrap());
    for client_first in [true, false] {
        world.rules(vec![allow(Protocol::Tcp, 80)]);
        let client = patient(world.connect(80).unwrap());
        let server = patient(listener.accept().unwrap().0);
        exchange([&client, &server], 1 << 20);
        let (direct, revoked) = (world.counter("direct"), world.counter("revoked"));
        world.rules(vec![]);
        for mut end in if client_first { [&client, &server] } else { [&server, &client] } {
            // The first one's may be taken before it is refused; what is reset says so at the next look.
            let error = match end.write_all(b"x") {
                Ok(()) => end.read(&mut [0; 1]).unwrap_err().kind(),
                Err(error) => error.kind(),
            };
            assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
        }
        assert!(world.counter("revoked") > revoked);
        // Resets of ours at most: no data.
        assert!(world.counter("direct") <= direct + 2);
        assert_eq!(world.connect(80).err(), Some(ErrorKind::ConnectionRefused));
    }
}

#[test]
fn a_connection_outlives_the_agent_and_the_switch() {
    let mut world = World::new(vec![allow(Protocol::Tcp, 80)]);
    let listener = world.server.run(|| TcpListener::bind((OWN, 80)).unwrap());
    let client = patient(world.connect(80).unwrap());
    let server = patient(listener.accept().unwrap().0);
    exchange([&client, &server], 1 << 20);
    let folder = std::env::temp_dir().read_dir().unwrap().next().unwrap().unwrap().path();
    for (fast_path, direct) in [(true, true), (false, false), (true, false)] {
        world.datapath = Datapath::open(&folder, &Host { fast_path, ..host() }).unwrap();
        let before = world.counter("direct");
        exchange([&client, &server], 1 << 20);
        // What went back into the stack stays there.
        assert_eq!(world.counter("direct") > before, direct, "{fast_path}");
    }
}
