//! CHECK, GC, STATUS and addresses with the real agent.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use weft_lab::workload::{CniCall, Workload, WorkloadOptions, add_call, address};
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::PATIENCE;

fn lab_of_two(stem: &str) -> Lab {
    Lab::up(LabOptions::of(&LabOptions::unique_name(stem), 2, 0)).unwrap()
}

fn pod() -> WorkloadOptions {
    WorkloadOptions::pod("w", "open")
}

fn check_call(host: &Host, workload: &Workload) -> CniCall {
    let mut call = add_call(host, &workload.options, &workload.container_id, &workload.netns);
    call.command = "CHECK".to_owned();
    call.stdin["prevResult"] = workload.result.clone();
    call
}

/// A command about the host, with the empty variables containerd sends.
fn host_call(host: &Host, command: &str, changes: Value) -> CniCall {
    let mut call = add_call(host, &pod(), "", std::path::Path::new(""));
    call.command = command.to_owned();
    call.args.clear();
    call.environment.push(("CNI_IFNAME", String::new()));
    call.stdin.as_object_mut().unwrap().remove("runtimeConfig");
    for (key, value) in changes.as_object().unwrap() {
        call.stdin[key] = value.clone();
    }
    call
}

fn error_of(call: &CniCall, host: &Host) -> Value {
    let output = call.run(host).unwrap();
    assert!(!output.status.success(), "succeeded: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not one JSON document: {output:?}"))
}

fn link_of(host: &Host, workload: &Workload) -> String {
    let endpoints = host.endpoints().unwrap();
    endpoints.into_iter().find(|endpoint| endpoint.address == workload.ip).expect("it is known").host_ifname
}

/// The agent heals what it is told of within milliseconds: each thing is broken until CHECK has met it.
#[test]
fn check_finds_what_is_taken_from_a_workload_and_succeeds_again_once_it_is_healed() {
    let mut lab = lab_of_two("check");
    let mapped = json!([{"hostPort": 61010, "containerPort": 8080, "protocol": "tcp"}]);
    let workload = lab.add("n1", &pod().with("portMappings", mapped)).unwrap();
    let host = lab.host("n1");
    let check = check_call(host, &workload);
    check.expect(host).expect("CHECK right after ADD, as CRI-O does");
    let (link, ip) = (link_of(host, &workload), workload.ip);
    let mac = weft_model::mac::Mac::for_workload(ip);
    for (line, said) in [
        (format!("tc qdisc del dev {link} clsact"), "lacks its programs"),
        (format!("ip link set {link} nomaster"), "is no port of bridge weft0"),
        (format!("ip link set {link} down"), "is down"),
        (format!("ip link set {link} mtu 1000"), "has MTU 1000 instead of 1450"),
        (format!("bridge link set dev {link} hairpin off"), "does not hairpin"),
        (format!("bridge fdb del {mac} dev {link} master"), "no static entry"),
        (format!("ip neigh del {ip} dev weft0"), "no permanent neighbour"),
        ("nft delete element ip weft ports { tcp . 61010 }".to_owned(), "does not lead tcp *:61010->8080 to it"),
        ("nft delete table ip weft".to_owned(), "does not lead tcp *:61010->8080 to it"),
        ("ip link set weft0 down".to_owned(), "bridge weft0 is down"),
        ("sysctl -qw net.ipv4.ip_forward=0".to_owned(), "net/ipv4/ip_forward is 0 instead of 1"),
    ] {
        let met = || {
            host.sh(&line).or_else(|error| {
                // Broken already by the last round, and not healed yet.
                if format!("{error:#}").contains("No such") { Ok(String::new()) } else { Err(error) }
            })?;
            let output = check.run(host)?;
            Ok(String::from_utf8_lossy(&output.stdout).contains(said))
        };
        wait::until_true(&format!("CHECK to meet {said:?} after {line}"), PATIENCE, met).unwrap();
        // The setting has no notification: it waits for the timer.
        wait::until(&format!("healing of {line}"), PATIENCE * 2, || check.expect(host)).unwrap();
    }
    // A map entry overwritten: nobody would notice before a restart.
    overwrite_endpoints(host);
    let error = error_of(&check, host);
    assert!(error["msg"].as_str().unwrap().contains("the programs' map has no entry for it"), "{error}");
    let host = lab.host_mut("n1");
    host.kill_agent().unwrap();
    assert_eq!(error_of(&impatient(&check), host)["code"], 11, "no agent, no proof");
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    wait::until("CHECK after the agent's restart", PATIENCE, || check.expect(host)).unwrap();
}

fn impatient(call: &CniCall) -> CniCall {
    let mut call = call.clone();
    call.stdin["weft"]["timeoutSeconds"] = json!(1);
    call
}

/// Zeroes all entries of the endpoint map.
fn overwrite_endpoints(host: &Host) {
    // Whatever version the layout has.
    let versions = std::fs::read_dir(host.bpf_dir()).unwrap().map(|version| version.unwrap().path().join("maps/ep"));
    let pin = versions.filter(|pin| pin.exists()).map(|pin| pin.display().to_string()).next().unwrap();
    let shown: Value =
        serde_json::from_str(&weft_lab::shell::sh(&format!("bpftool -j map show pinned {pin}")).unwrap()).unwrap();
    let zeroes = vec!["00"; usize::try_from(shown["bytes_value"].as_u64().unwrap()).unwrap()].join(" ");
    for slot in 2..4 {
        weft_lab::shell::sh(&format!("bpftool map update pinned {pin} key hex 0{slot} 00 00 00 value hex {zeroes}"))
            .unwrap();
    }
}

#[test]
fn gc_removes_what_its_runtime_does_not_know_and_nothing_of_another_network() {
    let mut lab = lab_of_two("gc");
    let [kept, unknown, lost] = [0; 3].map(|_| lab.add("n1", &pod()).unwrap());
    let (id, netns) = lab.container("n1", "other").unwrap();
    let host = lab.host("n1");
    let mut other = add_call(host, &pod(), &id, &netns);
    other.stdin["name"] = json!("other");
    other.expect(host).unwrap();
    // Killed after it had made its veth: a reservation with a link.
    let (id, netns) = lab.container("n1", "killed").unwrap();
    let host = lab.host("n1");
    let mut killed = add_call(host, &pod(), &id, &netns);
    killed.environment.push(("WEFT_CNI_STOP_AFTER", "4".to_owned()));
    assert!(!killed.run(host).unwrap().status.success());
    let addresses = |host: &Host| -> Vec<Ipv4Addr> {
        let mut all: Vec<_> = host.endpoints().unwrap().into_iter().map(|endpoint| endpoint.address).collect();
        all.sort();
        all
    };
    assert_eq!(addresses(host).len(), 5);
    // Somebody wrote another alias on it: still its link.
    host.sh(&format!("ip link set {} alias mine", link_of(host, &lost))).unwrap();
    let list = json!([
        {"containerID": kept.container_id, "ifname": "eth0"},
        {"containerID": "never-heard-of", "ifname": "eth0"},
    ]);
    host_call(host, "GC", json!({"cni.dev/valid-attachments": list.clone(), "cni.dev/attachments": list}))
        .expect(host)
        .unwrap();
    let left = host.endpoints().unwrap();
    let networks: Vec<&str> = left.iter().map(|endpoint| endpoint.network.as_str()).collect();
    assert_eq!(networks, ["weft", "other"], "{left:?}");
    assert_eq!(left[0].address, kept.ip);
    let links = host.sh("ip -o link show type veth").unwrap();
    assert_eq!(links.matches(": weft").count(), 2, "{links}");
    for gone in [&unknown, &lost] {
        let inside = weft_lab::shell::sh_in(&gone.netns, "ip -o link").unwrap();
        assert!(!inside.contains("eth0"), "{inside}");
    }
    check_call(host, &kept).expect(host).expect("who was kept is as it was");
    // A mistaken caller removes nothing, a nil list everything of this network.
    assert_eq!(error_of(&host_call(host, "GC", json!({})), host)["code"], 7);
    assert_eq!(addresses(host).len(), 2);
    host_call(host, "GC", json!({"cni.dev/valid-attachments": null})).expect(host).unwrap();
    let left = host.endpoints().unwrap();
    assert!(left.len() == 1 && left[0].network == "other", "{left:?}");

    // With the journal lost, the links tell whose they are.
    let unknown = lab.add("n1", &pod()).unwrap();
    let host = lab.host_mut("n1");
    host.kill_agent().unwrap();
    std::fs::remove_file(host.run_file("journal.jsonl")).unwrap();
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    let host = lab.host("n1");
    let adopted: Vec<String> = host.endpoints().unwrap().into_iter().map(|endpoint| endpoint.network).collect();
    assert_eq!(adopted, ["", ""]);
    let of_nobody = host_call(host, "GC", json!({"name": "third", "cni.dev/valid-attachments": null}));
    of_nobody.expect(host).unwrap();
    assert_eq!(addresses(host).len(), 2);
    host_call(host, "GC", json!({"cni.dev/valid-attachments": null})).expect(host).unwrap();
    let links = host.sh("ip -o link show type veth").unwrap();
    assert_eq!((addresses(host).len(), links.matches(": weft").count()), (1, 1), "{links}");
    assert!(!addresses(host).contains(&unknown.ip));
}

#[test]
fn status_fails_only_when_an_add_would_and_says_whether_workloads_may_be_affected() {
    let mut lab = lab_of_two("status");
    let workload = lab.add("n1", &pod()).unwrap();
    let status = |host: &Host| host_call(host, "STATUS", json!({}));
    status(lab.host("n1")).expect(lab.host("n1")).unwrap();
    // etcd away, alarms: none of it is a reason.
    lab.etcd.freeze().unwrap();
    status(lab.host("n1")).expect(lab.host("n1")).expect("etcd is frozen, ADD works");
    // A host without a lease, and without any way to get one.
    let host = lab.host_mut("n2");
    host.kill_agent().unwrap();
    for file in ["node.json", "lease.json", "policies.json"] {
        std::fs::remove_file(host.state_file(file)).unwrap();
    }
    host.start_agent().unwrap();
    let refused = || {
        let error = error_of(&impatient(&status(lab.host("n2"))), lab.host("n2"));
        Ok(error["code"] == 50 && error["msg"].as_str().unwrap_or_default().contains("agent not ready"))
    };
    wait::until_true("STATUS 50", PATIENCE, refused).unwrap();
    let (id, netns) = lab.container("n2", "w").unwrap();
    let add = impatient(&add_call(lab.host("n2"), &pod(), &id, &netns));
    assert_eq!(error_of(&add, lab.host("n2"))["code"], 11, "and ADD fails with the same words");
    // No programs can be loaded, and a workload runs.
    let host = lab.host_mut("n1");
    host.kill_agent().unwrap();
    // The kernel lets go of a dead agent's maps a moment later.
    wait::until("the bpffs to be let go of", PATIENCE, || nix::mount::umount(&host.bpf_dir())).unwrap();
    host.start_agent().unwrap();
    let limited = || Ok(error_of(&impatient(&status(lab.host("n1"))), lab.host("n1"))["code"] == 51);
    wait::until_true("STATUS 51", PATIENCE, limited).unwrap();
    assert_eq!(lab.host("n1").endpoints().unwrap()[0].address, workload.ip);
}

#[test]
fn requested_reserved_and_foreign_addresses() {
    let mut lab = lab_of_two("ipam");
    let subnet = lab.host("n1").status().unwrap().subnet.unwrap();
    let at = |offset: u32| subnet.address(offset).unwrap();
    let host = lab.host_mut("n1");
    host.kill_agent().unwrap();
    let reserved = format!("{}-{},{}", at(3), at(200), at(205));
    host.options.flags.extend(["--reserved-addresses".to_owned(), reserved]);
    host.sh(&format!("ip addr add {}/32 dev eth0", at(201))).unwrap();
    // The bridge is ours: what somebody put on it goes, and harms no ADD.
    host.sh("ip addr add 198.51.100.7/24 dev weft0").unwrap();
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    assert!(!host.sh("ip addr show dev weft0").unwrap().contains("198.51.100.7"));
    let given: Vec<Ipv4Addr> = (0..3).map(|_| lab.add("n1", &pod()).unwrap().ip).collect();
    assert_eq!(given, [at(2), at(202), at(203)], "reserved ones and the host's own are left out");
    let free = lab.host("n1").status().unwrap().free_addresses;
    assert_eq!(free, 253 - 199 - 1 - 3);
    let mut ask = |address: Ipv4Addr| {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let host = lab.host("n1");
        let mut call = add_call(host, &pod(), &id, &netns);
        call.environment.push(("CNI_PATH", "/usr/lib/cni".to_owned()));
        call.stdin["ipam"] = json!({"type": "static", "addresses": [{"address": format!("{address}/24")}]});
        let output = call.run(host).unwrap();
        let inside = weft_lab::shell::sh_in(&netns, "ip -o link").unwrap();
        assert_eq!(inside.contains("eth0"), output.status.success(), "{inside}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    for (offset, code, why) in [
        (2, 11, "/eth0 has it"),
        (100, 7, "it is kept back by the agent's setting reserved_addresses"),
        (201, 11, "this host uses it for something weft does not know"),
        (1, 7, "it is no workload's address: in subnet"),
        (255, 7, "it is no workload's address: in subnet"),
    ] {
        let error = ask(at(offset));
        assert!(error["code"] == code && error["msg"].as_str().unwrap().contains(why), "{offset}: {error}");
    }
    let error = ask("192.0.2.9".parse().unwrap());
    assert!(error["msg"].as_str().unwrap().contains("it is outside this host's subnet"), "{error}");
    let result = ask(at(250));
    assert_eq!(address(&result).unwrap(), at(250));
    assert_eq!(lab.host("n1").endpoints().unwrap().len(), 4, "what was refused left something");
}
