//! The plugin is killed between reserve and commit: no unfiltered port, nothing leaked.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use weft_api::agent::EndpointView;
use weft_lab::Host;
use weft_lab::shell::sh;
use weft_lab::wait;
use weft_lab::workload::{WorkloadOptions, add_call};
use weft_tests::{PATIENCE, lab, plugin_process};

/// Reads one HTTP message: head, then as many bytes as it announces.
fn message(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    bytes.extend(body);
    bytes
}

/// Stands between plugin and agent: passes everything on, but at `POST /v1/commit` kills the plugin.
fn killer(listener: &UnixListener, agent: &std::path::Path, container: &str) {
    loop {
        let (mut plugin, _) = listener.accept().unwrap();
        loop {
            let request = message(&mut plugin);
            if request.is_empty() {
                break;
            }
            if request.starts_with(b"POST /v1/commit") {
                let id = plugin_process(container).expect("the plugin runs");
                sh(&format!("kill -9 {id}")).unwrap();
                return;
            }
            let mut to = UnixStream::connect(agent).unwrap();
            to.write_all(&request).unwrap();
            let answer = message(&mut to);
            plugin.write_all(&answer).unwrap();
        }
    }
}

fn state(host: &Host) -> Vec<EndpointView> {
    host.endpoints().unwrap()
}

#[test]
fn a_plugin_killed_between_reserve_and_commit_leaves_no_open_port_and_nothing_behind() {
    let mut lab = lab("kill");
    let (id, netns) = lab.container("n1", "w").unwrap();
    let proxy = lab.folder.join("proxy.sock");
    let listener = UnixListener::bind(&proxy).unwrap();
    let agent = lab.host("n1").socket();
    let container = id.clone();
    let thread = std::thread::spawn(move || killer(&listener, &agent, &container));
    let host = lab.host("n1");
    let mut call = add_call(host, &WorkloadOptions::pod("w", "open"), &id, &netns);
    call.stdin["weft"]["socket"] = proxy.display().to_string().into();
    let output = call.run(host).unwrap();
    thread.join().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "it was killed: {output:?}");

    let endpoints = state(host);
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].state, "reserved");
    let link = Command::new("nsenter")
        .arg(format!("--net={}", host.netns.display()))
        .args(["ip", "-j", "link", "show", &endpoints[0].host_ifname])
        .output()
        .unwrap();
    let link: serde_json::Value = serde_json::from_slice(&link.stdout).expect("the veth is there");
    let flags = link[0]["flags"].to_string();
    assert!(!flags.contains("\"UP\""), "the port is up: {link}");
    assert!(link[0].get("master").is_none(), "the port is on the bridge: {link}");

    // The runtime's DEL after the failed ADD: nothing is left.
    call.command = "DEL".to_owned();
    call.stdin["weft"]["socket"] = host.socket().display().to_string().into();
    call.expect(host).expect("DEL");
    wait::until_true("the reservation to be released", PATIENCE, || Ok(state(host).is_empty())).unwrap();
    let left = host.sh("ip -o link show").unwrap();
    assert!(!left.contains(&endpoints[0].host_ifname), "{left}");
    call.command = "ADD".to_owned();
    call.expect(host).expect("and the next ADD works");
}
