//! Programs on interfaces, and what outlives the process that put them there.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use aya::programs::{SchedClassifier, TcAttachType};
use common::*;
use std::process::Command;
use weft_abi::SLOT_IFINDEX_BASE;
use weft_datapath::{Attached, Datapath, DatapathError, Features};
use weft_model::datapath::{MapOp, SetId};
use weft_model::id::IfName;
use weft_model::policy::{Direction, Protocol};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn output(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    String::from_utf8(Command::new(words[0]).args(&words[1..]).output().unwrap().stdout).unwrap()
}

/// Names and ids of the programs on an interface: clsact as `bpftool` finds it, TCX as the kernel tells.
fn programs(interface: &str) -> Vec<(String, u32)> {
    let text = output(&format!("bpftool -j net show dev {interface}"));
    let mut found = Vec::new();
    for part in text.split('{').filter(|part| part.contains("\"kind\":\"clsact")) {
        let field = |key: &str| {
            let start = part.find(&format!("\"{key}\":")).map(|at| at + key.len() + 3).unwrap();
            part[start..].split([',', '}']).next().unwrap().trim_matches('"').to_owned()
        };
        found.push((field("name"), field("id").parse().unwrap()));
    }
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        // Kernels without TCX have none.
        let infos = SchedClassifier::query_tcx(interface, side).map(|(_, infos)| infos).unwrap_or_default();
        found.extend(infos.iter().map(|info| (info.name_as_str().unwrap().to_owned(), info.id())));
    }
    found.sort();
    found
}

/// The id of the link that holds a program. Links of the whole machine are listed: others come and go, and the
/// list ends at one that is being made just then.
fn link_of(program: u32) -> String {
    let held = format!("\"prog_id\":{program}}}");
    until(&format!("the link of program {program}"), || {
        let links = output("bpftool -j link show");
        let link = links.split('{').find(|link| link.contains(&held))?;
        Some(link.split(',').next().unwrap().to_owned())
    })
}

/// The kernel releases an unpinned link a moment later.
fn wait_for_none(interface: &str) {
    until(&format!("no program on {interface}"), || programs(interface).is_empty().then_some(()));
}

#[test]
fn workload_programs_outlive_us_and_are_recognised() {
    let mut bench = Bench::new(vec![]);
    let veth = name("w5");
    assert!(!bench.datapath.workload_attached(&veth).unwrap());
    assert_eq!(bench.datapath.attach_workload(&veth).unwrap(), Attached::Changed);
    assert!(bench.datapath.workload_attached(&veth).unwrap());
    assert_eq!(bench.datapath.attach_workload(&veth).unwrap(), Attached::Unchanged);
    let attached = programs("w5");
    assert_eq!(attached.len(), 2, "{attached:?}");
    let Bench { datapath, folder, .. } = bench;
    drop(datapath);
    assert_eq!(programs("w5"), attached);
    // The next process finds them good, as they are the same version with the same maps.
    let mut next = Datapath::open(&folder, &host()).unwrap();
    assert!(next.workload_attached(&veth).unwrap());
    assert_eq!(next.attach_workload(&veth).unwrap(), Attached::Unchanged);
    assert_eq!(programs("w5"), attached);
    // With other maps they are not: theirs are nobody's any more.
    std::fs::remove_file(maps(&folder).join("pol")).unwrap();
    let mut other = Datapath::open(&folder, &host()).unwrap();
    assert!(!other.workload_attached(&veth).unwrap());
    assert_eq!(other.attach_workload(&veth).unwrap(), Attached::Changed);
    let replaced = programs("w5");
    assert_eq!(replaced.len(), 2, "replaced, not added: {replaced:?}");
    assert_ne!(replaced, attached);
    // Removed by hand: seen, and put back.
    run("tc filter del dev w5 egress");
    assert!(!other.workload_attached(&veth).unwrap());
    other.attach_workload(&veth).unwrap();
    assert!(other.workload_attached(&veth).unwrap());
    run("tc qdisc del dev w5 clsact");
    assert!(!other.workload_attached(&veth).unwrap());
    other.attach_workload(&veth).unwrap();
    other.detach(&veth).unwrap();
    assert_eq!(programs("w5"), []);
}

#[test]
fn interfaces_of_no_slot_are_refused() {
    let mut bench = Bench::new(vec![]);
    let error = bench.datapath.attach_workload(&name("c5")).unwrap_err();
    assert!(error.to_string().contains("belongs to no slot"), "{error}");
    let error = bench.datapath.attach_workload(&name("nothing")).unwrap_err();
    assert!(matches!(error, DatapathError::Interface { .. }), "{error}");
    run(&format!("ip link add beyond index {} type veth peer name p", SLOT_IFINDEX_BASE + 4096));
    assert!(bench.datapath.attach_workload(&name("beyond")).is_err());
}

#[test]
fn links_of_vtep_and_underlay_are_taken_over() {
    let mut bench = Bench::new(vec![]);
    run("ip link add under.1 type veth peer name underpeer");
    run("ip link add vx type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning gbp");
    let (vtep, underlay) = (name("vx"), name("under.1"));
    assert_eq!(bench.datapath.attach_vtep(&vtep).unwrap(), Attached::Changed);
    assert_eq!(bench.datapath.attach_underlay(&underlay).unwrap(), Attached::Changed);
    assert_eq!(bench.datapath.attach_vtep(&vtep).unwrap(), Attached::Unchanged);
    let attached = (programs("vx"), programs("under.1"));
    assert_eq!((attached.0.len(), attached.1.len()), (2, 1), "{attached:?}");
    let Bench { datapath, folder, .. } = bench;
    drop(datapath);
    assert_eq!((programs("vx"), programs("under.1")), attached);
    let mut next = Datapath::open(&folder, &host()).unwrap();
    assert_eq!(next.attach_vtep(&vtep).unwrap(), Attached::Unchanged);
    assert_eq!(next.foreign_tcx(&vtep).unwrap(), Vec::<String>::new());
    // Another version: the link stays, its program changes.
    std::fs::remove_file(maps(&folder).join("peers4")).unwrap();
    let mut other = Datapath::open(&folder, &host()).unwrap();
    let link = link_of(attached.1[0].1);
    assert_eq!(other.attach_underlay(&underlay).unwrap(), Attached::Changed);
    let changed = programs("under.1");
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_ne!(changed, attached.1);
    assert_eq!(link_of(changed[0].1), link, "the link is another one");
    // The device is made anew: the old link is dead.
    run("ip link del vx");
    run("ip link add vx type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning gbp");
    assert_eq!(other.attach_vtep(&vtep).unwrap(), Attached::Changed);
    assert_eq!(programs("vx").len(), 2);
    // The name goes to another device while the old one lives on.
    run("ip link set under.1 name was");
    run("ip link add under.1 type veth peer name underpeer2");
    assert_eq!(other.attach_underlay(&underlay).unwrap(), Attached::Changed);
    assert_eq!(programs("under.1").len(), 1);
    wait_for_none("was");
    // A pin removed by hand detaches; that is seen and healed.
    std::fs::remove_file(maps(&folder).with_file_name("links").join("to_overlay@vx")).unwrap();
    assert_eq!(other.attach_vtep(&vtep).unwrap(), Attached::Changed);
    assert_eq!(programs("vx").len(), 2);
    other.detach(&vtep).unwrap();
    wait_for_none("vx");
}

fn is_tcx(interface: &str, side: TcAttachType) -> bool {
    SchedClassifier::query_tcx(interface, side).is_ok_and(|(_, programs)| !programs.is_empty())
}

/// What a kernel without TCX gets, and what happens when a host is told to go the other way.
#[test]
fn clsact_takes_the_place_of_tcx_and_gives_it_back() {
    let mut bench = Bench::new(vec![]);
    run("ip link add under type veth peer name underpeer");
    run("ip link add vx type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning gbp");
    let (vtep, underlay) = (name("vx"), name("under"));
    bench.datapath.avoid_tcx();
    assert_eq!(bench.datapath.attach_vtep(&vtep).unwrap(), Attached::Changed);
    assert_eq!(bench.datapath.attach_underlay(&underlay).unwrap(), Attached::Changed);
    assert_eq!(bench.datapath.attach_vtep(&vtep).unwrap(), Attached::Unchanged);
    assert_eq!(bench.datapath.attach_underlay(&underlay).unwrap(), Attached::Unchanged);
    assert_eq!((programs("vx").len(), programs("under").len(), bench.datapath.pinned_links()), (2, 1, 0));
    assert!(!is_tcx("vx", TcAttachType::Egress) && !is_tcx("under", TcAttachType::Ingress));
    let Bench { datapath, folder, .. } = bench;
    drop(datapath);
    // Another version takes the place of the filter.
    std::fs::remove_file(folder.join("v2/maps/peers4")).unwrap();
    let before = programs("under");
    let mut other = Datapath::open(&folder, &host()).unwrap();
    other.avoid_tcx();
    assert_eq!(other.attach_underlay(&underlay).unwrap(), Attached::Changed);
    let after = programs("under");
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    run("tc filter del dev under ingress");
    assert_eq!(other.attach_underlay(&underlay).unwrap(), Attached::Changed);
    // Told to use what the kernel has: one of each all the same.
    let mut next = Datapath::open(&folder, &host()).unwrap();
    let tcx = next.features().tcx;
    let moved = if tcx { Attached::Changed } else { Attached::Unchanged };
    assert_eq!(next.attach_underlay(&underlay).unwrap(), moved);
    next.attach_vtep(&vtep).unwrap();
    assert_eq!((programs("vx").len(), programs("under").len()), (2, 1));
    assert_eq!(is_tcx("under", TcAttachType::Ingress), tcx);
    next.avoid_tcx();
    assert_eq!(next.attach_underlay(&underlay).unwrap(), moved);
    next.attach_vtep(&vtep).unwrap();
    until("no TCX link", || {
        let tcx = is_tcx("under", TcAttachType::Ingress)
            || is_tcx("vx", TcAttachType::Egress)
            || is_tcx("vx", TcAttachType::Ingress);
        (!tcx).then_some(())
    });
    assert_eq!((programs("vx").len(), programs("under").len()), (2, 1));
    next.detach(&vtep).unwrap();
    assert_eq!(programs("vx"), []);
}

#[test]
fn features_are_told_with_what_follows() {
    let bench = Bench::new(vec![]);
    let found = bench.datapath.features();
    assert_eq!(found, Features::probe());
    // The kernel's own list of types says the same, by another way.
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let knows = |name: &[u8]| btf.windows(name.len()).any(|window| window == name);
    assert_eq!(found.tcx, knows(b"\0tcx_link_attach\0"));
    assert!(found.redirect_peer, "every kernel we support has it");
    let none = Features { tcx: false, redirect_peer: false };
    assert_eq!(Features { tcx: true, redirect_peer: true }.missing(), Vec::<&str>::new());
    assert_eq!(none.missing().len(), 2);
    assert!(none.missing()[0].contains("clsact"), "{:?}", none.missing());
}

#[test]
fn a_restart_finds_everything_as_it_was() {
    let mut bench = Bench::new(vec![
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80)),
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 1000, 2000)),
        rule(
            Direction::Egress,
            weft_model::policy::Peer::Cidr("198.51.100.0/24".parse().unwrap()),
            ports(Protocol::Udp, 53, 53),
        ),
    ]);
    let orphan = SetId(77);
    bench
        .datapath
        .apply(&[MapOp::PutSet(orphan, set(vec![rule(Direction::Ingress, tag_peer(9), ports(Protocol::Tcp, 1, 1))]))])
        .unwrap();
    bench.arrive(&frame::received(&frame::udp(REMOTE, OWN, (1, 2), b"")), 7);
    let before = (
        bench.datapath.endpoints(),
        bench.datapath.sets(),
        bench.datapath.surroundings().unwrap(),
        bench.datapath.counters().unwrap(),
    );
    assert_eq!(before.0[&SLOT].endpoint, bench.endpoint);
    assert_eq!(before.1, [SetId(1), orphan].into());
    assert_eq!((before.2.peers.len(), before.2.host_addresses.len()), (3, 3));
    let Bench { datapath, folder, endpoint, .. } = bench;
    drop(datapath);
    let mut next = Datapath::open(&folder, &host()).unwrap();
    assert_eq!((next.endpoints(), next.sets(), next.surroundings().unwrap(), next.counters().unwrap()), before);
    // Orphans can be told and removed; what is in use cannot.
    next.apply(&[MapOp::RemoveSet(orphan)]).unwrap();
    assert_eq!(next.sets(), [SetId(1)].into());
    assert!(matches!(next.apply(&[MapOp::RemoveSet(SetId(1))]), Err(DatapathError::SetInUse { .. })));
    assert!(matches!(next.apply(&[MapOp::PutSet(SetId(1), set(vec![]))]), Err(DatapathError::SetInUse { .. })));
    let lost = weft_model::datapath::Endpoint { set: SetId(1234), ..endpoint.clone() };
    assert!(matches!(next.apply(&[MapOp::PutEndpoint(lost)]), Err(DatapathError::NoSuchSet { .. })));
    next.apply(&[MapOp::PutEndpoint(endpoint)]).unwrap();
    assert_eq!(next.endpoints()[&SLOT].generation, before.0[&SLOT].generation + 1);
}

#[test]
fn connections_and_generations_are_made_anew_together() {
    let bench = Bench::new(vec![]);
    let Bench { datapath, folder, .. } = bench;
    drop(datapath);
    std::fs::remove_file(maps(&folder).join("ct_short4")).unwrap();
    let next = Datapath::open(&folder, &host()).unwrap();
    assert!(next.endpoints().is_empty());
    assert_eq!(next.surroundings().unwrap().peers.len(), 3);
}

#[test]
fn a_map_that_does_not_fit_is_replaced() {
    let folder = isolate();
    std::fs::create_dir_all(maps(&folder)).unwrap();
    run(&format!(
        "bpftool map create {}/peers4 type hash key 4 value 4 entries 8 name peers4",
        maps(&folder).display()
    ));
    let mut datapath = Datapath::open(&folder, &host()).unwrap();
    let peer =
        weft_model::datapath::PeerHost { underlay: REMOTE_UNDERLAY, vtep: REMOTE_VTEP, gbp: true, unmanaged: false };
    datapath.apply(&[MapOp::PutPeer("10.255.2.0/24".parse().unwrap(), peer)]).unwrap();
    assert_eq!(datapath.surroundings().unwrap().peers.len(), 1);
}

#[test]
fn a_set_that_does_not_fit_leaves_nothing_behind() {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    // 43 times 6,250 entries are more than 262,144.
    let big = |first: u16| {
        let rules = (0..6250u16).map(|tag| {
            let mut rule = rule(Direction::Ingress, tag_peer(tag + 1), ports(Protocol::Tcp, first, first));
            rule.id = u32::from(tag) + 1;
            rule
        });
        set(rules.collect())
    };
    for number in 0..41 {
        bench.datapath.apply(&[MapOp::PutSet(SetId(1000 + number), big(80))]).unwrap();
    }
    let error = bench.datapath.apply(&[MapOp::PutSet(SetId(2000), big(80))]).unwrap_err();
    assert_eq!(error.to_string(), "map pol is full (262144 entries): policy set 2000 was not put in force");
    assert!(!bench.datapath.sets().contains(&SetId(2000)));
    // What is in force is in force, and there is room for a small one again.
    let syn = |tag| bench.arrive(&frame::received(&frame::tcp(REMOTE, OWN, (1, 80), frame::SYN, b"")), tag).verdict;
    assert_eq!((syn(7), syn(8)), (PASS, DROP));
    bench.rules(vec![rule(Direction::Ingress, tag_peer(8), ports(Protocol::Tcp, 80, 80))]);
    let syn = |tag| bench.arrive(&frame::received(&frame::tcp(REMOTE, OWN, (2, 80), frame::SYN, b"")), tag).verdict;
    assert_eq!((syn(7), syn(8)), (DROP, PASS));
}

#[test]
fn a_folder_that_is_no_bpffs_is_said_clearly() {
    let folder = isolate();
    let plain = folder.parent().unwrap().join("plain");
    let error = Datapath::open(&plain, &host()).unwrap_err();
    assert!(error.to_string().contains("plain"), "{error}");
}

#[test]
fn maps_tell_their_size() {
    let bench = Bench::new(vec![]);
    let memory = bench.datapath.map_memory().unwrap();
    assert_eq!(memory.len(), 16);
    let total: u64 = memory.values().sum();
    assert!((1 << 20..64 << 20).contains(&total), "{memory:?}");
}
