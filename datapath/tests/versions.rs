//! One version of the data plane takes the place of another: same layout or another, upwards and downwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::path::Path;
use weft_datapath::{Attached, Datapath, Version};
use weft_model::datapath::{MapOp, MapSizes, plan_surroundings};
use weft_model::id::IfName;
use weft_model::policy::{Direction, Protocol, Rule};

const OTHER_PROGRAMS: Version = Version { layout: weft_abi::LAYOUT_VERSION, programs: 7 };
const LATER_LAYOUT: Version = Version { layout: weft_abi::LAYOUT_VERSION + 1, programs: 7 };
const THIS: Version = Version { layout: weft_abi::LAYOUT_VERSION, programs: 0 };

/// The next version's process begins: it takes over what its maps hold, or is told everything anew, as the
/// agent does, and brings connections along.
fn becomes(bench: &mut Bench, version: Version, rules: Vec<Rule>) -> usize {
    let mut next = Datapath::open_as(version, &bench.folder, &host(), &MapSizes::default()).unwrap();
    assert!(next.replaces_another() == next.endpoints().is_empty(), "{version:?}");
    let ops = plan_surroundings(&bench.datapath.surroundings().unwrap(), &next.surroundings().unwrap());
    next.apply(&ops).unwrap();
    bench.datapath = next;
    if bench.datapath.replaces_another() {
        bench.rules(rules);
    }
    let carried = bench.datapath.take_over(false).unwrap();
    bench.datapath.attach_workload(&IfName::new("w5").unwrap()).unwrap();
    bench.datapath.take_over(true).unwrap();
    bench.datapath.settle().unwrap();
    carried
}

/// A connection that the workload opened to somebody who may not open one to it.
fn opened_by_workload(bench: &Bench, port: u16) {
    assert_eq!(bench.out(&sent(&tcp(OWN, REMOTE, (port, 443), SYN, b""))).verdict, PASS);
    assert_eq!(bench.arrive(&received(&tcp(REMOTE, OWN, (443, port), SYN | ACK, b"")), 7).verdict, PASS);
    assert_eq!(bench.out(&sent(&tcp(OWN, REMOTE, (port, 443), ACK, b"x"))).verdict, PASS);
}

fn answered(bench: &Bench, port: u16) -> i32 {
    bench.arrive(&received(&tcp(REMOTE, OWN, (443, port), ACK, b"y")), 7).verdict
}

fn has_folder(bench: &Bench, version: Version) -> bool {
    Path::new(&bench.folder).join(format!("v{}", version.layout)).exists()
}

#[test]
fn other_programs_with_the_same_layout_go_on_with_the_same_maps() {
    let mut bench = Bench::new(vec![]);
    let veth = IfName::new("w5").unwrap();
    bench.datapath.attach_workload(&veth).unwrap();
    bench.datapath.settle().unwrap();
    opened_by_workload(&bench, 40000);
    let before = bench.datapath.endpoints();
    for version in [OTHER_PROGRAMS, THIS] {
        let mut next = Datapath::open_as(version, &bench.folder, &host(), &MapSizes::default()).unwrap();
        assert!(!next.replaces_another());
        assert_eq!(next.endpoints(), before, "generations go on");
        assert!(!next.workload_attached(&veth).unwrap(), "{version:?} has other instructions");
        assert_eq!(next.attach_workload(&veth).unwrap(), Attached::Changed);
        next.settle().unwrap();
        bench.datapath = next;
        bench.expect("passed", PASS, |bench| bench.arrive(&received(&tcp(REMOTE, OWN, (443, 40000), ACK, b"y")), 7));
        // Still: nobody else comes in by that.
        assert_eq!(answered(&bench, 40001), DROP);
    }
}

#[test]
fn another_layout_takes_connections_along_upwards_and_downwards() {
    let allowed = || vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))];
    let mut bench = Bench::new(allowed());
    bench.datapath.settle().unwrap();
    opened_by_workload(&bench, 40000);
    let request = |bench: &Bench, flags| bench.arrive(&received(&tcp(REMOTE, OWN, (5000, 80), flags, b"")), 7).verdict;
    assert_eq!(request(&bench, SYN), PASS);
    bench.out(&sent(&tcp(OWN, REMOTE, (80, 5000), SYN | ACK, b"")));
    // Upwards.
    assert!(becomes(&mut bench, LATER_LAYOUT, allowed()) >= 2);
    assert_eq!((answered(&bench, 40000), answered(&bench, 40001)), (PASS, DROP));
    assert_eq!(request(&bench, ACK), PASS);
    assert!(has_folder(&bench, LATER_LAYOUT) && !has_folder(&bench, THIS), "the earlier one's maps are removed");
    opened_by_workload(&bench, 40002);
    // Downwards, with a policy taken back meanwhile: what was open under it stops.
    assert!(becomes(&mut bench, THIS, vec![]) >= 3);
    assert_eq!((answered(&bench, 40000), answered(&bench, 40001), answered(&bench, 40002)), (PASS, DROP, PASS));
    bench.expect("revoked", DROP, |bench| bench.arrive(&received(&tcp(REMOTE, OWN, (5000, 80), ACK, b"")), 7));
    assert!(has_folder(&bench, LATER_LAYOUT), "a later layout's maps are its own");
    // Upwards again: what the later layout knew is of another time.
    becomes(&mut bench, LATER_LAYOUT, vec![]);
    assert_eq!((answered(&bench, 40000), answered(&bench, 40002)), (PASS, PASS));
    assert_eq!(request(&bench, ACK), DROP);
}

/// The same ports again, between the two times that connections are copied.
#[test]
fn a_connection_opened_over_a_closed_one_meanwhile_is_the_one_that_counts() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.settle().unwrap();
    opened_by_workload(&bench, 40000);
    opened_by_workload(&bench, 40001);
    bench.out(&sent(&tcp(OWN, REMOTE, (40000, 443), FIN | ACK, b"")));
    bench.arrive(&received(&tcp(REMOTE, OWN, (443, 40000), FIN | ACK, b"")), 7);
    let mut next = Datapath::open_as(LATER_LAYOUT, &bench.folder, &host(), &MapSizes::default()).unwrap();
    let ops = [MapOp::PutSet(weft_model::datapath::SetId(1), set(vec![])), MapOp::PutEndpoint(bench.endpoint.clone())];
    next.apply(&ops).unwrap();
    assert_eq!(next.take_over(false).unwrap(), 1, "the closed one waits");
    opened_by_workload(&bench, 40000);
    assert_eq!(next.take_over(true).unwrap(), 2, "and the new one comes");
    bench.datapath = next;
    assert_eq!((answered(&bench, 40000), answered(&bench, 40001)), (PASS, PASS));
    assert_eq!(bench.datapath.take_over(true).unwrap(), 0, "what was judged here stays");
}

#[test]
fn connections_of_a_workload_that_is_gone_are_not_taken_along() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.settle().unwrap();
    opened_by_workload(&bench, 40000);
    bench.datapath.apply(&[MapOp::RemoveEndpoint(SLOT), MapOp::PutEndpoint(bench.endpoint.clone())]).unwrap();
    assert_eq!(becomes(&mut bench, LATER_LAYOUT, vec![]), 0);
    assert_eq!(answered(&bench, 40000), DROP);
}

/// Maps of another size are made anew too.
#[test]
fn a_resized_table_keeps_its_connections() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.settle().unwrap();
    opened_by_workload(&bench, 40000);
    // As if this version had another limit than the one before it.
    let pin = bench.folder.join(format!("v{}/maps/pol", THIS.layout));
    std::fs::remove_file(&pin).unwrap();
    run(&format!("bpftool map create {} type hash key 16 value 16 entries 99 name pol flags 1", pin.display()));
    assert!(becomes(&mut bench, THIS, vec![]) >= 1);
    assert_eq!((answered(&bench, 40000), answered(&bench, 40001)), (PASS, DROP));
}
