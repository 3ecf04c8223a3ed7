//! Full disks, read-only ones, and what becomes of the journal: workloads start and end all the same,
//! nobody's address or identity is lost, and the agent says what is wrong.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};
use weft_api::agent::EndpointView;
use weft_lab::workload::{Workload, WorkloadOptions, add_call};
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::{PATIENCE, wait_endpoints};

const NONE: Option<&str> = None;

fn pod() -> WorkloadOptions {
    WorkloadOptions::pod("w", "shop")
}

/// Folders of a host: what a reboot empties, and what it does not.
fn folders(host: &Host) -> [PathBuf; 2] {
    [host.run_file(""), host.state_file("")]
}

/// A lab whose host `n1` has both folders on small disks of their own; its agent does not run yet.
fn small_disks(stem: &str) -> Lab {
    let lab = Lab::without_agents(LabOptions::of(&LabOptions::unique_name(stem), 1, 0)).unwrap();
    for folder in folders(lab.host("n1")) {
        // Removed with the lab.
        mount(Some("weft-lab"), &folder, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    }
    lab
}

fn start(lab: &mut Lab) {
    let host = lab.host_mut("n1");
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE * 2).unwrap();
}

fn restart(lab: &mut Lab, meanwhile: impl FnOnce(&Host)) {
    lab.host_mut("n1").kill_agent().unwrap();
    meanwhile(lab.host("n1"));
    start(lab);
}

fn fill(folder: &Path) {
    let mut ballast = std::fs::File::create(folder.join("ballast")).unwrap();
    while std::io::Write::write(&mut ballast, &[0; 4096]).is_ok_and(|written| written == 4096) {}
}

fn read_only(folder: &Path, on: bool) {
    let flags = MsFlags::MS_REMOUNT | if on { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    // Refused while the agent writes a file there.
    wait::until("the remount", PATIENCE, || mount(NONE, folder, NONE, flags, NONE)).unwrap();
}

fn known(host: &Host, workload: &Workload) -> Option<EndpointView> {
    host.endpoints().unwrap().into_iter().find(|endpoint| endpoint.address == workload.ip)
}

fn keeps_its_group(host: &Host, workload: &Workload) {
    // Who is adopted without a journal is named once the policies are known.
    let named = || {
        let endpoint = known(host, workload).context("it is not known")?;
        ensure!(endpoint.group.as_ref().is_some_and(|group| group.as_str() == "k8s:lab/shop"), "{endpoint:?}");
        Ok(endpoint)
    };
    let (endpoint, _) = wait::until("its group", PATIENCE, named).unwrap();
    assert_eq!(endpoint.attachment.container_id.as_str(), workload.container_id);
}

fn check(host: &Host, workload: &Workload) -> anyhow::Result<serde_json::Value> {
    let mut call = add_call(host, &workload.options, &workload.container_id, &workload.netns);
    call.command = "CHECK".to_owned();
    call.stdin["prevResult"] = workload.result.clone();
    call.expect(host)
}

#[test]
fn with_full_disks_workloads_start_and_end_and_a_restart_loses_nobody() {
    let mut lab = small_disks("full");
    start(&mut lab);
    // So that its group has a tag, by which a lost group is found again.
    lab.weft(&["policies", "allow", "--from", "k8s:lab/shop", "--to", "k8s:lab/shop", "--port", "80", "--wait"])
        .unwrap();
    let before = lab.add("n1", &pod()).unwrap();
    folders(lab.host("n1")).iter().for_each(|folder| fill(folder));
    let stays = lab.add("n1", &pod()).expect("ADD with full disks");
    let goes = lab.add("n1", &pod()).unwrap();
    lab.del("n1", &before).expect("DEL with full disks");
    let alarmed = |lab: &Lab| {
        let alarms = lab.host("n1").status()?.alarms;
        Ok(alarms.iter().any(|alarm| alarm.contains("cannot write the journal") && alarm.contains("No space left")))
    };
    // The page the journal's end is in has room still.
    for _ in 0..20 {
        let more = lab.add("n1", &pod()).unwrap();
        lab.del("n1", &more).unwrap();
    }
    wait::until_true("the alarm", PATIENCE * 2, || alarmed(&lab)).unwrap();
    lab.host_mut("n1").kill_agent().unwrap();
    lab.del("n1", &goes).expect("DEL with full disks and without an agent, which cannot leave a note either");
    start(&mut lab);
    let host = lab.host("n1");
    wait_endpoints(host, 1);
    keeps_its_group(host, &stays);
    wait::until("CHECK", PATIENCE, || check(host, &stays)).unwrap();
    let next = lab.add("n1", &pod()).expect("ADD after a restart with full disks");
    assert!(![before.ip, stays.ip, goes.ip].contains(&next.ip), "{} is given again at once", next.ip);
    for folder in folders(lab.host("n1")) {
        std::fs::remove_file(folder.join("ballast")).unwrap();
    }
    wait::until_true("the alarm's end", PATIENCE * 3, || Ok(!alarmed(&lab)?)).unwrap();
    restart(&mut lab, |_| {});
    wait_endpoints(lab.host("n1"), 2);
    keeps_its_group(lab.host("n1"), &stays);
}

#[test]
fn read_only_folders_stop_no_workload_and_keep_a_new_agent_away_with_one_clear_error() {
    let mut lab = small_disks("readonly");
    start(&mut lab);
    let stays = lab.add("n1", &pod()).unwrap();
    let [run, state] = folders(lab.host("n1"));
    read_only(&state, true);
    let second = lab.add("n1", &pod()).expect("ADD with a read-only state folder");
    restart(&mut lab, |_| {});
    assert!(known(lab.host("n1"), &stays).is_some() && known(lab.host("n1"), &second).is_some());
    lab.del("n1", &second).expect("DEL with a read-only state folder");
    let refused = |lab: &mut Lab, said: &str| {
        let host = lab.host_mut("n1");
        host.start_agent().unwrap();
        wait::until_true("the agent to give up", PATIENCE, || Ok(host.agent_ended())).unwrap();
        let log = host.agent_log();
        assert!(log.lines().rev().take(6).any(|line| line.contains(said)), "{said} in {log}");
    };
    lab.host_mut("n1").kill_agent().unwrap();
    read_only(&run, true);
    refused(&mut lab, "run_dir: cannot make");
    read_only(&run, false);
    // A host that never had an id cannot be given one that would be forgotten.
    read_only(&state, false);
    std::fs::remove_file(state.join("node.json")).unwrap();
    read_only(&state, true);
    refused(&mut lab, "state_dir: cannot keep this host's id");
    read_only(&state, false);
    start(&mut lab);
    wait::until("CHECK", PATIENCE, || check(lab.host("n1"), &stays)).unwrap();
}

#[test]
fn a_journal_that_is_deleted_cut_or_of_another_boot_costs_nobody_address_or_group() {
    let mut lab = small_disks("journal");
    start(&mut lab);
    lab.weft(&["policies", "allow", "--from", "k8s:lab/shop", "--to", "k8s:lab/shop", "--port", "80", "--wait"])
        .unwrap();
    let stays = lab.add("n1", &pod()).unwrap();
    let mut last = stays.ip;
    let journal = lab.host("n1").run_file("journal.jsonl");
    std::fs::remove_file(&journal).unwrap();
    wait::until_true("a new journal under a living agent", PATIENCE * 3, || Ok(journal.exists())).unwrap();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("deleted", |journal| std::fs::remove_file(journal).unwrap()),
        ("cut", |journal| {
            let text = std::fs::read(journal).unwrap();
            std::fs::write(journal, &text[..text.len() - 20]).unwrap();
        }),
        ("empty", |journal| std::fs::write(journal, "").unwrap()),
        ("another boot's", |journal| {
            let text = std::fs::read_to_string(journal).unwrap();
            let boot_id = text.split("\"bootId\":\"").nth(1).unwrap().split('"').next().unwrap();
            std::fs::write(journal, text.replace(boot_id, "00000000-0000-0000-0000-000000000000")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        restart(&mut lab, |_| damage(&journal));
        let host = lab.host("n1");
        wait::until("CHECK", PATIENCE, || check(host, &stays)).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        keeps_its_group(host, &stays);
        let next = lab.add("n1", &pod()).unwrap();
        assert_ne!(next.ip, stays.ip, "{what}");
        if what == "another boot's" {
            assert!(next.ip > last, "{what}: addresses go on after {last}, not at {}", next.ip);
        }
        last = next.ip;
        lab.del("n1", &next).unwrap();
        wait_endpoints(lab.host("n1"), 1);
    }
}
