//! DEL through the agent: many at once, over its death, and what comes right after.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::net::SocketAddr;
use weft_lab::probe::{self, HttpServer};
use weft_lab::shell::{sh, sh_in};
use weft_lab::wait;
use weft_lab::workload::{Workload, WorkloadOptions, add_call, del_call};
use weft_lab::{Host, Lab};
use weft_tests::{PATIENCE, lab, wait_endpoints};

const MANY: usize = 24;

/// Names of our workloads' links on a host.
fn links(host: &Host) -> usize {
    let all = host.sh("ip -o link show").unwrap();
    let is_workloads = |name: &str| name.len() == 15 && name.starts_with("weft");
    all.lines().filter_map(|line| line.split([':', '@']).nth(1)).filter(|name| is_workloads(name.trim())).count()
}

fn add_many(lab: &mut Lab, count: usize) -> Vec<Workload> {
    (0..count).map(|_| lab.add("n1", &WorkloadOptions::pod("w", "open")).unwrap()).collect()
}

/// When a DEL has answered, both ends are gone and the address is free; whoever was not named lives on.
#[test]
fn many_at_once_are_gone_when_they_are_answered_and_the_others_live() {
    let mut lab = lab("many");
    let workloads = add_many(&mut lab, MANY);
    let stays = lab.add("n1", &WorkloadOptions::pod("stays", "open")).unwrap();
    let _server = HttpServer::start(&stays.netns, 8080).unwrap();
    let host = lab.host("n1");
    assert_eq!(links(host), MANY + 1);
    let answered = std::thread::scope(|scope| {
        let del = |workload| {
            move || {
                let output = del_call(host, workload).run(host).unwrap();
                assert!(output.status.success(), "{output:?}");
                let inside = sh_in(&workload.netns, "ip -o link").unwrap();
                assert!(!inside.contains("eth0"), "answered, and its interface is there: {inside}");
                // Where the agent is slow to answer, the plugin does it, and says so.
                output.stderr.is_empty()
            }
        };
        let plugins: Vec<_> = workloads.iter().map(|workload| scope.spawn(del(workload))).collect();
        plugins.into_iter().all(|plugin| plugin.join().unwrap())
    });
    assert_eq!(links(host), 1);
    if !answered {
        wait_endpoints(host, 1);
    }
    let left = host.endpoints().unwrap();
    assert_eq!(left.iter().map(|endpoint| endpoint.address).collect::<Vec<_>>(), [stays.ip]);
    probe::get(&host.netns, SocketAddr::from((stays.ip, 8080)), PATIENCE).expect("it was not named");
    // The runtime may start the same container again in the same namespace, under the same name.
    std::thread::scope(|scope| {
        for workload in &workloads[..4] {
            scope.spawn(move || {
                let call = add_call(host, &workload.options, &workload.container_id, &workload.netns);
                call.expect(host).expect("ADD right after DEL");
            });
        }
    });
    assert_eq!(links(host), 5);
}

/// The agent takes the request and dies before it answers: the plugin removes the link itself, and the
/// next agent gives the address back.
#[test]
fn an_agent_killed_while_it_removes_leaves_nothing() {
    let mut lab = lab("dies");
    let workloads = add_many(&mut lab, 4);
    let host = lab.host("n1");
    let agent = host.agent_id().unwrap();
    host.freeze_agent().unwrap();
    let calls: Vec<_> = workloads.iter().map(|workload| del_call(host, workload)).collect();
    std::thread::scope(|scope| {
        let plugins: Vec<_> = calls.iter().map(|call| scope.spawn(move || call.expect(host))).collect();
        // The first may have given up waiting when the last begins.
        let mut absent: Vec<&str> = workloads.iter().map(|one| one.container_id.as_str()).collect();
        wait::until_true("the plugins to be at it", PATIENCE, || {
            absent.retain(|id| weft_tests::plugin_process(id).is_none());
            Ok(absent.is_empty())
        })
        .unwrap();
        sh(&format!("kill -KILL {agent}")).unwrap();
        for plugin in plugins {
            plugin.join().unwrap().expect("DEL over the agent's death");
        }
    });
    assert_eq!(links(host), 0);
    let host = lab.host_mut("n1");
    drop(host.kill_agent());
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    wait::until_true("the notes to be carried out", PATIENCE, || Ok(host.endpoints()?.is_empty())).unwrap();
}

/// Killed between dooming links and removing them, an agent leaves links that still work and still are
/// somebody's: the plugin's own removal, or the next pass, takes them; the others stay.
#[test]
fn what_an_agent_doomed_and_did_not_remove_goes_with_the_next_pass() {
    let mut lab = lab("doom");
    let workloads = add_many(&mut lab, 3);
    let host = lab.host("n1");
    let doomed = &host.endpoints().unwrap()[0];
    let group = weft_model::op::DOOMED_GROUP;
    host.sh(&format!("ip link set {} group {group}", doomed.host_ifname)).unwrap();
    std::thread::scope(|scope| {
        for workload in workloads.iter().filter(|one| one.container_id != doomed.attachment.container_id.as_str()) {
            scope.spawn(move || del_call(host, workload).expect(host).unwrap());
        }
    });
    // Its DEL, which had no answer, comes again in any case.
    let again = workloads.iter().find(|one| one.container_id == doomed.attachment.container_id.as_str()).unwrap();
    del_call(host, again).expect(host).unwrap();
    assert_eq!(links(host), 0);
    wait_endpoints(host, 0);
}
