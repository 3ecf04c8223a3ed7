//! Answered flows between workloads of one host go past its network stack, unless the host's NAT has a part in them;
//! policies are in force there as behind the bridge.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use weft_lab::probe::{HttpServer, Stream, connects};
use weft_lab::wait;
use weft_lab::{Lab, LabOptions, Workload, WorkloadOptions};
use weft_tests::PATIENCE;
use weft_tests::one_port::OnePort;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const MAPPED: u16 = 18080;

struct Scene {
    lab: Lab,
    web: Workload,
    client: Workload,
    _server: HttpServer,
    folder: TempDir,
}

impl Scene {
    fn new(stem: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = LabOptions::of(&LabOptions::unique_name(stem), 1, 0);
        let config = config(&folder);
        std::fs::write(&config, "fast_path = \"on\"\n").unwrap();
        options.hosts[0].flags = ["--deny", "reject", "--config", config.to_str().unwrap()].map(str::to_owned).into();
        let mut lab = Lab::up(options).unwrap_or_else(|error| panic!("the lab: {error:#}"));
        let ports = json!([{"HostPort": MAPPED, "ContainerPort": 8080, "Protocol": "tcp"}]);
        let web = lab.add("n1", &WorkloadOptions::pod("web", "shop").with("portMappings", ports)).unwrap();
        let client = lab.add("n1", &WorkloadOptions::pod("client", "shop")).unwrap();
        let server = HttpServer::start(&web.netns, 8080).unwrap();
        Self { lab, web, client, _server: server, folder }
    }

    fn web(&self) -> SocketAddr {
        (self.web.ip, 8080).into()
    }

    /// A transfer that has begun.
    fn stream(&self, from: &Workload, to: SocketAddr) -> Stream {
        let (stream, _) = wait::until("a stream", PATIENCE, || Stream::start(&from.netns, to)).unwrap();
        assert!(stream.flows(PATIENCE), "nothing comes from {to}");
        stream
    }

    /// A service whose only backend is the server.
    fn serve(&self) {
        for line in [
            "nft add table ip service".to_owned(),
            "nft add chain ip service prerouting { type nat hook prerouting priority -100 ; }".to_owned(),
            format!("nft add rule ip service prerouting ip daddr {SERVICE} dnat to {}", self.web.ip),
        ] {
            self.lab.host("n1").sh(&line).unwrap();
        }
    }

    /// Packets that went past the stack so far.
    fn direct(&self) -> u64 {
        self.lab.host("n1").status().unwrap().counters["direct"]
    }

    /// Many packets of the stream later.
    fn later(&self, stream: &Stream) -> u64 {
        let wanted = stream.bytes() + 50 * 1024;
        wait::until_true("the stream to go on", PATIENCE, || Ok(stream.bytes() >= wanted)).unwrap();
        self.direct()
    }

    fn goes_past_the_stack(&self, stream: &Stream) -> bool {
        let before = self.direct();
        self.later(stream) > before
    }

    /// The configuration says otherwise, and the agent has read it.
    fn switch(&self, to: &str, shown: &str) {
        std::fs::write(config(&self.folder), format!("fast_path = \"{to}\"\n")).unwrap();
        let id = i32::try_from(self.lab.host("n1").agent_id().unwrap()).unwrap();
        kill(Pid::from_raw(id), Signal::SIGHUP).unwrap();
        let said = || Ok(self.lab.host("n1").agent_log().contains(shown));
        wait::until_true("the agent to switch", PATIENCE, said).unwrap();
    }
}

fn config(folder: &TempDir) -> PathBuf {
    folder.path().join("weftd.toml")
}

#[test]
fn what_the_hosts_nat_changes_stays_in_its_stack_and_the_rest_goes_past_it() {
    let scene = Scene::new("fast");
    let host = scene.lab.host("n1");
    scene.serve();
    for (from, to) in [
        (&scene.client, SocketAddr::from((SERVICE, 8080))),
        (&scene.client, (host.address, MAPPED).into()),
        (&scene.web, (host.address, MAPPED).into()),
    ] {
        let stream = scene.stream(from, to);
        assert_eq!(scene.later(&stream), 0, "{to}");
    }
    let stream = scene.stream(&scene.client, scene.web());
    assert!(scene.goes_past_the_stack(&stream));
}

#[test]
fn policies_are_in_force_there_too_and_the_agent_is_not_needed() {
    let mut scene = Scene::new("fastpol");
    let stream = scene.stream(&scene.client, scene.web());
    assert!(scene.goes_past_the_stack(&stream));
    scene.lab.host_mut("n1").kill_agent().unwrap();
    let wanted = stream.bytes() + 50 * 1024;
    wait::until_true("the stream to go on", PATIENCE, || Ok(stream.bytes() >= wanted)).unwrap();
    scene.lab.host_mut("n1").start_agent().unwrap();
    scene.lab.host_mut("n1").wait_ready(PATIENCE).unwrap();
    assert!(scene.goes_past_the_stack(&stream), "as before");
    // A policy for somebody else: the server is open to those it names, and to nobody else.
    scene
        .lab
        .weft(&["policies", "allow", "--from", "monitoring", "--to", "k8s:lab/shop", "--port", "9100", "--wait"])
        .unwrap();
    // The server's next packet was its last: it is reset. The client hears nothing more.
    let revoked = || Ok(scene.lab.host("n1").status()?.counters["revoked"] > 0);
    wait::until_true("the stream to be revoked", PATIENCE, revoked).unwrap();
    stream.stops(Duration::from_millis(300), PATIENCE).unwrap();
    let refused = connects(&scene.client.netns, scene.web(), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn it_is_switched_by_the_configuration_while_traffic_runs() {
    let scene = Scene::new("fastsw");
    let before = scene.stream(&scene.client, scene.web());
    assert!(scene.goes_past_the_stack(&before));
    scene.switch("off", "fast_path=false");
    let meanwhile = scene.stream(&scene.client, scene.web());
    for stream in [&before, &meanwhile] {
        assert!(!scene.goes_past_the_stack(stream) && !stream.broke());
    }
    scene.switch("on", "fast_path=true");
    // What the stack has, it keeps.
    for stream in [&before, &meanwhile] {
        assert!(!scene.goes_past_the_stack(stream));
    }
    let after = scene.stream(&scene.client, scene.web());
    assert!(scene.goes_past_the_stack(&after));
    wait::until_true("the others to go on", PATIENCE, || Ok(meanwhile.flows(Duration::from_secs(1)))).unwrap();
}

#[test]
fn one_port_may_have_a_service_and_its_backend_at_the_same_time() {
    let scene = Scene::new("fastport");
    scene.serve();
    let ends = OnePort { client: &scene.client, service: SERVICE, backend: &scene.web };
    ends.datagrams(5353);
    ends.connections(8080);
}

/// To the host's conntrack, its port would be free again.
#[test]
fn a_long_exchange_of_datagrams_is_not_forgotten_by_the_host() {
    let scene = Scene::new("fastlong");
    scene.serve();
    for timeout in ["udp_timeout", "udp_timeout_stream"] {
        scene.lab.host("n1").sh(&format!("sysctl -w net.netfilter.nf_conntrack_{timeout}=10")).unwrap();
    }
    let before = scene.direct();
    let ends = OnePort { client: &scene.client, service: SERVICE, backend: &scene.web };
    ends.datagrams_for(Duration::from_secs(12), 5353);
    assert!(scene.direct() > before + 100, "most of it goes past the stack");
}

/// What the host's conntrack has forgotten has no port any more, so the service's connection gets the same: it has to
/// work, whatever becomes of the old one.
#[test]
fn a_connection_by_the_service_works_on_the_port_of_one_that_the_host_forgot() {
    let scene = Scene::new("fastforgot");
    scene.serve();
    let host = scene.lab.host("n1");
    host.sh("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_recv=1").unwrap();
    let ends = OnePort { client: &scene.client, service: SERVICE, backend: &scene.web };
    let straight = Stream::over(ends.connect(scene.web.ip, 8080)).unwrap();
    assert!(scene.goes_past_the_stack(&straight));
    let forgotten = || Ok(!host.sh("cat /proc/self/net/nf_conntrack")?.contains("sport=40001 dport=8080"));
    wait::until_true("the host to forget it", PATIENCE, forgotten).unwrap();
    let by_service = Stream::over(ends.connect(SERVICE, 8080)).unwrap();
    scene.later(&by_service);
    assert!(!scene.goes_past_the_stack(&by_service));
}
