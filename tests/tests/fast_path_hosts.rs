//! Answered flows between workloads of two hosts go past both hosts' network stacks, to the VXLAN device and from it,
//! unless a host's NAT has a part in them; policies are in force there as behind the bridge.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;
use weft_lab::probe::{HttpServer, Stream, connects, inside};
use weft_lab::shell::sh_in;
use weft_lab::wait;
use weft_lab::{Lab, LabOptions, Workload, WorkloadOptions};
use weft_tests::PATIENCE;
use weft_tests::one_port::OnePort;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A client on n1 and a server on n2.
struct Scene {
    lab: Lab,
    web: Workload,
    client: Workload,
    _server: HttpServer,
}

impl Scene {
    fn new(stem: &str) -> Self {
        let mut options = LabOptions::of(&LabOptions::unique_name(stem), 2, 0);
        for host in &mut options.hosts {
            host.flags = ["--deny", "reject"].map(str::to_owned).into();
        }
        let mut lab = Lab::up(options).unwrap_or_else(|error| panic!("the lab: {error:#}"));
        let web = lab.add("n2", &WorkloadOptions::pod("web", "shop")).unwrap();
        let client = lab.add("n1", &WorkloadOptions::pod("client", "shop")).unwrap();
        let server = HttpServer::start(&web.netns, 8080).unwrap();
        Self { lab, web, client, _server: server }
    }

    fn web(&self) -> SocketAddr {
        (self.web.ip, 8080).into()
    }

    /// A transfer that has begun.
    fn stream(&self, to: SocketAddr) -> Stream {
        let (stream, _) = wait::until("a stream", PATIENCE, || Stream::start(&self.client.netns, to)).unwrap();
        assert!(stream.flows(PATIENCE), "nothing comes from {to}");
        stream
    }

    /// Packets that went past the stacks of n1 and n2 so far.
    fn direct(&self) -> [u64; 2] {
        ["n1", "n2"].map(|host| self.lab.host(host).status().unwrap().counters["direct"])
    }

    /// On which of the hosts packets of the stream go past the stack, seen over many of them.
    fn goes_past_the_stack(&self, stream: &Stream) -> [bool; 2] {
        let before = self.direct();
        later(stream);
        let after = self.direct();
        [0, 1].map(|host| after[host] > before[host])
    }

    /// Drops, as kube-proxy does, what a host's conntrack takes for invalid.
    fn drop_invalid(&self) {
        for host in ["n1", "n2"] {
            for line in [
                "nft add table ip guard",
                "nft add chain ip guard forward { type filter hook forward priority 0 ; }",
                "nft add rule ip guard forward ct state invalid counter drop",
            ] {
                self.lab.host(host).sh(line).unwrap();
            }
        }
    }

    fn nat(&self, hook: &str, rule: &str) {
        let host = self.lab.host("n1");
        host.sh("nft add table ip other").unwrap();
        host.sh(&format!("nft add chain ip other {hook} {{ type nat hook {hook} priority -100 ; }}")).unwrap();
        host.sh(&format!("nft add rule ip other {hook} {rule}")).unwrap();
    }
}

/// Many packets of the stream later.
fn later(stream: &Stream) {
    let wanted = stream.bytes() + 50 * 1024;
    wait::until_true("the stream to go on", PATIENCE, || Ok(stream.bytes() >= wanted)).unwrap();
}

#[test]
fn policies_are_in_force_there_too_and_neither_agents_nor_the_first_device_are_needed() {
    let mut scene = Scene::new("fasthosts");
    scene.drop_invalid();
    let stream = scene.stream(scene.web());
    assert_eq!(scene.goes_past_the_stack(&stream), [true, true]);
    for host in ["n1", "n2"] {
        scene.lab.host_mut(host).kill_agent().unwrap();
    }
    later(&stream);
    for host in ["n1", "n2"] {
        scene.lab.host_mut(host).start_agent().unwrap();
        scene.lab.host_mut(host).wait_ready(PATIENCE).unwrap();
    }
    assert_eq!(scene.goes_past_the_stack(&stream), [true, true], "as before");
    // The device has another index when it is back.
    scene.lab.host("n1").sh("ip link del weft-vx1").unwrap();
    later(&stream);
    assert_eq!(scene.goes_past_the_stack(&stream), [true, true], "by the new device");
    // A policy for somebody else: the server is open to those it names, and to nobody else.
    scene
        .lab
        .weft(&["policies", "allow", "--from", "monitoring", "--to", "k8s:lab/shop", "--port", "9100", "--wait"])
        .unwrap();
    let revoked = || Ok(scene.lab.host("n2").status()?.counters["revoked"] > 0);
    wait::until_true("the stream to be revoked", PATIENCE, revoked).unwrap();
    // The server's next packet was its last: it is reset. The client hears nothing more.
    stream.stops(Duration::from_millis(300), PATIENCE).unwrap();
    let refused = connects(&scene.client.netns, scene.web(), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn what_one_hosts_nat_changes_stays_in_its_stack() {
    let scene = Scene::new("fastnat");
    scene.nat("prerouting", &format!("ip daddr {SERVICE} tcp dport 80 dnat to {}", scene.web()));
    let stream = scene.stream((SERVICE, 80).into());
    // The other host has nothing to do with it.
    assert_eq!(scene.goes_past_the_stack(&stream), [false, true]);
    drop(stream);
    let stream = scene.stream(scene.web());
    assert_eq!(scene.goes_past_the_stack(&stream), [true, true]);
    drop(stream);
    scene.nat("postrouting", &format!("ip daddr {} masquerade", scene.web.ip));
    let stream = scene.stream(scene.web());
    assert_eq!(scene.goes_past_the_stack(&stream), [false, true]);
}

#[test]
fn one_port_may_have_a_service_and_its_backend_at_the_same_time() {
    let scene = Scene::new("fasttwice");
    scene.nat("prerouting", &format!("ip daddr {SERVICE} dnat to {}", scene.web.ip));
    let ends = OnePort { client: &scene.client, service: SERVICE, backend: &scene.web };
    ends.datagrams(5353);
    ends.connections(8080);
}

/// A UDP socket for `to`, or one that waits at port 5353.
fn datagrams(netns: &Path, to: Option<SocketAddr>) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, if to.is_some() { 0 } else { 5353 }))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        to.map_or(Ok(()), |to| socket.connect(to))?;
        Ok::<_, std::io::Error>(socket)
    };
    inside(netns, open).unwrap().unwrap()
}

/// The host's conntrack has forgotten such a flow, and an error that quotes it is invalid to it.
#[test]
fn who_sends_datagrams_hears_that_nobody_takes_them_any_more() {
    let mut scene = Scene::new("fasterror");
    let beside = scene.lab.add("n1", &WorkloadOptions::pod("beside", "shop")).unwrap();
    scene.drop_invalid();
    for host in ["n1", "n2"] {
        scene.lab.host(host).sh("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=1").unwrap();
        scene.lab.host(host).sh("sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=1").unwrap();
    }
    for server in [&scene.web, &beside] {
        let waiting = datagrams(&server.netns, None);
        let asking = datagrams(&scene.client.netns, Some((server.ip, 5353).into()));
        let answered = || {
            asking.send(b"?")?;
            let (_, from) = waiting.recv_from(&mut [0; 1])?;
            waiting.send_to(b"!", from)?;
            asking.recv(&mut [0; 1])
        };
        let forgotten = || {
            answered()?;
            let known = |host| scene.lab.host(host).sh("cat /proc/self/net/nf_conntrack");
            Ok(!(known("n1")? + &known("n2")?).contains("port=5353"))
        };
        wait::until_true("the hosts to forget", PATIENCE, forgotten).unwrap();
        drop(waiting);
        asking.send(b"?").unwrap();
        let heard = asking.recv(&mut [0; 1]).unwrap_err();
        assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{server:?}");
    }
}

/// Both ends have given themselves an MTU that the tunnel does not have, and send segments of that size, many in one
/// packet: the host says that they do not fit.
#[test]
fn segments_that_do_not_fit_into_the_tunnel_are_answered_by_the_host() {
    let scene = Scene::new("fastlong");
    for workload in [&scene.web, &scene.client] {
        sh_in(&workload.netns, "ip link set eth0 mtu 9000").unwrap();
    }
    let mtu = || sh_in(&scene.client.netns, &format!("ip route get {}", scene.web.ip)).unwrap();
    assert!(!mtu().contains("mtu"), "{}", mtu());
    let listener = inside(&scene.web.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000))).unwrap().unwrap();
    let mut sending = connects(&scene.client.netns, (scene.web.ip, 9000).into(), PATIENCE).unwrap();
    sending.set_write_timeout(Some(PATIENCE)).unwrap();
    let (receiving, _) = listener.accept().unwrap();
    receiving.set_read_timeout(Some(PATIENCE)).unwrap();
    let before = scene.direct();
    let data = vec![7; 4 << 20];
    let received = std::thread::scope(|scope| {
        scope.spawn(|| sending.write_all(&data).unwrap());
        let mut received = vec![0; data.len()];
        (&receiving).read_exact(&mut received).map(|()| received == data)
    });
    assert!(received.unwrap());
    assert!(mtu().contains("mtu 1450"), "{}", mtu());
    assert!(scene.direct()[1] > before[1], "on the other host it goes past the stack");
}
