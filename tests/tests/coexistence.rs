//! Other software on the host: kube-proxy, firewalls, br_netfilter, routing rules, filters on the same veth. It works,
//! or weft says what is in the way.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use weft_lab::probe::{self, HttpServer};
use weft_lab::shell::{command_in, output};
use weft_lab::workload::{Workload, WorkloadOptions};
use weft_lab::{Lab, wait};
use weft_tests::{PATIENCE, lab, tcx};

/// Service addresses: of the backend on the client's host, and of the one on the other host.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 51);

fn get(netns: &Path, ip: Ipv4Addr, port: u16) -> io::Result<IpAddr> {
    probe::get(netns, SocketAddr::from((ip, port)), PATIENCE).map(|seen| seen.client)
}

/// What kube-proxy 1.36 writes in mode iptables for services without node ports, and its filter chains.
fn iptables(services: &[(Ipv4Addr, Ipv4Addr)]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for (number, (service, backend)) in services.iter().enumerate() {
        let (svc, sep) = (format!("KUBE-SVC-{number:016}"), format!("KUBE-SEP-{number:016}"));
        chains += &format!(":{svc} - [0:0]\n:{sep} - [0:0]\n");
        rules += &format!(
            "-A KUBE-SERVICES -d {service}/32 -p tcp -m comment --comment \"shop/web:http cluster IP\" -m tcp --dport 80 -j {svc}\n\
             -A {svc} ! -s 10.255.0.0/16 -d {service}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
             -A {svc} -m comment --comment \"shop/web:http -> {backend}:8080\" -j {sep}\n\
             -A {sep} -s {backend}/32 -j KUBE-MARK-MASQ\n\
             -A {sep} -p tcp -m tcp -j DNAT --to-destination {backend}:8080\n"
        );
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n{rules}COMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-FIREWALL - [0:0]\n\
         -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A KUBE-FIREWALL -m comment --comment \"kubernetes firewall for dropping marked packets\" -m mark --mark 0x8000/0x8000 -j DROP\n\
         COMMIT\n"
    )
}

/// The same in mode nftables.
fn nftables(services: &[(Ipv4Addr, Ipv4Addr)]) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    for (number, (service, backend)) in services.iter().enumerate() {
        elements.push(format!("{service} . tcp . 80 : goto service-{number}"));
        chains += &format!(
            "chain endpoint-{number} {{ ip saddr {backend} jump mark-for-masquerade\n meta l4proto tcp dnat to {backend}:8080\n }}\n\
             chain service-{number} {{ ip daddr {service} tcp dport 80 ip saddr != 10.255.0.0/16 jump mark-for-masquerade\n\
             numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}\n }}\n"
        );
    }
    format!(
        "table ip kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000\n }}\n{chains}\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n elements = {{ {} }}\n }}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips\n }}\n\
         chain masquerading {{ meta mark and 0x4000 == 0 return\n meta mark set meta mark xor 0x4000\n masquerade fully-random\n }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services\n }}\n\
         chain nat-output {{ type nat hook output priority -100; policy accept; jump services\n }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading\n }}\n}}\n",
        elements.join(", ")
    )
}

struct Shop {
    client: Workload,
    stranger: Workload,
    near: Workload,
    far: Workload,
    _servers: [HttpServer; 2],
}

/// A namespace whose tag has both bits of kube-proxy's marks: outside the tunnel they would meet its rules.
fn marked_namespace(lab: &Lab) -> String {
    let has_both = |group: &str| {
        let (_, answer) = lab.rest("GET", "/networking/v1/external/tags", None).unwrap();
        let tags: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let tag = tags["tags"].as_array().unwrap().iter().find(|tag| tag["id"] == group).expect("a tag");
        u16::from_str_radix(tag["tag"].as_str().unwrap(), 16).unwrap() & 0xc000 == 0xc000
    };
    let mut namespaces = (0..).map(|number| format!("front{number}"));
    let marked = namespaces.find(|namespace| {
        let group = format!("k8s:lab/{namespace}");
        lab.allow(&group, "k8s:lab/shop", "tcp", 8080).unwrap();
        has_both(&group)
    });
    marked.unwrap()
}

/// Two backends of one group, a client that may reach them, a stranger that may not.
fn shop(lab: &mut Lab) -> Shop {
    let front = marked_namespace(lab);
    let mut add =
        |host: &str, name: &str, namespace: &str| lab.add(host, &WorkloadOptions::pod(name, namespace)).unwrap();
    let (near, far) = (add("n1", "near", "shop"), add("n2", "far", "shop"));
    let (client, stranger) = (add("n1", "client", &front), add("n1", "stranger", "elsewhere"));
    let from = format!("k8s:lab/{front}");
    let words = ["policies", "allow", "--from", &from, "--to", "k8s:lab/shop", "--port", "8080", "--wait"];
    lab.weft(&words).unwrap();
    let servers = [&near, &far].map(|backend| HttpServer::start(&backend.netns, 8080).unwrap());
    Shop { client, stranger, near, far, _servers: servers }
}

impl Shop {
    fn check_services(&self, lab: &Lab, how: &str) {
        for service in [NEAR, FAR] {
            let seen = get(&self.client.netns, service, 80).unwrap_or_else(|e| panic!("{how}: {service}: {e}"));
            assert_eq!(seen, IpAddr::from(self.client.ip), "{how}: {service} sees who asks");
            let refused = get(&self.stranger.netns, service, 80);
            assert!(refused.is_err(), "{how}: a service is no way around policy: {refused:?}");
            // The host's own processes; towards the other host masqueraded, with kube-proxy's mark.
            get(&lab.host("n1").netns, service, 80).unwrap_or_else(|e| panic!("{how}: from the host: {service}: {e}"));
        }
        get(&self.near.netns, NEAR, 80).unwrap_or_else(|e| panic!("{how}: a backend's own service: {e}"));
        get(&self.client.netns, self.far.ip, 8080).unwrap_or_else(|e| panic!("{how}: directly: {e}"));
    }
}

#[test]
fn services_of_kube_proxy_work_with_policy_and_with_br_netfilter_on_and_off() {
    let mut lab = lab("services");
    let shop = shop(&mut lab);
    let services = [(NEAR, shop.near.ip), (FAR, shop.far.ip)];
    let host = lab.host("n1");
    let file = lab.folder.join("kube-proxy.rules");
    let (add, del) = ("iptables-nft-restore --noflush", ["nft delete table ip nat", "nft delete table ip filter"]);
    let modes = [
        ("iptables", iptables(&services), add, &del[..]),
        ("nftables", nftables(&services), "nft -f", &["nft delete table ip kube-proxy"][..]),
    ];
    for (mode, rules, add, del) in modes {
        std::fs::write(&file, rules).unwrap();
        host.sh(&format!("{add} {}", file.display())).unwrap();
        // With 1, kubeadm's habit, what is translated is bridged from port to port, or back to the same.
        for bridged in [1, 0] {
            host.sh(&format!("sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")).unwrap();
            shop.check_services(&lab, &format!("{mode}, bridge-nf-call-iptables {bridged}"));
        }
        for line in del {
            host.sh(line).unwrap();
        }
    }
}

/// Something changes, and the agent looks around; else it does so every ten seconds.
fn nudge(lab: &Lab) {
    for what in ["add", "del"] {
        lab.host("n1").sh(&format!("ip addr {what} 198.51.100.77/32 dev lo")).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
}

/// Waits until an alarm says so, or none does; the alarms then.
fn alarm(lab: &Lab, text: &str, wanted: bool) -> String {
    let told = || {
        nudge(lab);
        let alarms = lab.host("n1").status()?.alarms.join("\n");
        anyhow::ensure!(alarms.contains(text) == wanted, "alarms: {alarms}");
        Ok(alarms)
    };
    let (alarms, _) = wait::until(&format!("alarm {text:?}: {wanted}"), PATIENCE * 3, told).unwrap();
    alarms
}

#[test]
fn firewalls_that_drop_forwarded_packets_get_an_exception_or_are_named() {
    let mut lab = lab("firewall");
    let shop = shop(&mut lab);
    // What a firewall drops must not be waited for long: the agent looks around meanwhile.
    let reach = |ip| probe::get(&shop.client.netns, SocketAddr::from((ip, 8080)), Duration::from_secs(2));
    let flows = |why: &str| {
        for ip in [shop.near.ip, shop.far.ip] {
            let reached = || reach(ip).inspect_err(|_| nudge(&lab));
            wait::until(why, PATIENCE * 3, reached).unwrap();
        }
    };
    flows("before");
    let host = lab.host("n1");
    // What Docker does, by the new interface and by the old one, whose lock all hosts of this machine share.
    for tool in ["iptables-nft -w", "iptables-legacy -w"] {
        host.sh(&format!("{tool} -P FORWARD DROP")).unwrap();
        flows(tool);
        assert!(host.sh(&format!("{tool} -S FORWARD")).unwrap().contains("-P FORWARD DROP"), "theirs is untouched");
        assert!(get(&shop.stranger.netns, shop.near.ip, 8080).is_err(), "an exception is no policy");
        // Somebody writes the chain anew.
        host.sh(&format!("{tool} -F FORWARD")).unwrap();
        flows(tool);
        host.sh(&format!("{tool} -F FORWARD")).unwrap();
        host.sh(&format!("{tool} -P FORWARD ACCEPT")).unwrap();
    }
    // A firewall in a table of its own: not ours to change.
    host.sh("nft add table inet filter").unwrap();
    host.sh("nft add chain inet filter forward { type filter hook forward priority 10 ; policy drop ; }").unwrap();
    let before = host.sh("nft list table inet filter").unwrap();
    let told = alarm(&lab, "table inet filter", true);
    assert!(told.contains("weft0"), "{told}");
    assert!(reach(shop.near.ip).is_err(), "dropped as they say");
    assert_eq!(host.sh("nft list table inet filter").unwrap(), before, "theirs is untouched");
    // What the alarm says to do.
    for side in ["iifname", "oifname"] {
        host.sh(&format!("nft insert rule inet filter forward {side} weft0 accept")).unwrap();
    }
    flows("after the advice");
    alarm(&lab, "table inet filter", false);
}

/// What the real one writes. It refuses what is forwarded, and VXLAN that comes in: of that no connection is known.
#[test]
fn firewalld_is_named_and_its_own_commands_let_workloads_through() {
    const INSTALLED: &str = include_str!("../data/firewalld/installed.nft");
    const ADVISED: &str = include_str!("../data/firewalld/advised.nft");
    const PORT: &str = "udp dport 8472 accept\n";
    let mut lab = lab("firewalld");
    let shop = shop(&mut lab);
    let load = |rules: &str| {
        let file = lab.folder.join("firewalld.nft");
        std::fs::write(&file, format!("table inet firewalld\ndelete table inet firewalld\n{rules}")).unwrap();
        lab.host("n1").sh(&format!("nft -f {}", file.display())).unwrap();
    };
    let reach = |ip| probe::get(&shop.client.netns, SocketAddr::from((ip, 8080)), Duration::from_secs(2));
    let flows = |ip| wait::until("an answer", PATIENCE, || reach(ip)).unwrap();
    flows(shop.near.ip);
    flows(shop.far.ip);
    load(INSTALLED);
    let told = alarm(&lab, "firewall-cmd", true);
    for word in ["--zone=trusted --add-interface=weft0 --add-interface=weft-vx1;", "--add-port=8472/udp;", "--reload"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(doctor(&lab).contains("firewall-cmd"));
    assert!(reach(shop.near.ip).is_err() && reach(shop.far.ip).is_err(), "refused as they say");
    // Each part of the advice is needed.
    assert!(ADVISED.contains(PORT));
    load(&ADVISED.replace(PORT, ""));
    flows(shop.near.ip);
    assert!(reach(shop.far.ip).is_err(), "VXLAN is let in without its port");
    load(ADVISED);
    alarm(&lab, "firewall-cmd", false);
    flows(shop.near.ip);
    flows(shop.far.ip);
    // The other host's workload calls.
    get(&shop.far.netns, shop.near.ip, 8080).unwrap_err();
    lab.weft(&["policies", "allow", "--from", "k8s:lab/shop", "--to", "k8s:lab/shop", "--port", "8080", "--wait"])
        .unwrap();
    get(&shop.far.netns, shop.near.ip, 8080).unwrap();
    assert!(get(&shop.stranger.netns, shop.near.ip, 8080).is_err(), "an exception is no policy");
}

#[test]
fn routing_rules_that_use_our_bits_are_named() {
    let lab = lab("rules");
    let host = lab.host("n1");
    host.sh("ip rule add fwmark 0x4000/0x8000 lookup 100").unwrap();
    host.sh("ip rule add fwmark 0x30000/0x30000 priority 777 lookup 100").unwrap();
    let told = alarm(&lab, "fwmark 0x30000/0x30000", true);
    assert!(told.contains("`ip rule` 777") && told.contains("--mark-shift"), "{told}");
    let found = doctor(&lab);
    assert!(found.lines().any(|line| line.starts_with("WRONG") && line.contains("fwmark 0x30000/0x30000")), "{found}");
    host.sh("ip rule del fwmark 0x30000/0x30000").unwrap();
    alarm(&lab, "fwmark 0x30000", false);
    let found = doctor(&lab);
    assert!(!found.contains("fwmark 0x30000"), "{found}");
}

/// What `weft doctor` says; its exit status has to agree.
fn doctor(lab: &Lab) -> String {
    let mut weft = std::process::Command::new(weft_lab::shell::binary("weft").unwrap());
    let output = weft.env("WEFT_SOCKET", lab.host("n1").socket()).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(if text.contains("WRONG") { 3 } else { 0 }), "{text}");
    text
}

#[test]
fn tcx_programs_of_others_on_a_veth_are_named_and_policy_holds_behind_one_that_passes_on() {
    let mut lab = lab("tcx");
    let shop = shop(&mut lab);
    let endpoints = lab.host("n1").endpoints().unwrap();
    let link = &endpoints.iter().find(|endpoint| endpoint.address == shop.near.ip).unwrap().host_ifname;
    let theirs = probe::inside(&lab.host("n1").netns, || tcx::attach(link.as_str())).unwrap().unwrap();
    let told = alarm(&lab, "TCX programs of others", true);
    assert!(told.contains(&format!("{link} (theirs)")), "{told}");
    assert!(doctor(&lab).contains("(theirs)"));
    get(&shop.client.netns, shop.near.ip, 8080).unwrap();
    assert!(get(&shop.stranger.netns, shop.near.ip, 8080).is_err(), "denied");
    drop(theirs);
    alarm(&lab, "TCX programs of others", false);
}

#[test]
fn filters_and_qdiscs_of_others_on_a_veth_stay_and_ours_stays_first() {
    let mut lab = lab("filters");
    let shop = shop(&mut lab);
    let endpoints = lab.host("n1").endpoints().unwrap();
    let link = &endpoints.iter().find(|endpoint| endpoint.address == shop.near.ip).unwrap().host_ifname;
    let host = lab.host("n1");
    host.sh(&format!("tc qdisc add dev {link} root tbf rate 1gbit burst 1mb latency 50ms")).unwrap();
    for side in ["ingress", "egress"] {
        let mut tc = command_in(&host.netns, Path::new("tc"));
        tc.args(["filter", "add", "dev", link, side, "pref", "5", "bpf", "bytecode", "1,6 0 0 4294967295"]);
        output(&mut tc).unwrap();
    }
    let theirs = || {
        let shown = |side| lab.host("n1").sh(&format!("tc filter show dev {link} {side}")).unwrap();
        let lines: Vec<String> =
            [shown("ingress"), shown("egress")].iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        let (ours, theirs): (Vec<String>, _) = lines.into_iter().partition(|line| line.contains(" pref 1 "));
        assert!(ours.iter().any(|line| line.contains("weft_")), "{ours:?}");
        theirs
    };
    let before = theirs();
    assert!(before.iter().any(|line| line.contains(" pref 5 ")), "{before:?}");
    let check = || {
        get(&shop.client.netns, shop.near.ip, 8080).unwrap();
        assert!(get(&shop.stranger.netns, shop.near.ip, 8080).is_err(), "denied");
    };
    check();
    // Ours go and come back, and another version's come: theirs see nothing of it.
    host.sh(&format!("tc filter del dev {link} egress pref 1")).unwrap();
    let back = || Ok(lab.host("n1").sh(&format!("tc filter show dev {link} egress"))?.contains("weft_to_workload"));
    wait::until_true("ours to be back", PATIENCE, back).unwrap();
    assert_eq!(theirs(), before);
    check();
    assert!(host.sh(&format!("tc qdisc show dev {link}")).unwrap().contains("tbf"));
}
