//! The plugin and the agent are stopped after every single step of ADD and DEL: no port is ever up
//! without its programs, the next DEL or the agent's own collection leaves nothing, and an ADD that
//! waits for the agent comes to its end. (Debug builds have the hooks: `fault` in both crates.)

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;
use weft_lab::workload::{CniCall, WorkloadOptions, add_call, del_call};
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::ports::{PortWatch, unfiltered};
use weft_tests::{PATIENCE, lab};

/// Steps an ADD has at least: survey, (no) delegate, reserve, veth, seven ops inside, commit.
const ADD_STEPS: usize = 12;

fn stop_after(call: &CniCall, step: usize) -> CniCall {
    let mut call = call.clone();
    call.environment.push(("WEFT_CNI_STOP_AFTER", step.to_string()));
    call
}

fn was_stopped(output: &Output) -> bool {
    // Through nsenter, which becomes the plugin.
    let stopped = output.status.signal() == Some(nix::libc::SIGABRT);
    assert!(!stopped || output.stdout.is_empty(), "it was stopped and printed: {output:?}");
    assert!(stopped || output.status.success(), "neither stopped nor done: {output:?}");
    stopped
}

fn links(host: &Host) -> Vec<String> {
    let links = host.sh("ip -o link show type veth").unwrap();
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    names.filter(|name| name.starts_with("weft") && *name != "weft0").map(str::to_owned).collect()
}

fn nothing_is_left(host: &Host) {
    wait::until_true("reservations to go", PATIENCE, || Ok(host.endpoints()?.is_empty())).unwrap();
    assert_eq!(links(host), [""; 0]);
}

fn inside_is_empty(netns: &std::path::Path) {
    let links = weft_lab::shell::sh_in(netns, "ip -o link").unwrap();
    assert!(!links.contains("eth0"), "{links}");
}

#[test]
fn wherever_an_add_is_stopped_the_next_del_leaves_nothing_and_the_next_add_works() {
    let mut lab = lab("stopadd");
    let pod = WorkloadOptions::pod("w", "open");
    let watch = PortWatch::start(lab.host("n1"));
    let mut steps = 0;
    loop {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let host = lab.host("n1");
        let call = add_call(host, &pod, &id, &netns);
        let stopped = was_stopped(&stop_after(&call, steps + 1).run(host).unwrap());
        assert_eq!(unfiltered(host), [""; 0], "after step {}", steps + 1);
        let mut del = call.clone();
        del.command = "DEL".to_owned();
        if steps % 2 == 0 && stopped && steps + 1 < ADD_STEPS {
            // Without a DEL between: what is left is replaced.
            call.expect(host).unwrap_or_else(|error| panic!("ADD after a stop at step {}: {error:#}", steps + 1));
        }
        del.expect(host).unwrap_or_else(|error| panic!("DEL after a stop at step {}: {error:#}", steps + 1));
        nothing_is_left(host);
        inside_is_empty(&netns);
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps >= ADD_STEPS, "only {steps} steps");
    let seen = watch.stop();
    assert_eq!(seen.violations, [""; 0]);
    assert!(seen.raised >= 2, "{seen:?}");
}

/// Stops DELs after each step until one is not stopped; how many steps there were.
fn stop_dels(lab: &mut Lab, before: impl Fn(&mut Lab), after: impl Fn(&mut Lab)) -> usize {
    for step in 1.. {
        let workload = lab.add("n1", &WorkloadOptions::pod("w", "open")).unwrap();
        before(lab);
        let host = lab.host("n1");
        let del = del_call(host, &workload);
        let stopped = was_stopped(&stop_after(&del, step).run(host).unwrap());
        assert_eq!(unfiltered(host), [""; 0], "after step {step}");
        // Containerd's second DEL: neither namespace nor result.
        let mut again = del.clone();
        again.netns.clear();
        again.stdin.as_object_mut().unwrap().remove("prevResult");
        again.expect(host).unwrap();
        assert_eq!(links(host), [""; 0], "after step {step}");
        after(lab);
        nothing_is_left(lab.host("n1"));
        inside_is_empty(&workload.netns);
        if !stopped {
            return step - 1;
        }
    }
    unreachable!("a range without end")
}

#[test]
fn wherever_a_del_is_stopped_the_next_one_leaves_nothing() {
    let mut lab = lab_of_two("stopdel");
    start(lab.host_mut("n1"), &[]);
    let with_agent = stop_dels(&mut lab, |_| {}, |_| {});
    let alone =
        stop_dels(&mut lab, |lab| lab.host_mut("n1").kill_agent().unwrap(), |lab| start(lab.host_mut("n1"), &[]));
    assert!(with_agent >= 2 && alone >= 3, "{with_agent} and {alone} steps");
}

/// The plugin removes the link itself then and leaves a note; the next agent has nothing of it.
#[test]
fn wherever_the_agent_dies_a_del_succeeds_and_leaves_nothing() {
    let mut lab = lab_of_two("agentdel");
    let (id, netns) = lab.container("n1", "w").unwrap();
    let pod = WorkloadOptions::pod("w", "open");
    for step in ["remove-asked", "remove-passed", "remove-forgotten"] {
        start(lab.host_mut("n1"), &[("WEFTD_STOP_AT", format!("{step}:{id}"))]);
        let host = lab.host_mut("n1");
        let mut call = add_call(host, &pod, &id, &netns);
        call.expect(host).unwrap();
        call.command = "DEL".to_owned();
        call.expect(host).unwrap_or_else(|error| panic!("{step}: {error:#}"));
        assert_eq!(links(host), [""; 0], "{step}");
        wait::until_true(step, PATIENCE, || Ok(host.agent_ended())).unwrap();
        start(host, &[]);
        nothing_is_left(host);
        host.kill_agent().unwrap();
    }
}

fn lab_of_two(stem: &str) -> Lab {
    Lab::without_agents(LabOptions::of(&LabOptions::unique_name(stem), 2, 0)).unwrap()
}

/// Starts an agent with hooks.
fn start(host: &mut Host, hooks: &[(&str, String)]) {
    host.start_agent_with(hooks).unwrap();
    host.wait_ready(PATIENCE * 2).unwrap();
}

/// Nobody sends a DEL: the machine was full, the kubelet is gone.
#[test]
fn wherever_an_add_is_stopped_the_agent_alone_leaves_nothing() {
    let mut lab = lab_of_two("stray");
    // Long enough for an ADD on a busy machine, and for the last of them to be looked at.
    start(lab.host_mut("n1"), &[("WEFTD_RESERVATION_SECONDS", "15".to_owned())]);
    let pod = WorkloadOptions::pod("w", "open");
    for step in 1..ADD_STEPS {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let host = lab.host("n1");
        let output = stop_after(&add_call(host, &pod, &id, &netns), step).run(host).unwrap();
        assert!(was_stopped(&output), "step {step}");
    }
    let host = lab.host("n1");
    assert!(!links(host).is_empty(), "the test makes no strays");
    wait::until_true("collection", PATIENCE * 2, || Ok(links(host).is_empty() && host.endpoints()?.is_empty()))
        .unwrap();
}

/// Each time a workload's ADD is under way: the agent dies at that step, the next agent goes on.
#[test]
fn wherever_the_agent_dies_the_waiting_add_comes_to_its_end() {
    const STEPS: [&str; 9] = [
        "reserve-chosen",
        "reserve-written",
        "commit-guarded",
        "commit-mapped",
        "commit-op-0",
        "commit-op-1",
        "commit-op-2",
        "commit-op-3",
        "commit-written",
    ];
    let mut lab = lab_of_two("agentdies");
    let pod = WorkloadOptions::pod("w", "open");
    let containers: Vec<(String, PathBuf)> = STEPS.iter().map(|_| lab.container("n1", "w").unwrap()).collect();
    let at = |step: usize| format!("{}:{}", STEPS[step], containers[step].0);
    start(lab.host_mut("n1"), &[("WEFTD_STOP_AT", at(0))]);
    let watch = PortWatch::start(lab.host("n1"));
    for (step, (id, netns)) in containers.iter().enumerate() {
        let host = lab.host("n1");
        let mut call = add_call(host, &pod, id, netns);
        call.stdin["weft"]["timeoutSeconds"] = 60.into();
        let add = call.start(host).unwrap();
        let host = lab.host_mut("n1");
        wait::until_true(STEPS[step], PATIENCE, || Ok(host.agent_ended())).unwrap();
        assert_eq!(unfiltered(host), [""; 0], "at {}", STEPS[step]);
        let next = if step + 1 < STEPS.len() { vec![("WEFTD_STOP_AT", at(step + 1))] } else { Vec::new() };
        host.start_agent_with(&next).unwrap();
        let output = add.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", STEPS[step]);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let host = lab.host("n1");
        let mut check = call.clone();
        check.command = "CHECK".to_owned();
        check.stdin["prevResult"] = result;
        wait::until("CHECK", PATIENCE, || check.expect(host))
            .unwrap_or_else(|error| panic!("{}: {error:#}", STEPS[step]));
    }
    assert_eq!(lab.host("n1").endpoints().unwrap().len(), STEPS.len());
    for (id, netns) in &containers {
        let host = lab.host("n1");
        let mut del = add_call(host, &pod, id, netns);
        del.command = "DEL".to_owned();
        del.expect(host).unwrap();
    }
    nothing_is_left(lab.host("n1"));
    assert_eq!(watch.stop().violations, [""; 0]);
}

/// Were it blind, the tests here would prove nothing.
#[test]
fn the_eye_on_ports_sees_one_that_is_up_without_programs() {
    let lab = lab_of_two("eye");
    let host = lab.host("n1");
    let watch = PortWatch::start(host);
    host.sh("ip link add weft0123456789a index 16777300 type veth peer name other").unwrap();
    host.sh("ip link set weft0123456789a up").unwrap();
    let now = unfiltered(host);
    assert_eq!(now.len(), 2, "{now:?}");
    let seen = watch.stop();
    assert!(!seen.violations.is_empty(), "{seen:?}");
    host.sh("ip link del weft0123456789a").unwrap();
}
