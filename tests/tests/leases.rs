//! Hosts and their subnets when things go wrong at the start.

use std::collections::BTreeSet;
use weft_lab::process::Process;
use weft_lab::workload::{WorkloadOptions, add_call};
use weft_lab::{Lab, LabOptions, wait};
use weft_tests::{PATIENCE, lab};

/// Three agents start at the same moment where there are only three subnets: each gets one.
#[test]
fn racing_agents_never_share_a_subnet() {
    let mut options = LabOptions::three(&LabOptions::unique_name("race"));
    for host in &mut options.hosts {
        host.flags = ["--subnet-len", "18"].map(str::to_owned).into();
    }
    // A /18 is longer than the data plane's slots: refused, with the limit.
    let refused = Lab::up(options).expect_err("a /18 was accepted");
    assert!(format!("{refused:#}").contains("at least /20"), "{refused:#}");

    let mut lab = Lab::without_agents(LabOptions::three(&LabOptions::unique_name("race"))).unwrap();
    let narrow = r#"put /coreos.com/network/config {"Network":"10.255.0.0/22","Backend":{"Type":"vxlan"}}"#;
    lab.etcd.ctl(narrow).unwrap();
    for host in ["n1", "n2", "c1"] {
        lab.host_mut(host).start_agent().unwrap();
    }
    for host in ["n1", "n2", "c1"] {
        lab.host_mut(host).wait_ready(PATIENCE).unwrap();
    }
    let subnets: BTreeSet<_> = lab.hosts().iter().map(|host| host.status().unwrap().subnet.unwrap()).collect();
    assert_eq!(subnets.len(), 3, "{subnets:?}");
    let keys = lab.etcd.ctl("get --prefix --keys-only /coreos.com/network/subnets/").unwrap();
    assert_eq!(keys.split_whitespace().count(), 3, "{keys}");
}

/// Without a store a fresh host waits, says why, and is ready by itself when the store comes.
#[test]
fn without_a_store_at_the_start_the_agent_waits_and_says_so() {
    let mut lab = Lab::without_agents(LabOptions::three(&LabOptions::unique_name("nostore"))).unwrap();
    lab.etcd.kill().unwrap();
    lab.host_mut("n1").start_agent().unwrap();
    let host = lab.host("n1");
    let says_so = || {
        let status = host.status()?;
        Ok(!status.store.connected && status.store.error.is_some() && status.lease == "none")
    };
    wait::until_true("the agent to say that the store is away", PATIENCE, says_so).unwrap();
    let (id, netns) = lab.container("n1", "w").unwrap();
    let early = add_call(lab.host("n1"), &WorkloadOptions::pod("w", "open"), &id, &netns);
    let failed = early.expect(lab.host("n1")).expect_err("an ADD without a lease").to_string();
    assert!(failed.contains("\"code\": 11") || failed.contains("\"code\":11"), "{failed}");
    lab.etcd.restart().unwrap();
    lab.host_mut("n1").wait_ready(PATIENCE).unwrap();
    lab.add("n1", &WorkloadOptions::pod("w", "open")).unwrap();
}

#[test]
fn a_second_agent_on_one_host_is_refused_and_the_first_goes_on() {
    let mut lab = lab("two");
    let mut command = lab.host("n1").agent_command().unwrap();
    let log = lab.folder.join("second.log");
    let mut second = Process::start("a second weftd", &mut command, &log).unwrap();
    let (words, _) = wait::until("it to end", PATIENCE, || match second.check() {
        Err(ended) => Ok(format!("{ended:#}")),
        Ok(()) => Err("it runs"),
    })
    .unwrap();
    assert!(words.contains("another weftd runs on this host"), "{words}");
    lab.add("n1", &WorkloadOptions::pod("w", "open")).expect("the first still serves");
}

/// The store is wiped under running hosts: leases are claimed again, nothing else changes.
#[test]
fn a_wiped_store_gets_its_leases_back_and_no_packet_is_lost() {
    let mut lab = lab("wipe");
    let a = lab.add("n1", &WorkloadOptions::pod("a", "open")).unwrap();
    let b = lab.add("n2", &WorkloadOptions::pod("b", "open")).unwrap();
    let before: Vec<_> = lab.hosts().iter().map(|host| host.status().unwrap().subnet).collect();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let _server = weft_lab::probe::HttpServer::start(&b.netns, 8080).unwrap();
    let _closed = weft_lab::probe::HttpServer::start(&app.netns, 8080).unwrap();
    let to = std::net::SocketAddr::from((b.ip, 8080));
    let denied = std::net::SocketAddr::from((app.ip, 8080));
    for port in ["81", "82", "83", "84"] {
        lab.weft(&["policies", "allow", "--from", "x", "--to", "3b1c", "--port", port, "--wait"]).unwrap();
    }
    let stream = weft_lab::probe::Stream::start(&a.netns, to).unwrap();
    lab.etcd.kill().unwrap();
    lab.etcd.wipe().unwrap();
    lab.etcd.restart().unwrap();
    let claimed =
        || Ok(lab.etcd.ctl("get --prefix --keys-only /coreos.com/network/subnets/")?.split_whitespace().count() == 3);
    wait::until_true("three leases in the new store", PATIENCE * 2, claimed).unwrap();
    assert!(!stream.broke() && stream.flows(PATIENCE), "the transfer broke");
    weft_lab::probe::get(&a.netns, to, PATIENCE).expect("new connections work");
    // Policies are frozen as they were, and say so.
    assert!(weft_lab::probe::connects(&a.netns, denied, PATIENCE).is_err(), "what was denied is open");
    let frozen = || Ok(lab.host("c1").status()?.alarms.iter().any(|alarm| alarm.contains("frozen")));
    wait::until_true("the alarm", PATIENCE, frozen).unwrap();
    // An agent that restarts now has its peers from its disk until they are back.
    lab.host_mut("n1").kill_agent().unwrap();
    lab.host_mut("n1").start_agent().unwrap();
    lab.host_mut("n1").wait_ready(PATIENCE).unwrap();
    assert!(!stream.broke() && stream.flows(PATIENCE), "the restart broke the transfer");
    weft_lab::probe::get(&a.netns, to, PATIENCE).expect("new connections work after the restart");
    let after: Vec<_> = lab.hosts().iter().map(|host| host.status().unwrap().subnet).collect();
    assert_eq!(before, after);
}

/// A host's underlay address changes under its workloads. A restart of its agent tells the others, and
/// nobody moves to another subnet.
#[test]
fn a_host_whose_address_changed_keeps_its_subnet_and_is_found_again() {
    let mut lab = lab("moved");
    let a = lab.add("n1", &WorkloadOptions::pod("a", "open")).unwrap();
    let b = lab.add("n2", &WorkloadOptions::pod("b", "open")).unwrap();
    let _server = weft_lab::probe::HttpServer::start(&b.netns, 8080).unwrap();
    let to = std::net::SocketAddr::from((b.ip, 8080));
    weft_lab::probe::get(&a.netns, to, PATIENCE).unwrap();
    let before = lab.host("n2").status().unwrap();
    let (old, [.., last]) = (before.public_ip, before.public_ip.octets());
    let new = std::net::Ipv4Addr::from(u32::from(old) - u32::from(last) + 200);
    let n2 = lab.host("n2");
    n2.sh(&format!("ip addr del {old}/24 dev eth0")).unwrap();
    n2.sh(&format!("ip addr add {new}/24 dev eth0")).unwrap();
    let says_so = || Ok(n2.status()?.alarms.iter().any(|alarm| alarm.contains("restart weftd")));
    wait::until_true("the alarm", PATIENCE, says_so).unwrap();
    lab.host_mut("n2").kill_agent().unwrap();
    lab.host_mut("n2").start_agent().unwrap();
    lab.host_mut("n2").wait_ready(PATIENCE).unwrap();
    weft_lab::probe::get(&a.netns, to, PATIENCE).expect("the workload is reached at the host's new address");
    let after = lab.host("n2").status().unwrap();
    assert_eq!((after.subnet, after.public_ip), (before.subnet, new));
}
