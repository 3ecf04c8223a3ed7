//! Chains with Debian's reference plugins before and after ours, run as libcni runs them: the same
//! environment for each, every result the next one's `prevResult`, DEL in reverse order.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use weft_lab::probe::{self, HttpServer};
use weft_lab::shell::{binary, sh_in};
use weft_lab::workload::address;
use weft_lab::{Host, Lab, LabOptions, wait};
use weft_tests::{PATIENCE, wait_endpoints};

const DEBIAN: &str = "/usr/lib/cni";

/// A network list and one attachment to it.
struct Chain<'a> {
    host: &'a Host,
    version: &'static str,
    plugins: Vec<Value>,
    id: String,
    netns: PathBuf,
}

impl Chain<'_> {
    fn run(&self, command: &str, plugin: &Value, previous: Option<&Value>) -> Output {
        let kind = plugin["type"].as_str().unwrap();
        let mut stdin = plugin.clone();
        (stdin["cniVersion"], stdin["name"]) = (json!(self.version), json!("chain"));
        if kind == "weft-cni" {
            stdin["weft"] = json!({"socket": self.host.socket()});
        }
        if let Some(previous) = previous {
            stdin["prevResult"] = previous.clone();
        }
        let path = if kind == "weft-cni" { binary(kind).unwrap() } else { Path::new(DEBIAN).join(kind) };
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.netns.display()))
            .arg(path)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", DEBIAN)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=open;K8S_POD_NAME=w")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// ADD of all; the last result.
    fn add(&self) -> Value {
        let mut result: Option<Value> = None;
        for plugin in &self.plugins {
            let output = self.run("ADD", plugin, result.as_ref());
            assert!(output.status.success(), "{plugin}: {output:?}");
            result = Some(serde_json::from_slice(&output.stdout).unwrap());
            assert_eq!(result.as_ref().unwrap()["cniVersion"], self.version, "{plugin}");
        }
        result.unwrap()
    }

    fn check(&self, result: &Value) {
        // Debian's portmap looks for IPv6 chains that it never made.
        for plugin in self.plugins.iter().filter(|plugin| plugin["type"] != "portmap") {
            let output = self.run("CHECK", plugin, Some(result));
            assert!(output.status.success(), "{plugin}: {output:?}");
        }
    }

    fn del(&self, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            let output = self.run("DEL", plugin, Some(result));
            assert!(output.status.success() && output.stdout.is_empty(), "{plugin}: {output:?}");
        }
    }
}

fn lab_of_two(stem: &str) -> Lab {
    Lab::up(LabOptions::of(&LabOptions::unique_name(stem), 2, 0)).unwrap()
}

/// As the first plugin of the list, in each version Debian's plugins and ours both speak.
#[test]
fn tuning_and_portmap_work_behind_us_in_every_version() {
    let mut lab = lab_of_two("behind");
    for (number, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"].into_iter().enumerate() {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let port = 20_000 + number;
        let plugins = vec![
            json!({"type": "weft-cni"}),
            json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}, "mtu": 1400}),
            json!({
                "type": "portmap", "capabilities": {"portMappings": true}, "snat": true,
                "runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 8080, "protocol": "tcp"}]},
            }),
        ];
        let chain = Chain { host: lab.host("n1"), version, plugins, id, netns: netns.clone() };
        let result = chain.add();
        // What came after us kept what we said: container's interface and address, at their indexes.
        let index = usize::try_from(result["ips"][0]["interface"].as_u64().unwrap()).unwrap();
        assert_eq!(result["interfaces"][index]["name"], "eth0", "{result}");
        assert_eq!(result["interfaces"][index]["sandbox"], json!(netns), "{result}");
        let inside = sh_in(&netns, "ip link show eth0").unwrap();
        assert!(inside.contains("mtu 1400"), "{inside}");
        assert_eq!(sh_in(&netns, "sysctl -n net.ipv4.conf.eth0.log_martians").unwrap().trim(), "1");
        if version >= "0.4.0" {
            chain.check(&result);
        }
        let _server = HttpServer::start(&netns, 8080).unwrap();
        let outside = SocketAddr::from((chain.host.address, u16::try_from(port).unwrap()));
        let from = lab.host("n2").netns.clone();
        wait::until("an answer through portmap's port", PATIENCE, || probe::get(&from, outside, PATIENCE)).unwrap();
        chain.del(&result);
        chain.del(&result);
        wait_endpoints(lab.host("n1"), 0);
        assert!(!sh_in(&netns, "ip -o link").unwrap().contains("eth0"));
    }
}

/// As a later plugin of the list: another interface and its addresses are there already, and stay in
/// front in the merged result.
#[test]
fn a_bridge_of_somebody_else_before_us_keeps_its_interface_and_its_result() {
    let mut lab = lab_of_two("before");
    let (id, netns) = lab.container("n1", "w").unwrap();
    let host = lab.host("n1");
    let ipam = json!({"type": "host-local", "subnet": "198.51.100.0/24", "dataDir": lab.folder.join("host-local")});
    let first = json!({"type": "bridge", "bridge": "br-other", "ipam": ipam});
    let other = Chain { host, version: "1.0.0", plugins: vec![first.clone()], id: id.clone(), netns: netns.clone() };
    let theirs = other.add();
    // eth0 is taken now: ours is refused, and says so, and harms nothing.
    let ours = json!({"type": "weft-cni"});
    let output = other.run("ADD", &ours, Some(&theirs));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["msg"].as_str().unwrap().contains("interface eth0 exists already"), "{error}");
    assert_eq!(host.endpoints().unwrap(), []);
    // A list has one interface name: whoever comes first has to leave it to us.
    sh_in(&netns, "ip link set eth0 down").unwrap();
    sh_in(&netns, "ip link set eth0 name net2").unwrap();
    let mut theirs = theirs;
    for link in theirs["interfaces"].as_array_mut().unwrap() {
        if link["name"] == "eth0" {
            link["name"] = json!("net2");
        }
    }
    let chain = Chain { host, version: "1.0.0", plugins: vec![ours.clone()], id, netns: netns.clone() };
    let output = chain.run("ADD", &ours, Some(&theirs));
    assert!(output.status.success(), "{output:?}");
    let merged: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = theirs["interfaces"].as_array().unwrap().len();
    let names: Vec<&str> =
        merged["interfaces"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
    assert_eq!((names[count - 1], names[count + 2]), ("net2", "eth0"), "{merged}");
    assert_eq!(merged["ips"][0], theirs["ips"][0], "theirs stays in front");
    let index = usize::try_from(merged["ips"][1]["interface"].as_u64().unwrap()).unwrap();
    assert_eq!(names[index], "eth0");
    let output = chain.run("CHECK", &ours, Some(&merged));
    assert!(output.status.success(), "{output:?}");
    let output = chain.run("DEL", &ours, Some(&merged));
    assert!(output.status.success(), "{output:?}");
    assert!(sh_in(&netns, "ip -o link").unwrap().contains("net2"), "another's interface went with ours");
    sh_in(&netns, "ip link del net2").unwrap();
    host.sh("ip link del br-other").unwrap();
}

/// containerd runs it beside us, in no fixed order.
#[test]
fn loopback_before_or_after_us_changes_nothing() {
    let mut lab = lab_of_two("loopback");
    for loopback_first in [true, false] {
        let (id, netns) = lab.container("n1", "w").unwrap();
        let host = lab.host("n1");
        let ours = Chain { host, version: "1.0.0", plugins: vec![json!({"type": "weft-cni"})], id, netns };
        let loopback = || {
            let mut child = Command::new(Path::new(DEBIAN).join("loopback"))
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", &ours.id)
                .env("CNI_NETNS", &ours.netns)
                .env("CNI_IFNAME", "lo")
                .env("CNI_PATH", DEBIAN)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let stdin = br#"{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}"#;
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        if loopback_first {
            loopback();
        }
        let result = ours.add();
        if !loopback_first {
            loopback();
        }
        ours.check(&result);
        let ip = address(&result).unwrap();
        let _server = HttpServer::start(&ours.netns, 8080).unwrap();
        probe::get(&host.netns, SocketAddr::from((ip, 8080)), PATIENCE).unwrap();
        ours.del(&result);
    }
}
