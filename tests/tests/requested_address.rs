//! Addresses runtimes ask for by name, as podman, Multus and Kubernetes' static pods of old do.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use weft_lab::workload::{CniCall, WorkloadOptions, add_call, address};
use weft_lab::{Host, Lab, LabOptions};

struct Container {
    id: String,
    netns: PathBuf,
}

impl Container {
    fn new(lab: &mut Lab) -> Self {
        let (id, netns) = lab.container("n1", "w").unwrap();
        Self { id, netns }
    }

    fn call(&self, host: &Host, command: &str) -> CniCall {
        let mut call = add_call(host, &WorkloadOptions::pod("w", "open"), &self.id, &self.netns);
        call.command = command.to_owned();
        call
    }

    fn asks(&self, host: &Host, ips: Value) -> CniCall {
        let mut call = self.call(host, "ADD");
        call.stdin["runtimeConfig"]["ips"] = ips;
        call
    }
}

fn given(call: &CniCall, host: &Host) -> Ipv4Addr {
    address(&call.expect(host).unwrap()).unwrap()
}

/// Code and all words of the error.
fn refused(call: &CniCall, host: &Host) -> (u64, String) {
    let output = call.run(host).unwrap();
    assert!(!output.status.success(), "succeeded: {output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    let words = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    (error["code"].as_u64().unwrap(), format!("{} | {}", words("msg"), words("details")))
}

fn lab(stem: &str) -> Lab {
    Lab::up(LabOptions::of(&LabOptions::unique_name(stem), 1, 0)).unwrap()
}

#[test]
fn an_address_asked_for_is_given_once_and_again_after_del() {
    let mut lab = lab("askips");
    let [one, two, three, other] = [0; 4].map(|_| Container::new(&mut lab));
    let host = lab.host("n1");
    let subnet = host.status().unwrap().subnet.unwrap();
    let at = |offset: u32| subnet.address(offset).unwrap();

    // The three ways to ask, and all at once.
    assert_eq!(given(&one.asks(host, json!([format!("{}/24", at(42))])), host), at(42));
    let mut by_args = two.call(host, "ADD");
    by_args.args += &format!(";IP={}", at(43));
    assert_eq!(given(&by_args, host), at(43));
    let mut structured = three.asks(host, json!([at(44)]));
    structured.stdin["args"] = json!({"cni": {"ips": [format!("{}/32", at(44))]}});
    structured.args += &format!(";IP={}/16", at(44));
    assert_eq!(given(&structured, host), at(44));

    // Asked for twice: the owner is named, lives on, and nothing is left of who came second.
    let second = other.asks(host, json!([at(42)]));
    let (code, words) = refused(&second, host);
    let said = format!(
        "{}/eth0 cannot have the requested address {}: {}/eth0 has it | runtimeConfig.ips asks for {}",
        other.id,
        at(42),
        one.id,
        at(42)
    );
    assert_eq!((code, words), (11, said));
    assert_eq!(host.endpoints().unwrap().len(), 3);
    assert!(!weft_lab::shell::sh_in(&other.netns, "ip -o link").unwrap().contains("eth0"));
    // By the same container: as without the request.
    let (code, words) = refused(&one.asks(host, json!([at(42)])), host);
    assert!(code == 999 && words.contains("is wired already: ADD was called twice"), "{words}");

    // No cool-down for whoever asks by name.
    one.call(host, "DEL").expect(host).unwrap();
    assert_eq!(given(&second, host), at(42));
    // Who does not ask gets the first one: requests move nothing.
    assert_eq!(given(&one.call(host, "ADD"), host), at(2));
}

#[test]
fn an_add_that_was_killed_gets_its_address_by_asking_again() {
    let mut lab = lab("askagain");
    let container = Container::new(&mut lab);
    let host = lab.host("n1");
    let subnet = host.status().unwrap().subnet.unwrap();
    let at = |offset: u32| subnet.address(offset).unwrap();
    let mut killed = container.asks(host, json!([at(42)]));
    killed.environment.push(("WEFT_CNI_STOP_AFTER", "4".to_owned()));
    assert!(!killed.run(host).unwrap().status.success());
    let (code, words) = refused(&container.asks(host, json!([at(43)])), host);
    assert!(code == 999 && words.contains(&format!("it has {} already: DEL must come first", at(42))), "{words}");
    assert_eq!(given(&container.asks(host, json!([at(42)])), host), at(42));
}

#[test]
fn what_cannot_be_given_is_refused_with_field_value_and_what_is_allowed() {
    let mut lab = lab("askbad");
    let container = Container::new(&mut lab);
    let host = lab.host("n1");
    let subnet = host.status().unwrap().subnet.unwrap();
    let at = |offset: u32| subnet.address(offset).unwrap();
    let reserved = "it is no workload's address: in subnet";
    for (ips, why) in [
        (json!([at(0)]), reserved),
        (json!([at(1)]), reserved),
        (json!([at(255)]), reserved),
        (json!(["192.0.2.9"]), "it is outside this host's subnet"),
        (json!(["fd00::7/64"]), "must be one IPv4 address of this host's subnet, as a.b.c.d or a.b.c.d/nn"),
        (json!([at(42), at(43)]), "or absent: a workload has one address"),
    ] {
        let (code, words) = refused(&container.asks(host, ips.clone()), host);
        assert!(code == 7 && words.contains("runtimeConfig.ips") && words.contains(why), "{ips}: {words}");
    }
    // A delegate that knows nothing of requests.
    let plugins = tempfile::tempdir().unwrap();
    let script = plugins.path().join("any");
    let answer = json!({"cniVersion": "1.1.0", "ips": [{"address": format!("{}/24", at(50))}]});
    std::fs::write(&script, format!("#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = DEL ] || echo '{answer}'\n"))
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut call = container.asks(host, json!([at(42)]));
    call.environment.push(("CNI_PATH", plugins.path().display().to_string()));
    call.stdin["ipam"] = json!({"type": "any"});
    let (code, words) = refused(&call, host);
    let said = format!("ipam any gave {}: must be {}, as runtimeConfig.ips says", at(50), at(42));
    assert!(code == 7 && words.contains(&said), "{words}");
    assert_eq!(host.endpoints().unwrap(), [], "what was refused left something");
    assert!(!weft_lab::shell::sh_in(&container.netns, "ip -o link").unwrap().contains("eth0"));
}
