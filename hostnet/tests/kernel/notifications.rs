//! Whoever changes the network by hand wakes us.

use crate::support::{Host, PATIENCE};
use std::time::{Duration, Instant};
use weft_hostnet::{Departed, Departures, Notifier};

/// Takes what is still queued, until there is a quiet moment.
async fn settle(notifier: &mut Notifier) {
    while tokio::time::timeout(Duration::from_millis(200), notifier.changed()).await.is_ok() {}
}

#[tokio::test]
async fn every_kind_of_change_wakes() {
    let mut host = Host::new();
    host.add_workload(2);
    host.reconcile();
    let mut notifier = Notifier::new(host.executor.namespace()).unwrap();
    let port = host.port(2);
    let bridge_settings = format!("bridge link set dev {port} isolated on");
    let port_entry = format!("bridge fdb del ee:ee:0a:ff:01:02 dev {port} master");
    for change in [
        "ip link set weft0 mtu 1300",
        "ip addr flush dev weft0",
        "ip neigh del 10.255.11.0 dev weft-vx1",
        "bridge fdb del ee:ee:0a:ff:0c:00 dev weft-vx1 dst 192.0.2.111",
        "ip route del 10.255.13.0/24",
        "sysctl -w net.ipv4.ip_forward=0",
        "nft flush chain ip weft raw_output",
        bridge_settings.as_str(),
        port_entry.as_str(),
    ] {
        settle(&mut notifier).await;
        host.space.sh(change);
        let woken = tokio::time::timeout(PATIENCE, notifier.changed()).await;
        woken.unwrap_or_else(|_| panic!("not woken by `{change}`")).unwrap();
    }
}

#[tokio::test]
async fn neighbours_that_come_and_go_do_not_wake() {
    let host = Host::new();
    host.space.sh("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev under nud stale");
    let mut notifier = Notifier::new(host.executor.namespace()).unwrap();
    // The kernel itself may still be at work on the devices, and that wakes, but not each time.
    let start = Instant::now();
    for state in ["reachable", "stale"].into_iter().cycle() {
        settle(&mut notifier).await;
        host.space.sh(&format!("ip neigh change 192.0.2.9 lladdr 02:00:00:00:00:09 dev under nud {state}"));
        if tokio::time::timeout(Duration::from_millis(300), notifier.changed()).await.is_err() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "woken by a neighbour that became {state}");
    }
}

#[tokio::test]
async fn lost_notifications_are_a_change() {
    let mut host = Host::new();
    host.reconcile();
    let mut notifier = Notifier::new(host.executor.namespace()).unwrap();
    settle(&mut notifier).await;
    // More than the queue holds, while nobody reads, and none of it would wake us.
    let states = ["reachable", "stale"].map(|state| {
        (1..=250)
            .map(|n| format!("neigh replace 192.0.2.{n} lladdr 02:00:00:00:00:09 dev under nud {state}\n"))
            .collect::<String>()
    });
    let batch = std::env::temp_dir().join(format!("weft-neighbours-{}", std::process::id()));
    std::fs::write(&batch, states.concat().repeat(8)).unwrap();
    host.space.sh(&format!("ip -batch {}", batch.display()));
    std::fs::remove_file(&batch).unwrap();
    tokio::time::timeout(PATIENCE, notifier.changed()).await.expect("woken").unwrap();
    settle(&mut notifier).await;
    host.space.sh("ip link set weft0 mtu 1300");
    tokio::time::timeout(PATIENCE, notifier.changed()).await.expect("woken after the overflow too").unwrap();
}

#[test]
fn links_that_go_are_heard_by_index_and_ports_that_only_leave_their_bridge_are_not() {
    let mut host = Host::new();
    let wirings: Vec<_> = (2..5).map(|slot| host.add_workload(slot)).collect();
    host.reconcile();
    let names: Vec<_> = wirings.iter().map(weft_model::workload::Wiring::host_ifname).collect();
    let index = |host: &mut Host, number: usize| host.executor.link(&names[number]).unwrap().unwrap().index;
    let mut doomed = std::collections::BTreeSet::from([index(&mut host, 1), index(&mut host, 2)]);
    let mut departures = host.executor.namespace().run(Departures::here).unwrap().unwrap();
    host.space.sh(&format!("ip link set {} nomaster", names[0]));
    host.executor.execute(&[weft_model::op::Op::DeleteLinks(names[1..].to_vec())], None).unwrap();
    while !doomed.is_empty() {
        match departures.wait().unwrap() {
            Departed::Links(gone) => gone.iter().for_each(|index| assert!(doomed.remove(index), "{index}")),
            Departed::Some => panic!("a handful of notifications is not lost"),
        }
    }
}
