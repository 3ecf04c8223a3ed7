//! A hundred ADDs and DELs at once, while namespaces vanish under them.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use weft_lab::probe::{self, HttpServer};
use weft_lab::shell::sh;
use weft_lab::workload::{CniCall, WorkloadOptions, add_call, address};
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::PATIENCE;
use weft_tests::ports::{PortWatch, unfiltered};

const MANY: usize = 100;

fn vanish(netns: &Path) {
    sh(&format!("ip netns del {}", netns.file_name().unwrap().to_str().unwrap())).unwrap();
}

fn del(host: &Host, add: &CniCall) -> Result<(), String> {
    let mut del = add.clone();
    del.command = "DEL".to_owned();
    del.expect(host).map(drop).map_err(|error| format!("DEL: {error:#}"))
}

/// A third has limits, a third a mapped port: of each fate some.
fn pod(number: usize) -> WorkloadOptions {
    let pod = WorkloadOptions::pod("w", "open");
    let (rate, burst) = (80_000_000, 8_000_000);
    match number % 3 {
        0 => pod.with(
            "bandwidth",
            json!({"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst}),
        ),
        1 => pod.with("portMappings", json!([{"hostPort": 61000 + number, "containerPort": 8080}])),
        _ => pod,
    }
}

/// Four fates, in turn.
fn live(host: &Host, number: usize, call: &CniCall, netns: &Path) -> Result<Option<std::net::Ipv4Addr>, String> {
    let add = || call.expect(host).map_err(|error| format!("ADD: {error:#}"));
    match number % 4 {
        // Its namespace dies without a DEL.
        0 => {
            add()?;
            vanish(netns);
            Ok(None)
        }
        // Its namespace dies while it is wired: done or refused, with one document, and then taken down.
        1 => {
            let child = call.start(host).map_err(|error| error.to_string())?;
            vanish(netns);
            let output = child.wait_with_output().map_err(|error| error.to_string())?;
            let document: serde_json::Value =
                serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
            if output.status.success() == document.get("msg").is_some() {
                return Err(format!("{output:?}"));
            }
            del(host, call).map(|()| None)
        }
        2 => {
            add()?;
            del(host, call).map(|()| None)
        }
        _ => address(&add()?).map(Some).map_err(|error| error.to_string()),
    }
}

#[test]
fn a_hundred_come_and_go_at_once_while_namespaces_vanish_and_those_who_stay_are_well() {
    let mut lab = Lab::up(LabOptions::of(&LabOptions::unique_name("hundred"), 1, 0)).unwrap();
    let containers: Vec<_> = (0..MANY).map(|_| lab.container("n1", "w").unwrap()).collect();
    let host = lab.host("n1");
    let watch = PortWatch::start(host);
    let ends: Vec<_> = std::thread::scope(|scope| {
        let lives: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(number, (id, netns))| {
                let mut call = add_call(host, &pod(number), id, netns);
                call.stdin["weft"]["timeoutSeconds"] = 120.into();
                scope.spawn(move || live(host, number, &call, netns))
            })
            .collect();
        lives.into_iter().map(|life| life.join().unwrap()).collect()
    });
    let failures: Vec<&String> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let mut staying: Vec<_> = ends.iter().filter_map(|end| *end.as_ref().unwrap()).collect();
    staying.sort();
    staying.dedup();
    assert_eq!(staying.len(), MANY / 4, "an address was given twice");
    let left = || Ok(host.endpoints()?.len() == staying.len());
    wait::until_true("collection of what vanished", PATIENCE * 2, left).unwrap();
    assert!(host.status().unwrap().collected > 0, "what was collected is counted");
    let clean = || {
        let status = host.status()?;
        Ok(status.network.in_sync && status.datapath.in_sync && status.alarms.is_empty())
    };
    wait::until_true("a clean pass", PATIENCE * 2, clean).unwrap();
    // The kernel takes a namespace down after its name is gone.
    let links = || Ok(host.sh("ip -o link show type veth")?.matches(": weft").count() == staying.len());
    wait::until_true("no link but theirs", PATIENCE, links).unwrap();
    // Nor what was made for those who went.
    let stay = |kind: usize| (0..MANY).filter(move |number| number % 4 == 3 && number % 3 == kind);
    let devices = || Ok(host.sh("ip -o link show type ifb")?.lines().count() == stay(0).count());
    wait::until_true("no shaper but theirs", PATIENCE, devices).unwrap();
    let mapped = host.sh("nft list map ip weft ports").unwrap();
    assert_eq!(mapped.matches("tcp .").count(), stay(1).count(), "{mapped}");
    assert!(stay(1).all(|number| mapped.contains(&format!("tcp . {} ", 61000 + number))), "{mapped}");
    assert_eq!(unfiltered(host), [""; 0]);
    let seen = watch.stop();
    assert_eq!(seen.violations, [""; 0]);
    assert!(seen.raised >= MANY / 2, "{} ports came up", seen.raised);
    let stays = containers[3].1.clone();
    let ip = *ends[3].as_ref().unwrap().as_ref().unwrap();
    let _server = HttpServer::start(&stays, 8080).unwrap();
    probe::get(&host.netns, SocketAddr::from((ip, 8080)), PATIENCE).expect("one of those who stay");
}
