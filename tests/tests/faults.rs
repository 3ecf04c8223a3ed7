//! What an operator finds at three in the morning: the host goes on, says what is wrong once, and heals.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weft_lab::probe::{self, HttpServer};
use weft_lab::workload::{Workload, WorkloadOptions, del_call};
use weft_lab::{Host, Lab, wait};
use weft_tests::{PATIENCE, lab};

/// So many ADDs that they would take longer than anybody waits if each asked etcd, which has 5 s to answer.
const MANY: usize = 13;

fn restart(lab: &mut Lab, host: &str, meanwhile: impl FnOnce(&Host)) {
    let host = lab.host_mut(host);
    host.kill_agent().unwrap();
    meanwhile(host);
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
}

/// Where links of programs are pinned.
fn links(host: &Host) -> PathBuf {
    host.bpf_dir().join(format!("v{}/links", weft_abi::LAYOUT_VERSION))
}

fn group_of(host: &Host, workload: &Workload) -> Option<String> {
    let endpoints = host.endpoints().unwrap();
    let found = endpoints.iter().find(|endpoint| endpoint.address == workload.ip).expect("it is known");
    found.group.as_ref().map(ToString::to_string)
}

fn link_of(host: &Host, workload: &Workload) -> String {
    let endpoints = host.endpoints().unwrap();
    endpoints.into_iter().find(|endpoint| endpoint.address == workload.ip).expect("it is known").host_ifname
}

/// A recreated VM: same address, empty disk. Its former record must lock out neither it nor those who
/// wait for all hosts.
#[test]
fn a_host_that_lost_its_disk_gets_its_subnet_back_and_nobody_waits_for_its_former_self() {
    let mut lab = lab("disk");
    let before = lab.host("n1").status().unwrap();
    restart(&mut lab, "n1", |host| {
        for file in ["node.json", "lease.json", "policies.json"] {
            std::fs::remove_file(host.state_file(file)).unwrap();
        }
    });
    let after = lab.host("n1").status().unwrap();
    assert_ne!(before.node, after.node);
    assert_eq!(before.subnet, after.subnet);
    wait::until_true("no alarm", PATIENCE, || Ok(lab.host("n1").status()?.alarms.is_empty())).unwrap();
    let former = format!("get --keys-only /weft/v1/hosts/{}", before.node);
    let forgotten = || Ok(lab.etcd.ctl(&former)?.trim().is_empty());
    wait::until_true("the former record to go", PATIENCE, forgotten).unwrap();
    lab.weft(&["policies", "allow", "--from", "a", "--to", "b", "--port", "1", "--wait"]).unwrap();
}

#[test]
fn torn_files_cost_neither_the_start_nor_a_workloads_identity() {
    let mut lab = lab("torn");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let stranger = lab.add("c1", &WorkloadOptions::app("stranger", "ffff")).unwrap();
    lab.weft(&["policies", "allow", "--from", "3b1c", "--to", "k8s:lab/shop", "--port", "8080", "--wait"]).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    let to = SocketAddr::from((web.ip, 8080));
    for host in ["n1", "c1"] {
        restart(&mut lab, host, |host| {
            for file in ["node.json", "lease.json", "policies.json"] {
                std::fs::write(host.state_file(file), "{\"version\":1,\"no").unwrap();
            }
            std::fs::write(host.run_file("journal.jsonl"), [0xff, 0, b'{']).unwrap();
        });
    }
    // Both ends' identities count: the sender's for the tag, the receiver's for its rules.
    wait::until("what is allowed", PATIENCE, || probe::get(&app.netns, to, Duration::from_secs(2))).unwrap();
    let denied = probe::connects(&stranger.netns, to, PATIENCE);
    assert!(denied.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "what is denied");
    // The maps went on; the agents find the names again with the policies.
    for (host, workload, group) in [("n1", &web, "k8s:lab/shop"), ("c1", &app, "3b1c")] {
        let named = || Ok(group_of(lab.host(host), workload).as_deref() == Some(group));
        wait::until_true(&format!("{group} to be known again"), PATIENCE, named).unwrap();
    }
    for file in ["node.json", "lease.json", "policies.json"] {
        let whole = || {
            let text = std::fs::read(lab.host("n1").state_file(file))?;
            Ok(serde_json::from_slice::<serde_json::Value>(&text).is_ok())
        };
        wait::until_true(&format!("{file} to be written anew"), PATIENCE, whole).unwrap();
    }
}

/// etcd frozen is worse than etcd dead: connections stay open and nothing comes back.
#[test]
fn with_etcd_frozen_add_del_and_status_answer_at_once_and_the_alarm_stays() {
    let mut lab = lab("frozen");
    // A follower that knows a revision goes on from it without asking: it must not pass for a healthy one.
    lab.weft(&["policies", "allow", "--from", "a", "--to", "b", "--port", "1", "--wait"]).unwrap();
    lab.etcd.freeze().unwrap();
    let begin = Instant::now();
    let answers_at_once = |lab: &mut Lab| {
        let start = Instant::now();
        for _ in 0..MANY {
            let workload = lab.add("n1", &WorkloadOptions::pod("w", "open")).unwrap();
            lab.host("n1").status().unwrap();
            lab.del("n1", &workload).unwrap();
        }
        assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    };
    answers_at_once(&mut lab);
    let says_so = || {
        let status = lab.host("n1").status()?;
        Ok(!status.store.connected && status.alarms.iter().any(|alarm| alarm.contains("policies cannot be followed")))
    };
    wait::until_true("the agent to notice", PATIENCE, says_so).unwrap();
    let noticed = begin.elapsed();
    // Longer than one attempt takes: the alarm does not come and go with each.
    while begin.elapsed() < noticed + Duration::from_secs(7) {
        assert!(says_so().unwrap_or(true), "the alarm went while etcd was frozen");
    }
    answers_at_once(&mut lab);
    // An attempt takes more than five seconds, and not each is told.
    let complaints = lab.host("n1").agent_log().lines().filter(|line| line.contains("the store is away")).count();
    let limit = 3 + begin.elapsed().as_secs() / 10;
    assert!(u64::try_from(complaints).unwrap() <= limit, "{complaints} complaints, at most {limit} expected");
    lab.etcd.thaw().unwrap();
    let over = || {
        let status = lab.host("n1").status()?;
        Ok(status.store.connected && status.alarms.is_empty())
    };
    wait::until_true("the alarm to end", PATIENCE, over).unwrap();
}

/// Programs removed by hand leave a workload open: no notification of a link tells.
#[test]
fn programs_removed_by_hand_are_back_without_waiting_for_the_timer() {
    let mut lab = lab("unhook");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let host = lab.host("n1");
    let link = link_of(host, &web);
    let back = || {
        let filters = |side: &str| host.sh(&format!("tc filter show dev {link} {side}"));
        Ok(filters("ingress")?.contains("bpf") && filters("egress")?.contains("bpf"))
    };
    let lines = ["qdisc del dev {} clsact", "filter del dev {} ingress", "filter del dev {} egress"];
    let start = Instant::now();
    // By the timer alone, every ten seconds, they would be back after 140 s and more.
    for line in (0..5).flat_map(|_| lines) {
        // The kernel refuses while the agent asks for the filters.
        let removed = || host.sh(&format!("tc {}", line.replace("{}", &link)));
        wait::until(line, PATIENCE, removed).unwrap();
        wait::until_true(line, PATIENCE, back).unwrap();
    }
    assert!(start.elapsed() < PATIENCE * 2, "healed only after {:?}", start.elapsed());
    wait::until_true("a clean pass", PATIENCE, || Ok(host.status()?.datapath.in_sync)).unwrap();
    let pins = || -> Vec<PathBuf> { std::fs::read_dir(links(host)).unwrap().map(|pin| pin.unwrap().path()).collect() };
    let count = pins().len();
    assert!(count > 0, "this kernel has no TCX: the test needs 6.6");
    let start = Instant::now();
    // They are looked for every second. By the timer alone they would be back after 70 s and more.
    for _ in 0..8 {
        for pin in pins() {
            match std::fs::remove_file(pin) {
                // The agent may be at it already.
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
        wait::until_true("pins", PATIENCE, || Ok(pins().len() == count)).unwrap();
    }
    assert!(start.elapsed() < PATIENCE, "pins came back only after {:?}", start.elapsed());
}

/// A link that lost its alias is still its workload's: the address must not be given to another.
#[test]
fn a_workload_whose_link_lost_its_alias_keeps_address_and_policy() {
    let mut lab = lab("alias");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let host = lab.host("n1");
    let before = host.status().unwrap().network.changes;
    host.sh(&format!("ip link set {} alias mine", link_of(host, &web))).unwrap();
    // A pass has been made when this is healed.
    host.sh("ip link set weft0 down").unwrap();
    wait::until_true("a pass", PATIENCE, || Ok(host.status()?.network.changes > before)).unwrap();
    host.sh("ip link set weft0 down").unwrap();
    wait::until_true("healing", PATIENCE, || Ok(host.sh("ip link show up dev weft0")?.contains("weft0"))).unwrap();
    assert_eq!(group_of(host, &web).as_deref(), Some("k8s:lab/shop"));
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    probe::get(&host.netns, SocketAddr::from((web.ip, 8080)), PATIENCE).expect("it still answers");
    let link = link_of(host, &web);
    del_call(host, &web).expect(host).unwrap();
    assert!(!host.sh("ip -o link show").unwrap().contains(&link), "DEL answered, and its link is there");
    assert!(host.endpoints().unwrap().is_empty());
}

/// Something that cannot be healed: said once and by name, ADD goes on, and it heals when it can.
#[test]
fn a_lasting_obstacle_is_named_once_and_keeps_no_workload_from_starting() {
    let mut lab = lab("obstacle");
    lab.host("n1").sh("ip link set weft-vx1 down").unwrap();
    lab.host("n1").sh("ip link set weft-vx1 name bar0").unwrap();
    let named = |lab: &Lab| {
        let error = lab.host("n1").status()?.network.error.unwrap_or_default();
        Ok(error.contains("ip link del bar0"))
    };
    wait::until_true("the obstacle to be named", PATIENCE, || named(&lab)).unwrap();
    let named_in_log = |lab: &Lab| lab.host("n1").agent_log().lines().filter(|line| line.contains("bar0")).count();
    let before = named_in_log(&lab);
    let start = Instant::now();
    wait::until_true("more passes", PATIENCE, || Ok(start.elapsed() > Duration::from_secs(4))).unwrap();
    let more = named_in_log(&lab) - before;
    assert!(more <= 2, "{more} times more in four passes");
    lab.add("n1", &WorkloadOptions::pod("w", "open")).expect("an ADD needs no overlay");
    lab.host("n1").sh("ip link del bar0").unwrap();
    wait::until_true("healing", PATIENCE, || Ok(lab.host("n1").status()?.network.in_sync)).unwrap();
}

/// The kernel attaches a program once to a device, whatever its name: the agent must not wait for it.
#[test]
fn a_renamed_underlay_is_followed_and_the_agent_answers_all_the_while() {
    let lab = lab("rename");
    let host = lab.host("n1");
    let rename = |from: &str, to: &str| {
        for line in [format!("link set {from} down"), format!("link set {from} name {to}"), format!("link set {to} up")]
        {
            host.sh(&format!("ip {line}")).unwrap();
        }
    };
    rename("eth0", "ethx");
    wait::until_true("an alarm", PATIENCE, || Ok(!host.status()?.alarms.is_empty())).unwrap();
    let pin = links(host).join("from_underlay@ethx");
    wait::until_true("the link to be followed", PATIENCE, || Ok(pin.exists())).unwrap();
    wait::until_true("a clean pass", PATIENCE, || Ok(host.status()?.datapath.in_sync)).unwrap();
    for _ in 0..20 {
        let status = host.status().unwrap();
        assert!(status.datapath.in_sync, "{status:?}");
    }
    rename("ethx", "eth0");
    wait::until_true("the alarm to end", PATIENCE, || Ok(host.status()?.alarms.is_empty())).unwrap();
}

#[test]
fn an_underlay_that_lost_its_address_is_an_alarm() {
    let lab = lab("moved");
    let host = lab.host("n1");
    let address = host.address;
    host.sh("ip addr add 192.0.2.77/24 dev eth0").unwrap();
    host.sh(&format!("ip addr del {address}/24 dev eth0")).unwrap();
    let says = |text: &str| Ok(host.status()?.alarms.iter().any(|alarm| alarm.contains(text)));
    wait::until_true("an alarm", PATIENCE, || says(&address.to_string())).unwrap();
    host.sh(&format!("ip addr add {address}/24 dev eth0")).unwrap();
    wait::until_true("its end", PATIENCE, || Ok(host.status()?.alarms.is_empty())).unwrap();
}

/// Log rotation in both ways: moved away, and moved away with a new file put in its place.
#[test]
fn a_denial_log_that_is_moved_removed_or_replaced_is_written_anew() {
    let mut lab = lab("rotate");
    let web = lab.add("c1", &WorkloadOptions::app("web", "3b1c")).unwrap();
    let host = lab.host("c1");
    let log = host.run_file("denials.log");
    let mut port = 1000;
    let mut denied = |what: &str| {
        let logged = || {
            port += 1;
            let stranger = lab.host("n1");
            // Each port is a pair of its own to nobody: the limit is by addresses, so this also waits for it.
            drop(probe::connects(&stranger.netns, SocketAddr::from((web.ip, port)), Duration::from_millis(100)));
            Ok(std::fs::metadata(&log).is_ok_and(|metadata| metadata.size() > 0))
        };
        wait::until_true(what, PATIENCE, logged).unwrap();
    };
    denied("the first record");
    std::fs::rename(&log, host.run_file("denials.log.old")).unwrap();
    denied("a record after the file was moved");
    std::fs::remove_file(&log).unwrap();
    denied("a record after the file was removed");
    std::fs::rename(&log, host.run_file("denials.log.old")).unwrap();
    std::fs::write(&log, "").unwrap();
    denied("a record after the file was replaced");
}
