//! Who may reach whom, by identity: groups from both runtimes, and workloads without any.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use weft_lab::probe::{self, HttpServer};
use weft_lab::workload::{Dialect, WorkloadOptions};
use weft_tests::{PATIENCE, lab};

fn refused(from: &Path, to: SocketAddr) -> bool {
    probe::connects(from, to, PATIENCE).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The rep's health check: no identity. It starts, its host reaches it, nobody else does.
#[test]
fn a_workload_without_identity_starts_and_only_its_host_reaches_it() {
    let mut lab = lab("nobody");
    let check = WorkloadOptions::new("check", Dialect::Garden { app: None });
    let check = lab.add("c1", &check).unwrap();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let pod = lab.add("n1", &WorkloadOptions::pod("pod", "open")).unwrap();
    let _server = HttpServer::start(&check.netns, 8080).unwrap();
    let to = SocketAddr::from((check.ip, 8080));
    probe::get(&lab.host("c1").netns, to, PATIENCE).expect("its own host");
    assert!(refused(&app.netns, to), "an app on the same cell reached it");
    assert!(refused(&pod.netns, to), "a pod reached it");
    assert!(refused(&lab.host("n1").netns, to), "another host reached it");
}

/// A pod of one group reaches what its group may, and a pod of another group of the same namespace
/// does not; on a cell, apps are isolated without any policy.
#[test]
fn groups_of_both_runtimes_are_told_apart_across_hosts() {
    let mut lab = lab("groups");
    let pod = |name: &str, group: &str| {
        let dialect = Dialect::Containerd { namespace: "shop".to_owned(), group: Some(group.to_owned()) };
        WorkloadOptions::new(name, dialect)
    };
    let front = lab.add("n1", &pod("front", "front")).unwrap();
    let other = lab.add("n1", &pod("other", "other")).unwrap();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let sibling = lab.add("c1", &WorkloadOptions::app("sibling", "3b1c")).unwrap();
    let _server = HttpServer::start(&app.netns, 8080).unwrap();
    let to = SocketAddr::from((app.ip, 8080));
    assert!(refused(&front.netns, to), "no policy yet");
    assert!(refused(&sibling.netns, to), "instances of one app are not open to each other");
    lab.weft(&["policies", "allow", "--from", "k8s:lab/shop/front", "--to", "3b1c", "--port", "8080", "--wait"])
        .unwrap();
    let seen = probe::get(&front.netns, to, PATIENCE).expect("allowed");
    assert_eq!(seen.client, front.ip);
    assert!(refused(&other.netns, to), "another group of the namespace got in");
    assert!(refused(&sibling.netns, to), "the policy named another group");
    lab.weft(&["policies", "allow", "--from", "3b1c", "--to", "3b1c", "--port", "8080", "--wait"]).unwrap();
    probe::get(&sibling.netns, to, PATIENCE).expect("a policy from a group to itself");
    // A pod that isolates nothing is reached by everybody: kind kubernetes, no policy towards it.
    let _open = HttpServer::start(&other.netns, 8080).unwrap();
    probe::get(&app.netns, SocketAddr::from((other.ip, 8080)), PATIENCE).expect("kubernetes is open by default");
}

/// An app may not open connections to its own cell, but to another host's services outside the
/// overlay it goes, masqueraded.
#[test]
fn cells_are_closed_to_their_apps_and_the_outside_sees_the_host() {
    let mut lab = lab("own");
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let cell = lab.host("c1");
    let _on_cell = HttpServer::start(&cell.netns, 9000).unwrap();
    let gateway = cell.status().unwrap().subnet.unwrap().gateway();
    assert!(refused(&app.netns, SocketAddr::from((gateway, 9000))), "the gateway's address");
    assert!(refused(&app.netns, SocketAddr::from((cell.address, 9000))), "the underlay address");
    let _outside = HttpServer::start(&lab.ctl(), 9000).unwrap();
    let seen =
        probe::get(&app.netns, SocketAddr::from((weft_lab::underlay::CTL, 9000)), PATIENCE).expect("the outside");
    assert_eq!(seen.client, cell.address, "masqueraded behind the host");
}

/// A workload that lies about its address gets nowhere.
#[test]
fn a_spoofed_source_is_dropped_and_counted() {
    let mut lab = lab("spoof");
    let liar = lab.add("n1", &WorkloadOptions::pod("liar", "open")).unwrap();
    let honest = lab.add("n2", &WorkloadOptions::pod("honest", "open")).unwrap();
    let _server = HttpServer::start(&honest.netns, 8080).unwrap();
    let to = SocketAddr::from((honest.ip, 8080));
    probe::get(&liar.netns, to, PATIENCE).expect("with its own address");
    weft_lab::shell::sh_in(&liar.netns, "ip addr add 10.255.77.77/32 dev eth0").unwrap();
    weft_lab::shell::sh_in(&liar.netns, "ip route replace default via 10.255.77.1 dev eth0 onlink src 10.255.77.77")
        .ok();
    let gateway = lab.host("n1").status().unwrap().subnet.unwrap().gateway();
    let line = format!("ip route replace default via {gateway} dev eth0 src 10.255.77.77");
    weft_lab::shell::sh_in(&liar.netns, &line).unwrap();
    let before = lab.host("n1").status().unwrap().counters["spoofed-ip"];
    let outcome = probe::connects(&liar.netns, to, std::time::Duration::from_millis(300));
    assert!(outcome.is_err(), "a forged address got through");
    let counted = || Ok(lab.host("n1").status()?.counters["spoofed-ip"] > before);
    weft_lab::wait::until_true("it to be counted", PATIENCE, counted).unwrap();
}
