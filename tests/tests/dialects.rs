//! Every operation in every version as each runtime calls it, against a real agent: the same calls in
//! the same order, with what each runtime puts into environment and stdin.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use weft_lab::workload::{CniCall, WorkloadOptions, add_call};
use weft_lab::{Host, Lab, LabOptions};
use weft_model::capability::Capabilities;
use weft_model::group::HostKind;
use weft_tests::wait_endpoints;

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A runtime's way of calling.
struct Dialect {
    /// What of a host it runs on.
    kind: HostKind,
    /// `CNI_ARGS`.
    args: fn(&str) -> String,
    /// What it adds to the config on ADD and CHECK.
    add: fn() -> Value,
    /// What it adds on DEL, besides `prevResult`.
    del: fn() -> Value,
    /// Whether it gives `prevResult` to DEL.
    remembers: bool,
    /// The group its workload is in.
    group: Option<&'static str>,
    /// What the agent carries out of what it asked for.
    granted: &'static str,
}

fn pod_args(id: &str) -> String {
    format!(
        "K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=8c5a04e3;IgnoreUnknown=1;K8S_POD_NAME=w;K8S_POD_NAMESPACE=shop"
    )
}

/// Its Go structs have no JSON tags: keys come in capitals.
fn containerds() -> Value {
    json!({
        "capabilities": {"bandwidth": true, "cgroupPath": true, "dns": true, "io.kubernetes.cri.pod-annotations": true},
        "runtimeConfig": {
            "bandwidth": {"IngressRate": 100_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 50_000_000, "EgressBurst": 4_294_967_295_u64},
            "cgroupPath": "/kubepods/besteffort/pod8c5a04e3",
            "portMappings": [
                {"HostPort": 18080, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""},
                {"HostPort": 18053, "ContainerPort": 53, "Protocol": "udp", "HostIP": "127.0.0.1"},
            ],
            "dns": {"Servers": ["10.96.0.10"], "Searches": ["cluster.local"], "Options": ["ndots:5"]},
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/config.source": "api", "weft/policy-group": "web"},
        },
    })
}

fn crios() -> Value {
    json!({
        "capabilities": {"bandwidth": true, "io.kubernetes.cri.pod-annotations": true},
        "runtimeConfig": {
            "bandwidth": {"ingressRate": 100_000_000, "ingressBurst": 4_294_967_295_u64},
            "cgroupPath": "kubepods-besteffort.slice",
            "io.kubernetes.cri.pod-annotations": {"io.kubernetes.cri-o.Name": "w", "weft/policy-group": "web"},
        },
    })
}

fn podmans() -> Value {
    json!({
        "capabilities": {"aliases": true, "mac": true, "portMappings": true},
        "runtimeConfig": {
            "aliases": {"weft": ["w"]},
            "mac": "02:00:0a:00:00:07",
            "portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        },
    })
}

fn gardens() -> Value {
    json!({
        "metadata": {
            "app_id": "3b1c", "container_workload": "app", "org_id": "6f", "policy_group_id": "3b1c", "ports": "8080",
            "space_id": "5e", "log_config": "{\"guid\":\"3b1c\",\"index\":0}",
        },
        "runtimeConfig": {
            "netOutRules": [
                {"log": true, "networks": [{"end": "10.0.0.255", "start": "10.0.0.0"}], "ports": [{"end": 444, "start": 443}], "protocol": 1},
                {"icmps": {"code": 0, "type": 128}, "networks": [{"start": "2001:db8::1"}], "protocol": 4},
            ],
            "portMappings": [{"container_port": 8080, "host_port": 61000}, {"container_port": 2222, "host_port": 40001}],
        },
    })
}

fn nothing() -> Value {
    json!({})
}

/// One attachment as a runtime sees it.
struct Caller<'a> {
    host: &'a Host,
    dialect: &'a Dialect,
    version: &'static str,
    id: String,
    netns: String,
}

impl Caller<'_> {
    fn call(&self, command: &str, more: &Value) -> CniCall {
        let mut call = add_call(self.host, &WorkloadOptions::app("w", "3b1c"), &self.id, Path::new(&self.netns));
        call.command = command.to_owned();
        call.args = (self.dialect.args)(&self.id);
        call.stdin = json!({
            "cniVersion": self.version, "name": "weft", "type": "weft-cni", "someday": {"a": "new key"},
            "weft": {"socket": self.host.socket()},
        });
        for (key, value) in more.as_object().unwrap() {
            call.stdin[key] = value.clone();
        }
        call
    }

    fn run(&self, call: &CniCall) -> Output {
        call.run(self.host).unwrap()
    }

    fn silent(&self, call: &CniCall) {
        let output = self.run(call);
        assert!(output.status.success() && output.stdout.is_empty(), "{} {}: {output:?}", call.command, self.version);
    }

    /// Silent where the version knows the command, else the reference's error.
    fn since(&self, first: &str, call: &CniCall) {
        if self.version >= first {
            return self.silent(call);
        }
        let error: Value = serde_json::from_slice(&self.run(call).stdout).unwrap();
        let said = format!("config version does not allow {}", call.command);
        assert_eq!((&error["code"], &error["msg"]), (&json!(1), &json!(said)), "{}", self.version);
        assert_eq!(error["cniVersion"], self.version);
    }

    fn result_is_of_its_version(&self, result: &Value) {
        assert_eq!(result["cniVersion"], self.version, "{result}");
        let ip = &result["ips"][0];
        assert_eq!(ip.get("version").is_some(), self.version < "1.0.0", "{result}");
        let link = &result["interfaces"][usize::try_from(ip["interface"].as_u64().unwrap()).unwrap()];
        assert_eq!((&link["name"], &link["sandbox"]), (&json!("eth0"), &json!(self.netns)), "{result}");
        assert_eq!(link.get("mtu").is_some(), self.version >= "1.1.0", "{result}");
        assert!(result["dns"].is_object(), "{result}");
    }

    fn live(&self) {
        let version = self.run(&self.call("VERSION", &nothing()));
        let versions: Value = serde_json::from_slice(&version.stdout).unwrap();
        assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!(self.version)), "{versions}");
        self.since("1.1.0", &self.about_the_host("STATUS", &nothing()));

        let output = self.run(&self.call("ADD", &(self.dialect.add)()));
        assert!(output.status.success(), "{}: {output:?}", self.version);
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        self.result_is_of_its_version(&result);
        let endpoints = self.host.endpoints().unwrap();
        assert_eq!(endpoints[0].group.as_ref().map(ToString::to_string).as_deref(), self.dialect.group);
        assert_eq!(granted(&endpoints[0].capabilities), self.dialect.granted, "{}", self.version);

        let mut check = self.call("CHECK", &(self.dialect.add)());
        check.stdin["prevResult"] = result.clone();
        self.since("0.4.0", &check);

        let valid = json!([{"containerID": self.id, "ifname": "eth0"}]);
        let list = json!({"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid});
        self.since("1.1.0", &self.about_the_host("GC", &list));
        assert_eq!(self.host.endpoints().unwrap().len(), 1, "GC took who is valid");

        self.del_three_times(&result, &check);
        wait_endpoints(self.host, 0);
    }

    /// The second and third, on sandbox removal, have neither namespace nor result. A CHECK between them fails: it is
    /// about a workload that is gone.
    fn del_three_times(&self, result: &Value, check: &CniCall) {
        let mut del = self.call("DEL", &(self.dialect.del)());
        if self.dialect.remembers && self.version >= "0.4.0" {
            del.stdin["prevResult"] = result.clone();
        }
        self.silent(&del);
        self.finds_nothing(check);
        del.netns.clear();
        del.stdin.as_object_mut().unwrap().remove("prevResult");
        self.silent(&del);
        self.finds_nothing(check);
        self.silent(&del);
    }

    fn finds_nothing(&self, check: &CniCall) {
        if self.version >= "0.4.0" {
            let error: Value = serde_json::from_slice(&self.run(check).stdout).unwrap();
            let said = format!("{}/eth0: the agent does not know it", self.id);
            assert_eq!((&error["code"], &error["msg"]), (&json!(999), &json!(said)), "{}", self.version);
        }
    }

    /// With the variables about a workload there, and empty.
    fn about_the_host(&self, command: &str, more: &Value) -> CniCall {
        let mut call = self.call(command, more);
        for text in [&mut call.container_id, &mut call.netns, &mut call.args] {
            text.clear();
        }
        call.environment.push(("CNI_IFNAME", String::new()));
        call
    }

    /// Configs older than we speak, with the reference's error.
    fn older_is_refused(&self) {
        for old in ["0.1.0", "0.2.0", ""] {
            let mut call = self.call("ADD", &(self.dialect.add)());
            call.stdin["cniVersion"] = json!(old);
            let error: Value = serde_json::from_slice(&self.run(&call).stdout).unwrap();
            let config = if old.is_empty() { "0.1.0" } else { old };
            let details =
                format!("config is {config:?}, plugin supports [\"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]");
            assert_eq!((&error["code"], &error["msg"]), (&json!(1), &json!("incompatible CNI versions")));
            assert_eq!(error["details"], json!(details));
        }
    }
}

/// In words, as short as they can be.
fn granted(all: &Capabilities) -> String {
    let limits = [("ingress", all.bandwidth.ingress), ("egress", all.bandwidth.egress)];
    let limits =
        limits.iter().filter_map(|(name, limit)| Some(format!("{name} {}/{}", (*limit)?.rate, (*limit)?.burst)));
    let mac = all.mac.iter().map(ToString::to_string);
    all.ports.iter().map(ToString::to_string).chain(limits).chain(mac).collect::<Vec<_>>().join(", ")
}

fn in_every_version(stem: &str, dialect: &Dialect) {
    let (nodes, cells) = if dialect.kind == HostKind::Cell { (0, 1) } else { (1, 0) };
    let mut lab = Lab::up(LabOptions::of(&LabOptions::unique_name(stem), nodes, cells)).unwrap();
    let name = lab.hosts()[0].name().to_owned();
    for version in VERSIONS {
        let (id, netns) = lab.container(&name, "w").unwrap();
        let host = lab.host(&name);
        let caller = Caller { host, dialect, version, id, netns: netns.display().to_string() };
        caller.live();
        caller.older_is_refused();
    }
}

#[test]
fn containerd_in_every_version() {
    let (add, del) = (containerds, containerds);
    let kind = HostKind::Kubernetes;
    in_every_version(
        "dcontd",
        &Dialect {
            kind,
            args: pod_args,
            add,
            del,
            remembers: true,
            group: Some("k8s:lab/shop/web"),
            granted: "tcp *:18080->8080, udp 127.0.0.1:18053->53, ingress 100000000/4294967295, egress 50000000/4294967295",
        },
    );
}

/// It asks every plugin for VERSION first, runs CHECK after every ADD and GC when it starts.
#[test]
fn crio_in_every_version() {
    let (add, del) = (crios, crios);
    let kind = HostKind::Kubernetes;
    in_every_version(
        "dcrio",
        &Dialect {
            kind,
            args: pod_args,
            add,
            del,
            remembers: true,
            group: Some("k8s:lab/shop/web"),
            granted: "ingress 100000000/4294967295",
        },
    );
}

/// A pod's name without a namespace: no identity, so in no group.
#[test]
fn podman_in_every_version() {
    let (add, del) = (podmans, podmans);
    let args = |_: &str| "IgnoreUnknown=1;K8S_POD_NAME=w".to_owned();
    let granted = "tcp *:18080->80, 02:00:0a:00:00:07";
    in_every_version(
        "dpodman",
        &Dialect { kind: HostKind::Kubernetes, args, add, del, remembers: true, group: None, granted },
    );
}

/// No CNI_ARGS; DEL is told nothing of what ADD was.
#[test]
fn garden_in_every_version() {
    let args = |_: &str| String::new();
    let kind = HostKind::Cell;
    in_every_version(
        "dgarden",
        &Dialect {
            kind,
            args,
            add: gardens,
            del: nothing,
            remembers: true,
            group: Some("3b1c"),
            granted: "tcp *:40001->2222, tcp *:61000->8080",
        },
    );
}

/// Nothing but the config.
#[test]
fn cnitool_in_every_version() {
    let args = |_: &str| String::new();
    let kind = HostKind::Kubernetes;
    in_every_version(
        "dtool",
        &Dialect { kind, args, add: nothing, del: nothing, remembers: false, group: None, granted: "" },
    );
}
