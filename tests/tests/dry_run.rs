//! `weftd --dry-run` prints what would be changed and changes nothing.

use weft_lab::shell::output;
use weft_tests::lab;

#[test]
fn it_prints_the_plan_of_what_drifted_and_leaves_it_so() {
    let mut lab = lab("dry");
    lab.host_mut("n1").stop_agent().unwrap();
    let host = lab.host("n1");
    let dry = || output(host.agent_command().unwrap().arg("--dry-run")).unwrap();
    let clean = dry();
    assert!(clean.contains("0 change(s):"), "{clean}");
    let peer = lab.host("n2").status().unwrap().subnet.unwrap();
    host.sh(&format!("ip route del {peer} proto 119")).unwrap();
    let drifted = dry();
    assert!(drifted.contains("1 change(s):"), "{drifted}");
    assert!(drifted.contains(&format!("route replace {peer} via {} dev weft-vx1", peer.vtep_ip())), "{drifted}");
    assert_eq!(host.sh("ip route show proto 119").unwrap().lines().count(), 2, "own subnet and c1's only");
}
