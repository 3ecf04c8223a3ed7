//! Policies that do not fit into a map: whoever they are for stays under the policies before, the others do not
//! notice, an alarm says so, and it heals.

use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use weft_lab::probe::{self, HttpServer};
use weft_lab::workload::WorkloadOptions;
use weft_lab::{Lab, wait};
use weft_tests::{PATIENCE, lab_with};

const POLICIES: &str = "/networking/v1/external/policies";

/// Ports 2 to 65534 are 29 prefixes, so these are more than the 4,096 that `ranges` is given.
const SOURCES: u32 = 150;

/// Of these sources' policies there is room, and not much is left.
const MANY: u32 = 130;

fn policies(sources: u32) -> String {
    let policy = |number: u32| {
        let destination = json!({"id": "big", "protocol": "tcp", "ports": {"start": 2, "end": 65534}});
        json!({"source": {"id": format!("s{number}")}, "destination": destination})
    };
    json!({"policies": (0..sources).map(policy).collect::<Vec<_>>()}).to_string()
}

fn post(lab: &Lab, path: &str, body: &str) {
    let (status, answer) = lab.rest("POST", path, Some(body)).expect("the policy server");
    assert_eq!(status, 200, "{answer}");
}

fn passes(from: &Path, to: SocketAddr) -> bool {
    probe::connects(from, to, PATIENCE).is_ok()
}

#[test]
fn a_group_whose_policies_do_not_fit_keeps_those_before_and_the_others_do_not_notice() {
    let mut lab = lab_with("full", |host| host.flags.extend(["--max-policy-entries", "4096"].map(str::to_owned)));
    let app = |name: &str, group: &str| WorkloadOptions::app(name, group);
    let client = lab.add("c1", &app("client", "client")).expect("client");
    let big = lab.add("c1", &app("big", "big")).expect("big");
    let small = lab.add("c1", &app("small", "small")).expect("small");
    let _servers = [&big, &small].map(|workload| HttpServer::start(&workload.netns, 8080).expect("a server"));
    let (to_big, to_small) = (SocketAddr::from((big.ip, 8080)), SocketAddr::from((small.ip, 8080)));
    lab.weft(&["policies", "allow", "--from", "client", "--to", "big", "--port", "8080", "--wait"]).expect("allowed");

    post(&lab, POLICIES, &policies(MANY));
    let foretold = || {
        let alarms = lab.host("c1").status()?.alarms;
        Ok(alarms.iter().any(|alarm| {
            alarm.contains("map ranges of the programs is nearly full: 3770 of 4096")
                && alarm.contains("raise max_policy_entries")
        }))
    };
    wait::until_true("an alarm before it is full", PATIENCE * 2, foretold).expect("nearly full");
    let metrics = || {
        lab.host("c1").sh(&format!("curl -sS --unix-socket {} http://weftd/metrics", lab.host("c1").socket().display()))
    };
    let metrics = metrics().expect("metrics");
    for line in ["weft_map_entries{map=\"ranges\"} 3770\n", "weft_map_capacity{map=\"ranges\"} 4096\n"] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }

    let body = policies(SOURCES);
    post(&lab, POLICIES, &body);
    let alarmed = || {
        let alarms = lab.host("c1").status()?.alarms;
        Ok(alarms.iter().any(|alarm| alarm.contains("towards big do not fit: map ranges is full (4096 entries)")))
    };
    wait::until_true("an alarm", PATIENCE * 2, alarmed).expect("the map is full");
    assert!(passes(&client.netns, to_big), "the policy before is in force");
    assert!(!passes(&client.netns, to_small), "no policy allows it");
    // Others go on, but nobody is told that this host enforces the revision.
    let allow =
        ["policies", "allow", "--from", "client", "--to", "small", "--port", "8080", "--wait", "--timeout", "1s"];
    let behind = lab.weft(&allow).expect_err("not enforced everywhere").to_string();
    assert!(behind.contains("c1 is at"), "{behind}");
    wait::until_true("the others' policies", PATIENCE, || Ok(passes(&client.netns, to_small))).expect("they go on");
    // No workload starts under policies it cannot have.
    let late = lab.add("c1", &app("late", "big")).expect_err("its policies do not fit").to_string();
    assert!(late.contains("do not fit into the maps"), "{late}");
    lab.add("c1", &app("other", "client")).expect("others start");

    post(&lab, &format!("{POLICIES}/delete"), &body);
    let healed = || Ok(lab.host("c1").status()?.alarms.is_empty());
    wait::until_true("the alarm's end", PATIENCE * 2, healed).expect("it heals");
    lab.weft(&["policies", "deny", "--from", "client", "--to", "big", "--port", "8080", "--wait", "--timeout", "60s"])
        .expect("enforced everywhere again");
    assert!(!passes(&client.netns, to_big), "taken back");
}
