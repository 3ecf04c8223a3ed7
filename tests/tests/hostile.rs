//! A tenant with root and all capabilities in its network namespace, who makes every frame by hand:
//! nobody takes it for somebody else, and it reaches nothing that no policy lets it reach.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;
use weft_lab::probe::{self, HttpServer};
use weft_lab::shell::sh_in;
use weft_lab::underlay::{add_netns, plug};
use weft_lab::wait::until;
use weft_model::mac::Mac;
use weft_tests::PATIENCE;
use weft_tests::frames::{Ip, MORE, Wire, arp, ethernet, icmp, kind, tcp, udp, vxlan};
use weft_tests::hostile::{Cast, EVIL, FRIEND_PORT, Station, cast};

const VXLAN_PORT: u16 = 8472;

/// An evil datagram for the friend's port, as if it came from an address.
fn as_from(from: Ipv4Addr, victim: &Station) -> Vec<u8> {
    Ip::udp(from, victim.ip).with(&udp(5000, FRIEND_PORT, EVIL))
}

fn socket(netns: &Path, port: u16) -> UdpSocket {
    let bound = probe::inside(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let socket = bound.expect("a namespace").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    socket
}

#[test]
fn a_forged_sender_reaches_nobody() {
    let Cast { attacker, friend, victims, lab: _lab } = cast("forged");
    let (ip, mac, gateway) = (attacker.ip, attacker.mac, attacker.gateway.0);
    for victim in &victims {
        let own = as_from(ip, victim);
        attacker.attacks("its own address", victim, &[attacker.frame(&own)]);
        // The tag tells who opens a flow; an answer has only its address.
        victim.wire.send(&victim.datagram(friend.ip, 6000, 7000, b"question")).unwrap();
        friend.wire.seen_until(b"question", PATIENCE).expect("the victim may ask");
        let answer = Ip::udp(friend.ip, victim.ip).with(&udp(7000, 6000, EVIL));
        let answers = [attacker.mac, friend.mac].map(|mac| ethernet(gateway, mac, kind::IPV4, &answer));
        attacker.attacks("a forged answer", victim, &answers);
        for from in [friend.ip, victim.ip, victim.vtep, victim.gateway.1, attacker.gateway.1, attacker.vtep] {
            let forged = as_from(from, victim);
            let frames = [
                attacker.frame(&forged),
                ethernet(gateway, friend.mac, kind::IPV4, &forged),
                ethernet(victim.mac, mac, kind::IPV4, &forged),
                ethernet(victim.mac, friend.mac, kind::IPV4, &forged),
                ethernet(Mac([0xff; 6]), mac, kind::IPV4, &forged),
            ];
            attacker.attacks(&format!("a packet of {from}"), victim, &frames);
        }
        let stolen_mac = ethernet(gateway, friend.mac, kind::IPV4, &own);
        let past_the_gateway = ethernet(victim.mac, mac, kind::IPV4, &own);
        attacker.attacks("a stolen MAC or a short cut", victim, &[stolen_mac, past_the_gateway]);
    }
}

#[test]
fn what_is_wrapped_reaches_nobody() {
    let Cast { attacker, friend, victims, lab } = cast("wrapped");
    let to_gateway = |kind, payload: &[u8]| ethernet(attacker.gateway.0, attacker.mac, kind, payload);
    for victim in &victims {
        let (own, forged) = (as_from(attacker.ip, victim), as_from(friend.ip, victim));
        let tagged = |vid: u8, packet: &[u8]| to_gateway(kind::VLAN, &[&[0, vid, 8, 0], packet].concat());
        let vlans = [tagged(0, &own), tagged(1, &own), tagged(0, &forged), tagged(7, &forged)];
        attacker.attacks("a VLAN", victim, &vlans);
        attacker.attacks("IPv4 called IPv6", victim, &[to_gateway(kind::IPV6, &own)]);
        for proto in [4, 41, 47, 50, 94, 132, 136, 255] {
            let wrapped = |to| attacker.frame(&Ip { proto, ..Ip::udp(attacker.ip, to) }.with(&forged));
            let frames = [wrapped(victim.ip), wrapped(attacker.gateway.1), wrapped(victim.gateway.1)];
            attacker.attacks(&format!("protocol {proto}"), victim, &frames);
        }
        let [a, b, c, d] = victim.ip.octets();
        let source_routes = [131, 137].map(|option| vec![option, 7, 4, a, b, c, d, 0]);
        for options in source_routes.into_iter().chain([vec![148, 4, 0, 0], vec![1; 40]]) {
            let packet = |to| Ip { options: options.clone(), ..Ip::udp(attacker.ip, to) };
            let evil = udp(5000, FRIEND_PORT, EVIL);
            let frames = [victim.ip, attacker.gateway.1].map(|to| attacker.frame(&packet(to).with(&evil)));
            attacker.attacks(&format!("option {}", options[0]), victim, &frames);
        }
        // The tag is right, so that only the tunnel's doors keep it out.
        let tag = lab.host("n1").endpoints().unwrap().into_iter().find(|view| view.address == friend.ip).unwrap().tag;
        let to_vtep = |packet: &[u8]| {
            ethernet(Mac::for_workload(victim.vtep), Mac::for_workload(attacker.vtep), kind::IPV4, packet)
        };
        let tunnel = vxlan(tag.map(|tag| tag.get()), &to_vtep(&forged));
        let hosts = lab.hosts().iter().map(|host| host.address);
        for to in hosts.chain([attacker.gateway.1, attacker.vtep, victim.gateway.1, victim.vtep, victim.ip]) {
            let whole = udp(5000, VXLAN_PORT, &tunnel);
            let part = |range: std::ops::Range<usize>, fragment: u16| {
                attacker.frame(&Ip { id: 77, fragment, ..Ip::udp(attacker.ip, to) }.with(&whole[range]))
            };
            let end = whole.len();
            let frames = [part(0..end, 0), part(0..8, MORE), part(8..end, 1), part(16..end, 2), part(0..16, MORE)];
            attacker.attacks(&format!("VXLAN to {to}"), victim, &frames);
        }
    }
}

#[test]
fn fragments_carry_nothing_past_the_judgement() {
    let Cast { attacker, victims, lab: _lab, .. } = cast("pieces");
    for victim in &victims {
        let denied = udp(5000, FRIEND_PORT, &[EVIL, &[b'.'; 64]].concat());
        let harmless = udp(5000, 9, &[b'.'; 80]);
        let allowed_elsewhere = icmp(8, 0, [0, 1, 0, 1], &[b'.'; 80]);
        let piece = |id: u16, proto, fragment, bytes: &[u8]| {
            attacker.frame(&Ip { id, fragment, proto, ..Ip::udp(attacker.ip, victim.ip) }.with(bytes))
        };
        let (head, tail) = denied.split_at(32);
        // Too long for one frame: a host that puts pieces together cuts them again.
        let long = udp(5000, FRIEND_PORT, &[&[b'.'; 1392][..], EVIL, &[b'.'; 200]].concat());
        let cases: [(&str, Vec<Vec<u8>>); 7] = [
            ("long pieces", vec![piece(7, 17, MORE, &long[..1400]), piece(7, 17, 175, &long[1400..])]),
            ("in order", vec![piece(1, 17, MORE, head), piece(1, 17, 4, tail)]),
            ("the last first", vec![piece(2, 17, 4, tail), piece(2, 17, MORE, head)]),
            ("ports only in the first", vec![piece(3, 17, MORE, &denied[..8]), piece(3, 17, 1, &denied[8..])]),
            ("half the ports in the first", vec![piece(4, 17, MORE, &denied[..4]), piece(4, 17, 1, &denied[8..])]),
            (
                "another first laid over it",
                vec![piece(5, 17, MORE, &harmless[..32]), piece(5, 17, MORE, head), piece(5, 17, 4, tail)],
            ),
            (
                "behind another protocol's first",
                vec![piece(6, 1, MORE, &allowed_elsewhere[..32]), piece(6, 17, 4, tail), piece(6, 17, 1, &denied[8..])],
            ),
        ];
        for (what, frames) in cases {
            attacker.attacks(what, victim, &frames);
        }
    }
}

/// Connection requests, answers nobody asked for, resets, errors.
#[test]
fn nothing_unasked_for_gets_in() {
    let Cast { attacker, victims, lab: _lab, .. } = cast("unasked");
    for victim in &victims {
        let packet = |proto, bytes: &[u8]| attacker.frame(&Ip { proto, ..Ip::udp(attacker.ip, victim.ip) }.with(bytes));
        for flags in [0x02, 0x12, 0x10, 0x04, 0x14, 0x01, 0x00, 0x29, 0x03, 0x06, 0x3f, 0xc2] {
            attacker.attacks(&format!("TCP flags {flags:#x}"), victim, &[packet(6, &tcp(5000, 8080, flags, EVIL))]);
        }
        for kind in [0, 3, 4, 5, 8, 9, 11, 12, 13, 15, 17, 42] {
            let quote = Ip::udp(victim.ip, attacker.ip).with(&udp(1, 2, EVIL));
            let frames = [EVIL, &quote].map(|data| packet(1, &icmp(kind, 0, [0, 5, 0, 1], data)));
            attacker.attacks(&format!("ICMP {kind}"), victim, &frames);
        }
    }
}

/// A victim that talks to the attacker opens exactly the way back.
#[test]
fn what_a_victim_opens_leads_back_and_nowhere_else() {
    let Cast { attacker, victims, lab: _lab, .. } = cast("opened");
    for victim in &victims {
        let echo = |from: Ipv4Addr, to, kind, id, data: &[u8]| {
            Ip { proto: 1, ..Ip::udp(from, to) }.with(&icmp(kind, 0, [0, id, 0, 1], data))
        };
        let asked = victim.datagram(attacker.ip, 3333, 4444, b"question");
        let syn = Ip { proto: 6, ..Ip::udp(victim.ip, attacker.ip) }.with(&tcp(3333, 5555, 2, b"syn"));
        for frame in [asked, victim.frame(&syn), victim.frame(&echo(victim.ip, attacker.ip, 8, 77, b"ping"))] {
            victim.wire.send(&frame).unwrap();
        }
        attacker.wire.seen_until(b"question", PATIENCE).expect("the victim may ask");
        let to = |proto, bytes: &[u8]| attacker.frame(&Ip { proto, ..Ip::udp(attacker.ip, victim.ip) }.with(bytes));
        let cases = [
            ("another port of the victim", to(17, &udp(4444, 3334, EVIL))),
            ("another port of the attacker", to(17, &udp(4445, 3333, EVIL))),
            ("UDP for TCP's question", to(17, &udp(5555, 3333, EVIL))),
            ("a request on the victim's own connection", to(6, &tcp(5555, 3333, 2, EVIL))),
            (
                "an echo request with the victim's identifier",
                attacker.frame(&echo(attacker.ip, victim.ip, 8, 77, EVIL)),
            ),
            ("an echo reply with another", attacker.frame(&echo(attacker.ip, victim.ip, 0, 78, EVIL))),
        ];
        for (what, frame) in cases {
            attacker.attacks(what, victim, &[frame]);
        }
        attacker.wire.send(&to(17, &udp(4444, 3333, b"answer"))).unwrap();
        victim.wire.seen_until(b"answer", PATIENCE).expect("the answer");
    }
}

/// The programs do not know TCP's windows: a reset that reached a flow's veth would count whatever its numbers.
/// Whoever knows both ends' addresses and ports still gets none there.
#[test]
fn nobody_else_ends_a_flow() {
    let Cast { attacker, friend, victims, lab } = cast("resets");
    let server = HttpServer::start(&friend.workload.netns, 8080).expect("a server");
    for victim in &victims {
        let mut stream =
            probe::connects(&victim.workload.netns, (friend.ip, server.port()).into(), PATIENCE).expect("a connection");
        let port = stream.local_addr().expect("an address").port();
        let spoofed = || lab.host("n1").status().expect("a status").counters["spoofed-ip"];
        let before = spoofed();
        let mut frames = Vec::new();
        for flags in [0x04, 0x14, 0x11] {
            let in_name = |from, to, ports: (u16, u16)| {
                Ip { proto: 6, ..Ip::udp(from, to) }.with(&tcp(ports.0, ports.1, flags, EVIL))
            };
            frames.push(attacker.frame(&in_name(friend.ip, victim.ip, (server.port(), port))));
            frames.push(attacker.frame(&in_name(victim.ip, friend.ip, (port, server.port()))));
        }
        attacker.attacks("a reset in a flow's name", victim, &frames);
        assert_eq!(spoofed() - before, frames.len() as u64);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("the flow goes on");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1."), "{answer}");
    }
}

#[test]
fn arp_moves_nobody() {
    let Cast { attacker, friend, victims: [near, ..], lab } = cast("arp");
    let tables = || sh_in(&lab.host("n1").netns, "ip neigh show dev weft0").unwrap();
    let before = tables();
    for operation in [1, 2] {
        let unused = Ipv4Addr::from(u32::from(near.ip) + 50);
        let claims = [(attacker.mac, near.ip), (near.mac, near.ip), (attacker.mac, attacker.gateway.1)];
        for (mac, ip) in claims.into_iter().chain([(attacker.mac, unused)]) {
            for (to, target) in [
                (Mac([0xff; 6]), attacker.gateway),
                (attacker.gateway.0, attacker.gateway),
                (friend.mac, (friend.mac, friend.ip)),
            ] {
                let lie = [arp(operation, (mac, ip), target), EVIL.to_vec()].concat();
                let frames = [attacker.mac, mac].map(|from| ethernet(to, from, kind::ARP, &lie));
                attacker.attacks("ARP", &near, &frames);
            }
        }
    }
    assert_eq!(tables(), before);
    friend.wire.send(&friend.datagram(near.ip, 1, FRIEND_PORT, b"still here")).unwrap();
    near.wire.seen_until(b"still here", PATIENCE).expect("the friend is not cut off");
}

/// Somebody on the hosts' own network who is no peer: tunnels with tags, and plain packets that claim
/// to come from the overlay.
#[test]
fn the_underlay_is_no_side_door() {
    let Cast { attacker, friend, victims: [_, far, _], lab } = cast("rogue");
    add_netns(&lab.name, "rogue").unwrap();
    let address = Ipv4Addr::new(192, 0, 2, 200);
    plug(&lab.name, "rogue", address).unwrap();
    let netns = weft_lab::underlay::netns(&lab.name, "rogue");
    let host = lab.host("n2");
    let mac = |netns: &Path| -> Mac {
        let line = sh_in(netns, "ip -brief link show eth0").unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    let wire = Wire::open(&netns, "eth0").unwrap();
    let frame = |packet: &[u8]| ethernet(mac(&host.netns), mac(&netns), kind::IPV4, packet);
    // What the victim asks the friend, so that a forged answer would be taken.
    far.wire.send(&far.datagram(friend.ip, 6000, 7000, b"question")).unwrap();
    friend.wire.seen_until(b"question", PATIENCE).expect("the victim may ask");
    let tag = lab.host("n1").endpoints().unwrap().into_iter().find(|view| view.address == friend.ip).unwrap().tag;
    let inner =
        ethernet(Mac::for_workload(far.vtep), Mac::for_workload(friend.vtep), kind::IPV4, &as_from(friend.ip, &far));
    let tunnel = |tag| Ip::udp(address, host.address).with(&udp(5000, VXLAN_PORT, &vxlan(tag, &inner)));
    let answer = Ip::udp(friend.ip, far.ip).with(&udp(7000, 6000, EVIL));
    let plain = [friend.ip, friend.vtep, friend.gateway.1].map(|from| as_from(from, &far));
    let packets = plain.into_iter().chain([tunnel(None), tunnel(tag.map(|tag| tag.get())), answer]);
    let listener = socket(&host.netns, 5353);
    listener.set_nonblocking(true).unwrap();
    let arrives = |word: &[u8]| {
        let (found, mut buffer) = (frame(&Ip::udp(address, host.address).with(&udp(1, 5353, word))), [0; 100]);
        until("the rogue's plain datagram to arrive at the host", PATIENCE, || {
            wire.send(&found)?;
            let length = listener.recv(&mut buffer)?;
            anyhow::ensure!(&buffer[..length] == word, "an earlier one");
            anyhow::Ok(())
        })
        .unwrap();
    };
    // A port of the switch forwards nothing at first.
    arrives(b"plugged in");
    for packet in packets {
        wire.send(&frame(&packet)).unwrap();
    }
    arrives(b"done");
    attacker.reaches_only_the_fence("what came from the underlay", &far);
    // Somebody who is no peer, and whom no subnet belongs to: dropped and counted.
    let counted = |reason: &str| host.status().unwrap().counters[reason];
    assert!(counted("inner-source") >= 2, "both tunnels");
    let nobodys = ethernet(
        Mac::for_workload(far.vtep),
        Mac::for_workload(friend.vtep),
        kind::IPV4,
        &as_from(Ipv4Addr::new(198, 51, 100, 1), &far),
    );
    let before = counted("not-a-peer");
    wire.send(&frame(&Ip::udp(address, host.address).with(&udp(5000, VXLAN_PORT, &vxlan(None, &nobodys))))).unwrap();
    weft_lab::wait::until_true("what is nobody's to be counted", PATIENCE, || Ok(counted("not-a-peer") > before))
        .unwrap();
    attacker.reaches_only_the_fence("what is nobody's", &far);
}

/// A service whose backend is a host's VXLAN port: the programs see the service's address, the host
/// that of the port.
#[test]
fn a_service_does_not_lead_into_the_tunnel() {
    let Cast { attacker, friend, victims, lab } = cast("service");
    let tag = lab.host("n1").endpoints().unwrap().into_iter().find(|view| view.address == friend.ip).unwrap().tag;
    let host = lab.host("n1");
    host.sh("nft add table ip services").unwrap();
    host.sh("nft add chain ip services pre { type nat hook prerouting priority -100 ; }").unwrap();
    for (victim, host_of_victim) in victims.iter().zip(["n1", "n2", "c1"]) {
        let backend = lab.host(host_of_victim).address;
        let service = Ipv4Addr::new(10, 96, 0, backend.octets()[3]);
        let rule =
            format!("nft add rule ip services pre ip daddr {service} udp dport 53 dnat to {backend}:{VXLAN_PORT}");
        host.sh(&rule).unwrap();
        // Beside the attacker: from a peer's subnet, as only a tunnel could bring it.
        let from = if host_of_victim == "n1" { Ipv4Addr::from(u32::from(victims[1].ip) + 1) } else { friend.ip };
        let inner = ethernet(Mac::for_workload(victim.vtep), attacker.mac, kind::IPV4, &as_from(from, victim));
        let tunnel = vxlan(tag.map(|tag| tag.get()), &inner);
        attacker.attacks("a tunnel by a service", victim, &[attacker.datagram(service, 5000, 53, &tunnel)]);
    }
}

/// By no address and no protocol; what is listed is open, and shows that the way is there.
#[test]
fn a_cell_is_closed_by_whatever_address() {
    let mut lab = weft_tests::lab_with("closed", |host| {
        if host.name == "c1" {
            host.flags.extend(["--host-services".to_owned(), "udp:5354".to_owned()]);
        }
    });
    let app = Station::add(&mut lab, "c1", &weft_lab::WorkloadOptions::app("app", "3b1c")).unwrap();
    let pod = Station::add(&mut lab, "n1", &weft_lab::WorkloadOptions::pod("pod", "open")).unwrap();
    let cell = lab.host("c1");
    let (closed, listed) = (socket(&cell.netns, 5353), socket(&cell.netns, 5354));
    closed.set_nonblocking(true).unwrap();
    let local = ["127.0.0.1", "127.0.0.2", "192.0.2.255", "0.0.0.0", "255.255.255.255", "169.254.1.1"];
    let overlay = [app.gateway.1, app.vtep];
    let addresses = local.map(|text| text.parse().unwrap()).into_iter().chain(overlay).chain([cell.address]);
    for (from, addresses) in [(&app, addresses.collect::<Vec<Ipv4Addr>>()), (&pod, overlay.to_vec())] {
        for to in addresses {
            from.wire.send(&from.datagram(to, 1111, 5353, EVIL)).unwrap();
            from.wire.send(&from.datagram(app.gateway.1, 1111, 5354, b"fence")).unwrap();
            listed.recv(&mut [0; 100]).expect("what is listed is open");
            assert!(closed.recv(&mut [0; 100]).is_err(), "{} reached the cell at {to}", from.ip);
        }
    }
    let _server = HttpServer::start(&cell.netns, 9000).unwrap();
    for (from, to) in
        [(&app, app.gateway.1), (&app, app.vtep), (&app, cell.address), (&pod, app.gateway.1), (&pod, app.vtep)]
    {
        assert!(
            probe::connects(&from.workload.netns, (to, 9000).into(), Duration::from_secs(1)).is_err(),
            "{} reached {to}",
            from.ip
        );
    }
    // Hosts themselves are not workloads.
    probe::get(&lab.host("n1").netns, (app.vtep, 9000).into(), PATIENCE).expect("another host");
}

/// An error about a flow of the victim with somebody else, from somebody who is not on its way.
#[test]
fn errors_about_others_flows_are_not_taken() {
    let Cast { attacker, friend, victims, lab: _lab } = cast("errors");
    for victim in &victims {
        victim.wire.send(&victim.datagram(friend.ip, 6000, 7000, b"question")).unwrap();
        friend.wire.seen_until(b"question", PATIENCE).expect("the victim may ask");
        let quote = Ip::udp(victim.ip, friend.ip).with(&udp(6000, 7000, EVIL));
        let error = Ip { proto: 1, ..Ip::udp(attacker.ip, victim.ip) }.with(&icmp(3, 4, [0, 0, 2, 88], &quote));
        attacker.attacks("a forged error", victim, &[attacker.frame(&error)]);
    }
}
