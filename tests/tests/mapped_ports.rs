//! Ports of the host that lead to workloads: from everywhere, for whom policy lets in, and for nobody else.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use anyhow::Context as _;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;
use weft_lab::host::Host;
use weft_lab::probe::{self, HttpServer, inside};
use weft_lab::underlay::CTL;
use weft_lab::wait;
use weft_lab::workload::{CniCall, add_call};
use weft_lab::{Lab, Workload, WorkloadOptions};
use weft_model::mac::Mac;
use weft_tests::frames::{Ip, Wire, contains, ethernet, kind, udp};
use weft_tests::hostile::EVIL;
use weft_tests::{PATIENCE, lab};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// An app with a port of its cell, as Garden asks for it.
fn app(name: &str, guid: &str, host_port: u16) -> WorkloadOptions {
    let mapping = json!([
        {"host_port": host_port, "container_port": 8080},
        {"host_port": host_port + 1, "container_port": 8053, "protocol": "udp"},
    ]);
    WorkloadOptions::app(name, guid).with("portMappings", mapping)
}

/// The client that the server sees.
fn seen(netns: &Path, to: Ipv4Addr, port: u16) -> Ipv4Addr {
    let asked = || probe::get(netns, (to, port).into(), Duration::from_secs(10));
    match wait::until(&format!("an answer from {to}:{port}"), PATIENCE, asked).unwrap().0.client {
        std::net::IpAddr::V4(ip) => ip,
        ip => panic!("{ip}"),
    }
}

fn refused(netns: &Path, to: Ipv4Addr, port: u16) {
    let answer = probe::get(netns, (to, port).into(), Duration::from_secs(2));
    assert!(answer.is_err(), "{to}:{port} answered {answer:?}");
}

/// The outside knows the way to a host's workloads.
fn route_to(lab: &Lab, host: &str) {
    let (subnet, via) = (lab.host(host).status().unwrap().subnet.unwrap(), lab.host(host).address);
    let ctl = lab.ctl();
    weft_lab::shell::sh_in(&ctl, &format!("ip route replace {subnet} via {via}")).unwrap();
}

fn underlay_mac(host: &Host) -> Mac {
    let links: Value = serde_json::from_str(&host.sh("ip -j link show eth0").unwrap()).unwrap();
    links[0]["address"].as_str().unwrap().parse().unwrap()
}

#[test]
fn from_everywhere_by_the_port_and_by_policy_only_past_it() {
    let mut lab = lab("mapped");
    let web = lab.add("c1", &app("web", "web-guid", 61000)).unwrap();
    let other = lab.add("c1", &WorkloadOptions::app("other", "other-guid")).unwrap();
    let far = lab.add("n1", &WorkloadOptions::pod("far", "shop")).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    route_to(&lab, "c1");
    let cell = lab.host("c1");
    let subnet = cell.status().unwrap().subnet.unwrap();
    let (host, gateway, vtep) = (cell.address, subnet.gateway(), subnet.vtep_ip());
    // The outside, another host's process, and another host's workload, which leaves the overlay as its host.
    assert_eq!(seen(&lab.ctl(), host, 61000), CTL);
    assert_eq!(seen(&lab.host("n2").netns, host, 61000), lab.host("n2").address);
    assert_eq!(seen(&far.netns, host, 61000), lab.host("n1").address);
    // The host itself.
    assert_eq!(seen(&cell.netns, host, 61000), host);
    assert_eq!(seen(&cell.netns, LOCALHOST, 61000), gateway);
    // Past the mapping, the outside is judged.
    refused(&lab.ctl(), web.ip, 8080);
    // With and without netfilter on bridges, which Kubernetes nodes have.
    for bridged in ["0", "1"] {
        cell.sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")).unwrap();
        for own in [host, gateway] {
            assert_eq!(seen(&web.netns, own, 61000), gateway, "itself");
            refused(&other.netns, own, 61000);
        }
        refused(&far.netns, vtep, 61000);
    }
    for (from, client) in [("other-guid", &other), ("k8s:lab/shop", &far)] {
        lab.weft(&["policies", "allow", "--from", from, "--to", "web-guid", "--port", "8080", "--wait"]).unwrap();
        let to = if client.ip == far.ip { vtep } else { host };
        for bridged in ["0", "1"] {
            cell.sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")).unwrap();
            assert_eq!(seen(&client.netns, to, 61000), client.ip, "as itself");
        }
    }
    refused(&lab.ctl(), web.ip, 8080);
    // Other ports of the cell stay closed to its apps.
    let _own = HttpServer::start(&cell.netns, 61005).unwrap();
    refused(&other.netns, host, 61005);
    lab.del("c1", &web).unwrap();
    refused(&lab.ctl(), host, 61000);
    assert_eq!(cell.sh("nft list map ip weft ports").unwrap().matches("61000").count(), 0);
}

#[test]
fn a_port_at_one_address_is_there_only() {
    let mut lab = lab("hostip");
    let host = lab.host("n1").address;
    let ports = json!([
        {"HostPort": 18080, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": host},
        {"HostPort": 18081, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": "127.0.0.1"},
        {"HostPort": 18082, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "0.0.0.0"},
        {"HostPort": 18081, "ContainerPort": 8053, "Protocol": "udp", "HostIP": "127.0.0.1"},
        {"HostPort": 18082, "ContainerPort": 8053, "Protocol": "udp", "HostIP": ""},
    ]);
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop").with("portMappings", ports)).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    let node = lab.host("n1");
    assert_eq!(seen(&lab.ctl(), host, 18080), CTL);
    refused(&node.netns, LOCALHOST, 18080);
    seen(&node.netns, LOCALHOST, 18081);
    refused(&lab.ctl(), host, 18081);
    for to in [host, LOCALHOST] {
        seen(&node.netns, to, 18082);
    }
    // Whoever stands beside the host may write any address into a packet.
    let mac = underlay_mac(node);
    let wire = Wire::open(&lab.ctl(), "eth0").unwrap();
    let inner = Wire::open(&web.netns, "eth0").unwrap();
    let frame = |from: Ipv4Addr, to: Ipv4Addr, port: u16, data: &[u8]| {
        let packet = Ip::udp(from, to).with(&udp(5000, port, data));
        ethernet(mac, Mac([2, 0, 0, 0, 0, 9]), kind::IPV4, &packet)
    };
    wire.send(&frame(CTL, LOCALHOST, 18081, EVIL)).unwrap();
    wire.send(&frame(CTL, host, 18082, b"a fence")).unwrap();
    let all = inner.seen_until(b"a fence", PATIENCE).expect("the outside may send to the port");
    assert!(!all.iter().any(|frame| contains(frame, EVIL)), "127.0.0.1 was reached from the network");
    let endpoints = node.endpoints().unwrap();
    let shown: Vec<String> = endpoints[0].capabilities.ports.iter().map(ToString::to_string).collect();
    let tcp = ["tcp *:18082->8080", "tcp 127.0.0.1:18081->8080", &format!("tcp {host}:18080->8080")];
    assert_eq!(shown[..3], tcp);
    assert_eq!(shown[3..], ["udp *:18082->8053", "udp 127.0.0.1:18081->8053"]);
}

/// What nobody but our rules may say: "through a mapped port".
#[test]
fn nobody_else_comes_in_by_the_mark() {
    let mut lab = lab("mark");
    let web = lab.add("c1", &app("web", "web-guid", 61000)).unwrap();
    let evil = lab.add("c1", &WorkloadOptions::app("evil", "evil-guid")).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    route_to(&lab, "c1");
    let cell = lab.host("c1");
    // Other software marks everything, at every place.
    cell.sh("nft add table ip other").unwrap();
    for (name, hook) in
        [("pre", "prerouting priority -150"), ("forwarded", "forward priority 0"), ("post", "postrouting priority 200")]
    {
        cell.sh(&format!("nft add chain ip other {name} {{ type filter hook {hook} ; }}")).unwrap();
        cell.sh(&format!("nft add rule ip other {name} meta mark set mark or 0x00001000")).unwrap();
    }
    refused(&lab.ctl(), web.ip, 8080);
    refused(&evil.netns, web.ip, 8080);
    refused(&evil.netns, cell.address, 61000);
    assert_eq!(seen(&lab.ctl(), cell.address, 61000), CTL);
    cell.sh("nft delete table ip other").unwrap();
    // Somebody else's translation to the same port is none of ours.
    cell.sh("nft add table ip other").unwrap();
    cell.sh("nft add chain ip other pre { type nat hook prerouting priority -100 ; }").unwrap();
    cell.sh(&format!("nft add rule ip other pre tcp dport 30080 dnat to {}:8080", web.ip)).unwrap();
    refused(&lab.ctl(), cell.address, 30080);
    // A packet from outside with a workload's address, which answers would be believed.
    let mac = underlay_mac(cell);
    let (wire, inner) = (Wire::open(&lab.ctl(), "eth0").unwrap(), Wire::open(&web.netns, "eth0").unwrap());
    let frame = |from: Ipv4Addr, data: &[u8]| {
        let packet = Ip::udp(from, cell.address).with(&udp(5000, 61001, data));
        ethernet(mac, Mac([2, 0, 0, 0, 0, 9]), kind::IPV4, &packet)
    };
    let subnet = cell.status().unwrap().subnet.unwrap();
    let gateways = [subnet.gateway(), subnet.vtep_ip()];
    for from in [evil.ip, web.ip, "10.255.254.9".parse().unwrap(), LOCALHOST].into_iter().chain(gateways) {
        wire.send(&frame(from, EVIL)).unwrap();
    }
    wire.send(&frame(CTL, b"a fence")).unwrap();
    let all = inner.seen_until(b"a fence", PATIENCE).expect("the outside may send to the port");
    assert!(!all.iter().any(|frame| contains(frame, EVIL)), "a forged packet came in by the port");
    // A workload asks for the host's loopback address: answers find back through the bridge, questions do not.
    let _loopback = HttpServer::start(&cell.netns, 9999).unwrap();
    refused(&evil.netns, LOCALHOST, 9999);
    let own = Wire::open(&evil.netns, "eth0").unwrap();
    let to_host = |to: Ipv4Addr| {
        let packet = Ip::udp(evil.ip, to).with(&udp(5000, 9999, EVIL));
        ethernet(subnet.gateway_mac(), Mac::for_workload(evil.ip), kind::IPV4, &packet)
    };
    let martian = || cell.status().unwrap().counters["martian"];
    let before = martian();
    own.send(&to_host(LOCALHOST)).unwrap();
    wait::until_true("the program to drop it", PATIENCE, || Ok(martian() > before)).unwrap();
}

#[test]
fn what_is_wrong_or_taken_is_said_by_name() {
    let mut lab = lab("taken");
    let web = lab.add("c1", &app("web", "web-guid", 61000)).unwrap();
    let (id, netns) = lab.container("c1", "late").unwrap();
    let cell = lab.host("c1");
    let ask = |ports: Value| {
        let options = WorkloadOptions::app("late", "late-guid").with("portMappings", ports);
        let output = add_call(cell, &options, &id, &netns).run(cell).unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let taken = ask(json!([{"host_port": 61000, "container_port": 80, "host_ip": "127.0.0.1"}]));
    let owner = &web.container_id;
    assert_eq!(
        taken["msg"],
        format!("portMappings: tcp 127.0.0.1:61000->80 is taken: {owner}/eth0 has tcp *:61000->8080")
    );
    let vxlan = ask(json!([{"hostPort": 8472, "containerPort": 80, "protocol": "udp"}]));
    assert!(vxlan["msg"].as_str().unwrap().ends_with("the overlay's VXLAN uses udp port 8472"), "{vxlan}");
    let field = "invalid runtimeConfig.portMappings[0]";
    for (ports, message) in [
        (
            json!([{"host_port": 0, "container_port": 80}]),
            format!("{field}.hostPort 0: must be a whole number from 1 to 65535"),
        ),
        (
            json!([{"host_port": 70000, "container_port": 80}]),
            format!("{field}.hostPort 70000: must be a whole number from 1 to 65535"),
        ),
        (json!([{"host_port": 80}]), format!("{field}.containerPort null: must be a whole number from 1 to 65535")),
        (
            json!([{"hostPort": 80, "containerPort": 80, "protocol": "sctp"}]),
            format!("{field}.protocol \"sctp\": must be tcp or udp"),
        ),
        (
            json!([{"hostPort": 80, "containerPort": 80, "hostIP": "::1"}]),
            format!("{field}.hostIP \"::1\": must be an IPv4 address of this host, or empty or 0.0.0.0 for all"),
        ),
        (json!(["80:80"]), format!("{field} \"80:80\": must be an object")),
    ] {
        let error = ask(ports);
        assert_eq!((&error["msg"], &error["code"]), (&json!(message), &json!(7)));
    }
    assert_eq!(cell.endpoints().unwrap().len(), 1, "something is left of a refused ADD");
    let good = ask(json!([{"host_port": 61007, "container_port": 80}, {"host_port": 61007, "container_port": 80}]));
    assert!(good["ips"].is_array(), "{good}");
}

#[test]
fn ports_outlive_the_agent_its_journal_and_what_is_done_by_hand() {
    let mut lab = lab("keep");
    let web = lab.add("c1", &app("web", "web-guid", 61000)).unwrap();
    let server = HttpServer::start(&web.netns, 8080).unwrap();
    let host = lab.host("c1").address;
    let ctl = lab.ctl();
    seen(&ctl, host, 61000);
    let as_made = rules(lab.host("c1")).unwrap();
    lab.host_mut("c1").kill_agent().unwrap();
    assert_eq!(seen(&ctl, host, 61000), CTL, "with the agent dead");
    for lost in [false, true] {
        if lost {
            lab.host_mut("c1").kill_agent().unwrap();
            std::fs::remove_file(lab.host("c1").run_file("journal.jsonl")).unwrap();
        }
        let cell = lab.host_mut("c1");
        cell.start_agent().unwrap();
        cell.wait_ready(PATIENCE).unwrap();
        let cell = lab.host("c1");
        assert_eq!(cell.endpoints().unwrap()[0].capabilities.ports.len(), 2, "journal lost: {lost}");
        for line in [
            "nft delete element ip weft ports { tcp . 61000 }",
            "nft flush set ip weft arrivals",
            "nft add element ip weft ports { tcp . 61009 : 10.255.254.9 . 1 }",
            "nft delete table ip weft",
            "sysctl -qw net.ipv4.conf.weft0.route_localnet=0",
        ] {
            let before = cell.status().unwrap().network.changes;
            cell.sh(line).unwrap();
            let healed = || {
                let now = rules(cell)?;
                anyhow::ensure!(now == as_made, "{now:?}");
                Ok(())
            };
            wait::until(&format!("{line} to be undone"), PATIENCE, healed).unwrap();
            wait::until_true("it to be counted", PATIENCE, || Ok(cell.status()?.network.changes > before)).unwrap();
            seen(&ctl, host, 61000);
        }
        seen(&cell.netns, LOCALHOST, 61000);
    }
    // The namespace dies, and nobody says DEL.
    drop(server);
    weft_lab::lab::remove_netns(&web).unwrap();
    let cell = lab.host("c1");
    let map = || cell.sh("nft list map ip weft ports").map(|text| !text.contains("61000"));
    wait::until_true("the port to be free", PATIENCE, map).unwrap();
}

/// The mapping goes before it, whoever was there first: somebody should know.
#[test]
fn a_process_of_the_host_at_a_mapped_port_is_an_alarm_until_it_ends() {
    let mut lab = lab("listens");
    let web = lab.add("c1", &app("web", "web-guid", 61000)).unwrap();
    let cell = lab.host("c1");
    let alarms = |about: &str| cell.status().unwrap().alarms.iter().filter(|alarm| alarm.contains(about)).count();
    let said = format!("leads to {}/eth0; a process of this host listens there too", web.container_id);
    let listeners = inside(&cell.netns, || {
        // Beside it: another protocol.
        let beside = TcpListener::bind((cell.address, 61001)).unwrap();
        (TcpListener::bind("[::]:61000").unwrap(), UdpSocket::bind((cell.address, 61001)).unwrap(), beside)
    })
    .unwrap();
    wait::until_true("an alarm", PATIENCE, || Ok(alarms(&said) == 1)).unwrap();
    for mapping in ["tcp *:61000->8080 leads", "udp *:61001->8053 leads"] {
        assert_eq!(alarms(mapping), 1, "{:?}", cell.status().unwrap().alarms);
    }
    assert_eq!(alarms("tcp *:61001"), 0);
    drop(listeners);
    wait::until_true("the alarm to end", PATIENCE, || Ok(alarms(&said) == 0)).unwrap();
}

/// What leads to workloads from outside, element by element: the kernel keeps no order.
fn rules(host: &Host) -> anyhow::Result<[BTreeSet<String>; 3]> {
    let parts = |line: &str| -> anyhow::Result<BTreeSet<String>> {
        Ok(host.sh(line)?.split(['{', '}', ',', '\n']).map(|part| part.trim().to_owned()).collect())
    };
    let ports = parts("nft list map ip weft ports")?;
    Ok([ports, parts("nft list set ip weft arrivals")?, parts("sysctl -n net.ipv4.conf.weft0.route_localnet")?])
}

/// A datagram server that answers with its name and the question.
fn answers(workload: &Workload, port: u16, name: &'static str) -> std::thread::JoinHandle<()> {
    let socket = inside(&workload.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..length];
            if question == b"end" || socket.send_to(&[name.as_bytes(), b" ", question].concat(), from).is_err() {
                return;
            }
        }
    })
}

/// A client that keeps its port, and so its place in the host's conntrack, meets whoever has the port now.
#[test]
fn a_udp_client_is_led_to_the_ports_owner_of_the_day() {
    let mut lab = lab("udp");
    let client = inside(&lab.ctl(), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000))).unwrap().unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let to = SocketAddr::from((lab.host("n1").address, 18053));
    let questions = Cell::new(0_u64);
    // Who answers this question, or one since `oldest`: answers may come after their question was given up.
    let ask = |oldest: u64| -> anyhow::Result<String> {
        questions.update(|number| number + 1);
        client.send_to(questions.get().to_string().as_bytes(), to)?;
        let mut buffer = [0; 100];
        loop {
            let (length, _) = client.recv_from(&mut buffer)?;
            let answer = std::str::from_utf8(&buffer[..length])?;
            let (name, question) = answer.split_once(' ').context("no answer of ours")?;
            if question.parse::<u64>()? >= oldest {
                return Ok(name.to_owned());
            }
        }
    };
    let ask_once = || ask(questions.get() + 1);
    // Nobody yet, but the host's conntrack knows the flow.
    assert!(ask_once().is_err());
    for name in ["first", "second"] {
        let ports = json!([{"HostPort": 18053, "ContainerPort": 53, "Protocol": "udp", "HostIP": ""}]);
        let options = WorkloadOptions::pod(name, "dns").with("portMappings", ports);
        let workload = lab.add("n1", &options).unwrap();
        let server = answers(&workload, 53, name);
        let oldest = questions.get() + 1;
        assert_eq!(wait::until(name, PATIENCE, || ask(oldest)).unwrap().0, name);
        let end = inside(&workload.netns, || UdpSocket::bind((LOCALHOST, 0))).unwrap().unwrap();
        end.send_to(b"end", (LOCALHOST, 53)).unwrap();
        server.join().unwrap();
        lab.del("n1", &workload).unwrap();
        assert!(ask_once().is_err(), "{name} is gone");
    }
}

/// What kube-proxy does for a service whose only backend is the client: another address, and masquerade.
#[test]
fn a_workload_reaches_itself_and_its_neighbours_through_a_service() {
    let mut lab = lab("service");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let other = lab.add("n1", &WorkloadOptions::pod("other", "else")).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    lab.weft(&["policies", "allow", "--from", "k8s:lab/nobody", "--to", "k8s:lab/shop", "--port", "1", "--wait"])
        .unwrap();
    let node = lab.host("n1");
    let (service, gateway) = (Ipv4Addr::new(198, 51, 100, 10), node.status().unwrap().subnet.unwrap().gateway());
    node.sh("nft add table ip services").unwrap();
    node.sh("nft add chain ip services pre { type nat hook prerouting priority -100 ; }").unwrap();
    node.sh("nft add chain ip services post { type nat hook postrouting priority 100 ; }").unwrap();
    node.sh(&format!("nft add rule ip services pre ip daddr {service} tcp dport 80 dnat to {}:8080", web.ip)).unwrap();
    node.sh(&format!("nft add rule ip services post ip saddr {0} ip daddr {0} masquerade", web.ip)).unwrap();
    for bridged in ["0", "1"] {
        node.sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")).unwrap();
        assert_eq!(seen(&web.netns, service, 80), gateway);
        refused(&other.netns, service, 80);
    }
    lab.weft(&["policies", "allow", "--from", "k8s:lab/else", "--to", "k8s:lab/shop", "--port", "8080", "--wait"])
        .unwrap();
    for bridged in ["0", "1"] {
        lab.host("n1").sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")).unwrap();
        assert_eq!(seen(&other.netns, service, 80), other.ip);
    }
}

#[test]
fn both_ends_are_as_asked_for() {
    let mut lab = lab("ends");
    let options = WorkloadOptions::pod("w", "shop")
        .with("mac", json!("02:00:00:00:00:2a"))
        .with("dns", json!({"Servers": ["192.0.2.53"], "Searches": ["shop.local"], "Options": ["ndots:2"]}));
    let w = lab.add("n1", &options).unwrap();
    let server = HttpServer::start(&w.netns, 8080).unwrap();
    seen(&lab.host("n1").netns, w.ip, server.port());
    let far = lab.add("n2", &WorkloadOptions::pod("far", "shop")).unwrap();
    assert_eq!(seen(&far.netns, w.ip, server.port()), far.ip);
    let node = lab.host("n1");
    let endpoint = node.endpoints().unwrap().remove(0);
    let result = &w.result;
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["shop.local"], "options": ["ndots:2"]}));
    let index = usize::try_from(result["ips"][0]["interface"].as_u64().unwrap()).unwrap();
    let names: Vec<&str> =
        result["interfaces"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
    assert_eq!((names.as_slice(), index), (["weft0", endpoint.host_ifname.as_str(), "eth0"].as_slice(), 2));
    assert_eq!(result["interfaces"][2]["sandbox"], w.netns.display().to_string());
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:2a");
    let inside = |line: &str| weft_lab::shell::sh_in(&w.netns, line).unwrap();
    let link = |text: String| serde_json::from_str::<Value>(&text).unwrap()[0].clone();
    let ends = [
        link(node.sh("ip -j link show weft0").unwrap()),
        link(node.sh(&format!("ip -j link show {}", endpoint.host_ifname)).unwrap()),
        link(inside("ip -j link show eth0")),
    ];
    for (end, told) in ends.iter().zip(result["interfaces"].as_array().unwrap()) {
        assert_eq!((&end["address"], &end["mtu"]), (&told["mac"], &told["mtu"]), "{end} {told}");
        assert_eq!(end["mtu"], 1450);
    }
    assert_eq!(ends[1]["ifindex"], endpoint.host_ifindex);
    assert_eq!(endpoint.mac.unwrap().to_string(), "02:00:00:00:00:2a");
    for (setting, value) in [("ipv6.conf.eth0.disable_ipv6", "1"), ("ipv6.conf.eth0.accept_ra", "0")] {
        assert_eq!(inside(&format!("sysctl -n net.{setting}")).trim(), value, "{setting}");
    }
    for (setting, value) in [
        ("ipv4.conf.weft0.send_redirects", "0"),
        ("ipv4.conf.weft0.rp_filter", "1"),
        ("ipv4.conf.weft0.route_localnet", "1"),
        ("ipv4.conf.eth0.route_localnet", "0"),
        ("ipv6.conf.weft0.disable_ipv6", "1"),
    ] {
        assert_eq!(node.sh(&format!("sysctl -n net.{setting}")).unwrap().trim(), value, "{setting}");
    }
    // By name, what cannot be had.
    let (id, netns) = lab.container("n1", "late").unwrap();
    let node = lab.host("n1");
    let ask = |change: &dyn Fn(&mut CniCall)| {
        let mut call = add_call(node, &WorkloadOptions::pod("late", "shop"), &id, &netns);
        change(&mut call);
        serde_json::from_slice::<Value>(&call.run(node).unwrap().stdout).unwrap()["msg"].as_str().unwrap().to_owned()
    };
    let taken = ask(&|call| call.args.push_str(";MAC=02:00:00:00:00:2a"));
    assert_eq!(taken, format!("mac 02:00:00:00:00:2a is taken: {}/eth0 has it", w.container_id));
    let multicast = ask(&|call| call.stdin["runtimeConfig"]["mac"] = json!("01:00:5e:00:00:01"));
    assert!(multicast.starts_with("invalid mac 01:00:5e:00:00:01: must be a unicast address"), "{multicast}");
    let text = ask(&|call| call.stdin["runtimeConfig"]["mac"] = json!("x"));
    assert_eq!(text, "invalid runtimeConfig.mac \"x\": must be six bytes in hexadecimal with ':' between");
}
