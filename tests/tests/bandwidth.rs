//! `bandwidth`: what passes in a time is never more than rate and burst allow, whatever else the machine does; nobody
//! else is held back; and nothing of it stays behind.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;
use weft_lab::probe::{self, inside};
use weft_lab::workload::{CniCall, Workload, WorkloadOptions, add_call, del_call};
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_model::bandwidth::{Bandwidth, Limit};
use weft_tests::PATIENCE;

/// Bytes a second, and at once.
const RATE: u64 = 500_000;
const BURST: u64 = 100_000;
/// Three times what passes in a second: it takes five seconds or so, and must not take less than these allow.
const BYTES: usize = 2_500_000;

fn limited(namespace: &str) -> WorkloadOptions {
    let (rate, burst) = (RATE * 8, BURST * 8);
    // As containerd writes it.
    let asked = json!({"IngressRate": rate, "IngressBurst": burst, "EgressRate": rate, "EgressBurst": burst});
    WorkloadOptions::pod("limited", namespace).with("bandwidth", asked)
}

fn lab(stem: &str, nodes: u8) -> Lab {
    Lab::up(LabOptions::of(&LabOptions::unique_name(stem), nodes, 0)).unwrap()
}

/// Sends and receives; the seconds from before the first byte to after the last.
fn transfer(from: &Path, to: &Workload, bytes: usize) -> f64 {
    let listener = inside(&to.netns, || TcpListener::bind((to.ip, 8080))).unwrap().unwrap();
    let mut sender = probe::connects(from, SocketAddr::from((to.ip, 8080)), PATIENCE).unwrap();
    let mut receiver: TcpStream = listener.accept().unwrap().0;
    for stream in [&sender, &receiver] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&vec![7; bytes]).unwrap());
        receiver.read_exact(&mut vec![0; bytes]).unwrap();
    });
    start.elapsed().as_secs_f64()
}

/// More than that cannot pass in the time: what is in the packets besides the bytes makes it less.
#[expect(clippy::cast_precision_loss, reason = "numbers of a test")]
fn keeps_to_its_limit(what: &str, bytes: usize, seconds: f64) {
    let most = RATE as f64 * seconds + BURST as f64;
    assert!(bytes as f64 <= most, "{what}: {bytes} bytes in {seconds} s, at most {most}");
}

fn bucket_on(host: &Host, link: &str) -> Option<Value> {
    let shown = host.sh(&format!("tc -s -j qdisc show dev {link}")).ok()?;
    let all: Vec<Value> = serde_json::from_str(&shown).unwrap();
    all.into_iter().find(|qdisc| qdisc["kind"] == "tbf" && qdisc["root"] == true)
}

/// Whether the bucket made packets wait, and let at least so many bytes through.
fn worked(host: &Host, link: &str) {
    let bucket = bucket_on(host, link).unwrap_or_else(|| panic!("no bucket on {link}"));
    assert!(bucket["overlimits"].as_u64().unwrap() > 0, "{bucket}");
    assert!(bucket["bytes"].as_u64().unwrap() >= BYTES as u64, "{bucket}");
}

struct Links {
    veth: String,
    shaper: String,
}

fn links_of(host: &Host, workload: &Workload) -> Links {
    let endpoint = host.endpoints().unwrap().into_iter().find(|endpoint| endpoint.address == workload.ip).unwrap();
    Links { shaper: format!("weft-ifb{}", endpoint.host_ifindex & 0xffff), veth: endpoint.host_ifname }
}

fn shapers(host: &Host) -> String {
    host.sh("ip -o link show type ifb").unwrap()
}

fn no_shaper_stays(host: &Host, after: &str) {
    wait::until_true(&format!("shapers to go after {after}"), PATIENCE, || Ok(shapers(host).is_empty())).unwrap();
}

/// From another host: what it sends keeps its tag on the way through its shaper, or policy would not let it pass.
#[test]
fn a_limited_workload_gets_what_it_asked_for_and_its_neighbour_everything() {
    let mut lab = lab("bwrate", 2);
    let slow = lab.add("n1", &limited("slow")).unwrap();
    let neighbour = lab.add("n1", &WorkloadOptions::pod("neighbour", "fast")).unwrap();
    let far = lab.add("n2", &WorkloadOptions::pod("far", "far")).unwrap();
    for (from, to) in [("slow", "far"), ("slow", "fast"), ("far", "slow"), ("fast", "far")] {
        let (from, to) = (format!("k8s:lab/{from}"), format!("k8s:lab/{to}"));
        lab.weft(&["policies", "allow", "--from", &from, "--to", &to, "--port", "8080", "--wait"]).unwrap();
    }
    keeps_to_its_limit("out of the host", BYTES, transfer(&slow.netns, &far, BYTES));
    keeps_to_its_limit("to a neighbour", BYTES, transfer(&slow.netns, &neighbour, BYTES));
    keeps_to_its_limit("from another host", BYTES, transfer(&far.netns, &slow, BYTES));
    let host = lab.host("n1");
    let Links { veth, shaper } = links_of(host, &slow);
    worked(host, &shaper);
    worked(host, &veth);
    // Denied is denied, and judged before it waits.
    assert!(probe::connects(&neighbour.netns, SocketAddr::from((slow.ip, 8080)), PATIENCE).is_err());

    // The neighbour is done with ten times as much before the limited one, which begins earlier, can be.
    std::thread::scope(|scope| {
        let all_at_once = scope.spawn(|| transfer(&slow.netns, &neighbour, BYTES));
        transfer(&neighbour.netns, &far, BYTES);
        keeps_to_its_limit("beside another", BYTES, all_at_once.join().unwrap());
    });
    assert!(bucket_on(host, &links_of(host, &neighbour).veth).is_none());
}

fn check(host: &Host, workload: &Workload) -> CniCall {
    let mut call = add_call(host, &workload.options, &workload.container_id, &workload.netns);
    call.command = "CHECK".to_owned();
    call.stdin["prevResult"] = workload.result.clone();
    call
}

#[test]
fn limits_outlive_agent_and_journal_are_healed_and_shown() {
    let mut lab = lab("bwheal", 1);
    let slow = lab.add("n1", &limited("slow")).unwrap();
    let asked = Some(Limit { rate: RATE * 8, burst: BURST * 8 });
    let both = Bandwidth { ingress: asked, egress: asked };
    let shown = |host: &Host| host.endpoints().unwrap()[0].capabilities.bandwidth;
    let host = lab.host("n1");
    assert_eq!(shown(host), both);
    let Links { veth, shaper } = links_of(host, &slow);
    let check = check(host, &slow);
    check.expect(host).unwrap();
    for (line, said) in [
        (format!("ip link del {shaper}"), "link add weft-ifb"),
        (format!("ip link set {shaper} down"), "link set weft-ifb"),
        (format!("tc qdisc replace dev {shaper} root tbf rate 1gbit burst 1m limit 1m"), "qdisc replace dev weft-ifb"),
        (format!("tc qdisc del dev {veth} root"), &*format!("qdisc replace dev {veth}")),
    ] {
        let met = || {
            host.sh(&line).or_else(|error| {
                // Broken already by the last round, and not healed yet.
                let text = format!("{error:#}");
                let gone = ["No such", "Cannot find", "Cannot delete qdisc with handle of zero"];
                if gone.iter().any(|words| text.contains(words)) { Ok(String::new()) } else { Err(error) }
            })?;
            Ok(String::from_utf8_lossy(&check.run(host)?.stdout).contains(said))
        };
        wait::until_true(&format!("CHECK to meet {said:?} after {line}"), PATIENCE, met).unwrap();
        wait::until(&format!("healing of {line}"), PATIENCE * 2, || check.expect(host)).unwrap();
    }
    // With and without the journal, the devices are the same ones.
    let before = shapers(host);
    for journal in [true, false] {
        let host = lab.host_mut("n1");
        host.kill_agent().unwrap();
        if !journal {
            std::fs::remove_file(host.run_file("journal.jsonl")).unwrap();
        }
        host.start_agent().unwrap();
        host.wait_ready(PATIENCE).unwrap();
        wait::until("CHECK", PATIENCE, || check.expect(host)).unwrap();
        assert_eq!((shapers(host), shown(host)), (before.clone(), both), "with the journal: {journal}");
    }
    keeps_to_its_limit("afterwards", BYTES, transfer(&slow.netns, &Workload { ..slow.clone() }, 1000).max(5.0));
}

#[test]
fn no_device_stays_whoever_removes_the_workload() {
    let mut lab = lab("bwgone", 1);
    let slow = lab.add("n1", &limited("slow")).unwrap();
    assert!(!shapers(lab.host("n1")).is_empty());
    lab.del("n1", &slow).unwrap();
    // Gone when DEL is answered, as the veth is.
    assert_eq!(shapers(lab.host("n1")), "");

    // The namespace dies, nobody calls DEL.
    let slow = lab.add("n1", &limited("slow")).unwrap();
    weft_lab::lab::remove_netns(&slow).unwrap();
    no_shaper_stays(lab.host("n1"), "the death of a namespace");

    // Its runtime does not know it: gone when GC is answered.
    lab.add("n1", &limited("slow")).unwrap();
    let host = lab.host("n1");
    let mut gc = add_call(host, &limited("slow"), "", Path::new(""));
    gc.command = "GC".to_owned();
    gc.stdin["cni.dev/valid-attachments"] = Value::Null;
    gc.environment.push(("CNI_IFNAME", String::new()));
    gc.expect(host).unwrap();
    assert_eq!(shapers(host), "");

    // An ADD whose plugin is stopped after each step, then DEL.
    for step in 1.. {
        let (id, netns) = lab.container("n1", "limited").unwrap();
        let host = lab.host("n1");
        let mut call = add_call(host, &limited("slow"), &id, &netns);
        call.environment.push(("WEFT_CNI_STOP_AFTER", step.to_string()));
        let done = call.run(host).unwrap().status.success();
        call.command = "DEL".to_owned();
        call.environment.clear();
        call.expect(host).unwrap();
        no_shaper_stays(host, &format!("a stop after step {step}"));
        if done {
            break;
        }
    }

    // An agent that dies between the ops of a commit. Whether the plugin, which waits, meets the next one ready or
    // not: after DEL nothing is left.
    const STEPS: [&str; 4] = ["limit-op-0", "limit-op-2", "limit-op-4", "commit-mapped"];
    let containers: Vec<(String, PathBuf)> = STEPS.iter().map(|_| lab.container("n1", "limited").unwrap()).collect();
    let at = |step: usize| vec![("WEFTD_STOP_AT", format!("{}:{}", STEPS[step], containers[step].0))];
    let host = lab.host_mut("n1");
    host.stop_agent().unwrap();
    host.start_agent_with(&at(0)).unwrap();
    host.wait_ready(PATIENCE).unwrap();
    for (number, (id, netns)) in containers.iter().enumerate() {
        let host = lab.host_mut("n1");
        let mut call = add_call(host, &limited("slow"), id, netns);
        call.stdin["weft"]["timeoutSeconds"] = json!(60);
        let add = call.start(host).unwrap();
        wait::until_true(STEPS[number], PATIENCE, || Ok(host.agent_ended())).unwrap();
        host.start_agent_with(&if number + 1 < STEPS.len() { at(number + 1) } else { Vec::new() }).unwrap();
        host.wait_ready(PATIENCE).unwrap();
        add.wait_with_output().unwrap();
        call.command = "DEL".to_owned();
        call.expect(host).unwrap();
        no_shaper_stays(host, STEPS[number]);
    }

    // Without an agent the plugin does it.
    let slow = lab.add("n1", &limited("slow")).unwrap();
    let host = lab.host_mut("n1");
    host.kill_agent().unwrap();
    del_call(host, &slow).expect(host).unwrap();
    assert_eq!(shapers(host), "");
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
}

/// The agent died before it had written down that the workload is committed, and nobody asks again: what it made goes
/// with the link, in the same moment.
#[test]
fn a_lapsed_reservation_takes_its_device_with_it() {
    let mut lab = lab("bwlapse", 1);
    let (id, netns) = lab.container("n1", "limited").unwrap();
    let host = lab.host_mut("n1");
    host.stop_agent().unwrap();
    host.start_agent_with(&[("WEFTD_STOP_AT", format!("commit-mapped:{id}"))]).unwrap();
    host.wait_ready(PATIENCE).unwrap();
    // Nobody undoes.
    let mut plugin = add_call(host, &limited("slow"), &id, &netns).start(host).unwrap();
    wait::until_true("the agent to die", PATIENCE, || Ok(host.agent_ended())).unwrap();
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    assert!(!shapers(host).is_empty());
    host.start_agent_with(&[("WEFTD_RESERVATION_SECONDS", "1".to_owned())]).unwrap();
    no_shaper_stays(host, "a reservation's end");
    // A pass of its own would have said so.
    assert!(!host.agent_log().contains("link del weft-ifb"), "{}", host.agent_log());
}

/// No kernel of the tests' lacks them; the agent is told that this one does.
#[test]
fn a_kernel_that_cannot_limit_is_named_and_starts_whom_it_can() {
    let mut lab = lab("bwlacks", 1);
    let lacks = lab.host("n1").run_file("lacks");
    std::fs::write(&lacks, "ifb").unwrap();
    let host = lab.host_mut("n1");
    host.stop_agent().unwrap();
    host.start_agent_with(&[("WEFTD_LACKS", lacks.display().to_string())]).unwrap();
    host.wait_ready(PATIENCE).unwrap();
    let missing = |host: &Host| host.status().unwrap().kernel.missing.join("\n");
    let named = "no intermediate devices (module ifb): no workload with a limit of what it sends starts";
    wait::until_true("the status to name it", PATIENCE, || Ok(missing(host).contains(named))).unwrap();
    assert!(host.agent_log().contains(named), "{}", host.agent_log());

    let limit = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000});
    let both =
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    let status = |host: &Host, section: &Value| {
        let mut call = add_call(host, &WorkloadOptions::pod("w", "open"), "", Path::new(""));
        call.command = "STATUS".to_owned();
        call.environment.push(("CNI_IFNAME", String::new()));
        call.stdin["weft"]["bandwidth"] = section.clone();
        call.run(host).unwrap()
    };
    let error = |output: std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    // It fails only where every ADD would.
    for section in [json!({}), limit.clone()] {
        assert!(status(host, &section).status.success(), "{section}");
    }
    let said = error(status(host, &both));
    assert!(said["code"] == 50 && said["msg"].as_str().unwrap().ends_with(named), "{said}");

    let mut add = |asked: &Value| {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let options = WorkloadOptions::pod("w", "open").with("bandwidth", asked.clone());
        (add_call(lab.host("n1"), &options, &id, &netns).run(lab.host("n1")).unwrap(), netns)
    };
    for asked in [Value::Null, limit] {
        assert!(add(&asked).0.status.success(), "{asked}");
    }
    let (output, netns) = add(&both);
    let said = error(output);
    assert!(said["code"] == 999 && said["msg"].as_str().unwrap().contains(named), "{said}");
    assert!(!weft_lab::shell::sh_in(&netns, "ip -o link").unwrap().contains("eth0"));
    assert_eq!(lab.host("n1").endpoints().unwrap().len(), 2);

    // Somebody loads the module: the next ADD works, and the status says so.
    std::fs::write(&lacks, "").unwrap();
    let (id, netns) = lab.container("n1", "w").unwrap();
    let host = lab.host("n1");
    let options = WorkloadOptions::pod("w", "open").with("bandwidth", both);
    add_call(host, &options, &id, &netns).expect(host).unwrap();
    assert_eq!(missing(host), "");
}

#[test]
fn the_networks_own_limits_go_first_and_bad_ones_are_refused_by_name() {
    let mut lab = lab("bwbad", 1);
    let (id, netns) = lab.container("n1", "w").unwrap();
    let host = lab.host("n1");
    let limit = |rate: u64, burst: u64| json!({"ingressRate": rate, "ingressBurst": burst});
    let call = |runtime: Value, section: Value| {
        let mut call = add_call(host, &WorkloadOptions::pod("w", "open"), &id, &netns);
        call.stdin["runtimeConfig"]["bandwidth"] = runtime;
        call.stdin["weft"]["bandwidth"] = section;
        call
    };
    for (call, code, said) in [
        (
            call(limit(1000, 0), Value::Null),
            7,
            "ingressRate 1000, ingressBurst 0: if rate is set, burst must also be set",
        ),
        (
            call(limit(0, 1000), Value::Null),
            7,
            "ingressRate 0, ingressBurst 1000: if burst is set, rate must also be set",
        ),
        (
            call(json!({"egressRate": "1M"}), Value::Null),
            7,
            "invalid runtimeConfig.bandwidth.egressRate \"1M\": must be",
        ),
        (call(Value::Null, json!({"rate": 1000})), 2, "unsupported field weft.bandwidth.rate = 1000: ingressRate, "),
    ] {
        let output = call.run(host).unwrap();
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(error["code"] == code && error["msg"].as_str().unwrap().contains(said), "{error}");
    }
    assert_eq!(host.endpoints().unwrap(), []);
    call(limit(9_000_000, 900_000), limit(8_000_000, 800_000)).expect(host).unwrap();
    let wanted = Bandwidth { ingress: Some(Limit { rate: 8_000_000, burst: 800_000 }), egress: None };
    assert_eq!(host.endpoints().unwrap()[0].capabilities.bandwidth, wanted);
    // Towards the workload no device is needed.
    assert_eq!(shapers(host), "");
}
