//! `ipam.type` of somebody else: Debian's host-local and static run for real; scripts play plugins
//! that do what those cannot be made to do.

use crate::support::{Answer, Call, Namespace, Reply, Request, TestAgent, ok, reservation, succeed};
use serde_json::{Value, json};
use std::process::Command;

/// Where Debian's package puts them.
const DEBIAN: &str = "/usr/lib/cni";

struct Place {
    host: Namespace,
    workload: Namespace,
    agent: TestAgent,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with(|_| None)
    }

    /// An agent that agrees to whatever address it is asked for, unless the test says something else.
    fn with(mut script: impl FnMut(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let agent = TestAgent::new(move |request| {
            script(request).unwrap_or_else(|| match request.call.as_str() {
                "POST /v1/reserve" => ok(reserved(request)),
                "GET /v1/ready" => ok(json!({"subnet": "10.255.30.0/24"})),
                "POST /v1/gc" => ok(json!({"removed": []})),
                "POST /v1/check" => {
                    let mut wiring = reservation(true)["wiring"].clone();
                    wiring["address"] = json!("10.255.30.20");
                    ok(json!({"wiring": wiring}))
                }
                _ => ok(json!({})),
            })
        });
        let folder = tempfile::tempdir().unwrap();
        Self { host: Namespace::new(), workload: Namespace::new(), agent, folder }
    }

    fn config(&self, ipam: &Value) -> Value {
        let mut config = self.agent.config();
        config["ipam"] = ipam.clone();
        config
    }

    /// host-local with its files in our folder.
    fn host_local(&self, subnet: &str) -> Value {
        self.config(&json!({
            "type": "host-local", "dataDir": self.folder.path(),
            "ranges": [[{"subnet": subnet, "rangeStart": subnet.replace(".0/24", ".20")}]],
        }))
    }

    fn call(&self, command: &str, config: &Value) -> Answer {
        self.in_path(command, config, DEBIAN)
    }

    fn in_path(&self, command: &str, config: &Value, path: &str) -> Answer {
        Call::new(command, config).with("CNI_PATH", path).with("CNI_NETNS", self.workload.path()).run(&self.host)
    }

    /// Addresses host-local has given and not taken back.
    fn given(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.folder.path().join("weft")) else { return Vec::new() };
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.")).collect()
    }

    /// A plugin `acme` that runs this shell script; it appends its calls to a file `calls`.
    fn script(&self, text: &str) -> String {
        let (draft, file) = (self.folder.path().join("draft"), self.folder.path().join("acme"));
        let calls = self.folder.path().join("calls");
        let head = format!("#!/bin/sh\necho $CNI_COMMAND >> {}\n", calls.display());
        std::fs::write(&draft, format!("{head}{text}")).unwrap();
        // By another process: a child that another test starts just now would hold what we have open, and what is
        // open for writing cannot be executed.
        succeed(Command::new("install").args(["-m", "755"]).args([&draft, &file]));
        self.folder.path().display().to_string()
    }

    fn script_calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn clean(&self) {
        assert!(!self.host.links().keys().any(|name| name.starts_with("weft")), "a link is left");
        assert!(!self.workload.links().contains_key("eth0"));
    }
}

fn reserved(request: &Request) -> Value {
    let mut answer = reservation(false);
    if let Some(address) = request.body.get("address") {
        answer["wiring"]["address"] = address.clone();
    }
    answer
}

#[test]
fn host_locals_address_is_used_checked_and_given_back() {
    let place = Place::new();
    let mut config = place.host_local("10.255.30.0/24");
    config["ipam"]["routes"] =
        json!([{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.255.30.1"}]);
    let result = place.call("ADD", &config).result();
    assert_eq!(place.agent.seen()[0].body["address"], "10.255.30.20", "the agent knows it too");
    assert_eq!(result["ips"][0]["address"], "10.255.30.20/32");
    assert_eq!(place.given(), ["10.255.30.20"]);
    let destinations: Vec<&str> =
        result["routes"].as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap()).collect();
    assert_eq!(destinations, ["0.0.0.0/0", "192.0.2.0/24", "198.51.100.0/24"]);
    let routes = place.workload.run("ip -4 route");
    for route in ["192.0.2.0/24 via 10.255.30.1 dev eth0", "198.51.100.0/24 via 10.255.30.1 dev eth0"] {
        assert!(routes.contains(route), "{routes}");
    }
    // Debian's speaks at most 1.0.0, our config 1.1.0: it is asked in its own version.
    config["prevResult"] = result;
    place.call("CHECK", &config).silent_success();
    // One that does not know GC and STATUS has nothing to do there.
    place.call("STATUS", &config).silent_success();
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = Value::Null;
    place.call("GC", &gc).silent_success();
    // An address it lost is found by CHECK.
    std::fs::remove_file(place.folder.path().join("weft/10.255.30.20")).unwrap();
    let (_, msg) = place.call("CHECK", &config).message();
    assert!(msg.starts_with("ipam host-local: ") && msg.contains("c1"), "{msg}");
    place.call("DEL", &config).silent_success();
    assert_eq!(place.given(), [""; 0]);
    place.call("DEL", &config).silent_success();
    place.clean();
}

#[test]
fn every_version_it_speaks_is_used() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let place = Place::new();
        let mut config = place.host_local("10.255.30.0/24");
        config["cniVersion"] = json!(version);
        let result = place.call("ADD", &config).result();
        assert_eq!((&result["cniVersion"], &result["ips"][0]["address"]), (&json!(version), &json!("10.255.30.20/32")));
        place.call("DEL", &config).silent_success();
        assert_eq!(place.given(), [""; 0]);
    }
}

#[test]
fn statics_address_gateway_and_dns_are_used() {
    let place = Place::new();
    let ipam = json!({
        "type": "static", "addresses": [{"address": "10.255.30.20/24", "gateway": "10.255.30.1"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let config = place.config(&ipam);
    let result = place.call("ADD", &config).result();
    assert_eq!(result["ips"][0], json!({"interface": 1, "address": "10.255.30.20/32", "gateway": "10.255.30.1"}));
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
    let mut check = config.clone();
    check["prevResult"] = result;
    place.call("CHECK", &check).silent_success();
    place.call("DEL", &config).silent_success();
    place.clean();
}

#[test]
fn what_weft_cannot_wire_is_refused_by_name_before_anything_is_made() {
    let cases = [
        (
            json!([{"address": "10.255.30.20/24"}, {"address": "10.255.30.21/24"}]),
            json!([]),
            "ipam static gave 2 addresses (10.255.30.20/24, 10.255.30.21/24): weft wires exactly one, of IPv4",
        ),
        (json!([]), json!([]), "ipam static gave 0 addresses (): weft wires exactly one, of IPv4"),
        (
            json!([{"address": "2001:db8::5/64"}]),
            json!([]),
            "ipam static gave the address \"2001:db8::5/64\": weft wires exactly one, of IPv4",
        ),
        (
            json!([{"address": "10.255.30.20/24", "gateway": "10.255.30.9"}]),
            json!([]),
            "ipam static gave the gateway 10.255.30.9: the gateway of this host's workloads is 10.255.30.1",
        ),
        (
            json!([{"address": "10.255.30.20/24"}]),
            json!([{"dst": "192.0.2.0/24", "gw": "10.255.30.8"}]),
            "ipam static gave the gateway 10.255.30.8: the gateway of this host's workloads is 10.255.30.1",
        ),
        (
            json!([{"address": "10.255.30.20/24"}]),
            json!([{"dst": "2001:db8::/32"}]),
            "ipam static gave the route {\"dst\":\"2001:db8::/32\"}: dst must be an IPv4 network",
        ),
    ];
    let place = Place::new();
    for (addresses, routes, said) in cases {
        let config = place.config(&json!({"type": "static", "addresses": addresses, "routes": routes}));
        assert_eq!(place.call("ADD", &config).message(), (7, said.to_owned()));
        place.clean();
    }
}

#[test]
fn an_address_that_cannot_be_used_is_given_back() {
    let refusal =
        "c1/eth0 cannot have the requested address 10.77.1.20: it is outside this host's subnet 10.255.30.0/24";
    let place = Place::with(move |request| {
        (request.call == "POST /v1/reserve").then(|| Reply::Json(400, json!({"code": "invalid", "message": refusal})))
    });
    let config = place.host_local("10.77.1.0/24");
    assert_eq!(place.call("ADD", &config).message(), (7, refusal.to_owned()));
    assert_eq!(place.given(), [""; 0]);
    place.clean();
}

#[test]
fn an_address_is_given_back_when_a_later_step_fails() {
    let place = Place::with(|request| {
        let failing = request.call == "POST /v1/commit";
        failing.then(|| Reply::Json(500, json!({"code": "internal", "message": "no programs"})))
    });
    let config = place.host_local("10.255.30.0/24");
    assert_eq!(place.call("ADD", &config).message(), (999, "no programs".to_owned()));
    assert_eq!(place.given(), [""; 0]);
    assert!(place.agent.calls().contains(&"POST /v1/release".to_owned()));
    place.clean();
}

#[test]
fn del_gives_the_address_back_without_namespace_link_and_agent() {
    let place = Place::new();
    let mut config = place.host_local("10.255.30.0/24");
    place.call("ADD", &config).result();
    let link = place.host.links().into_keys().find(|name| name.starts_with("weft")).unwrap();
    place.host.run(&format!("ip link del {link}"));
    config["weft"]["socket"] = json!(place.folder.path().join("nobody.sock"));
    let del = Call::new("DEL", &config).with("CNI_PATH", DEBIAN);
    del.run(&place.host).silent_success();
    assert_eq!(place.given(), [""; 0]);
}

#[test]
fn all_operations_reach_a_delegate_that_knows_them() {
    let place = Place::new();
    let result = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.255.30.20/24"}]}"#;
    let path = place.script(&format!("[ $CNI_COMMAND = ADD ] && echo '{result}'\nexit 0\n"));
    let mut config = place.config(&json!({"type": "acme", "its": "own"}));
    config["prevResult"] = place.in_path("ADD", &config, &format!("/nowhere:{path}")).result();
    place.in_path("CHECK", &config, &path).silent_success();
    place.in_path("STATUS", &config, &path).silent_success();
    config["cni.dev/valid-attachments"] = json!([]);
    place.in_path("GC", &config, &path).silent_success();
    place.in_path("DEL", &config, &path).silent_success();
    assert_eq!(place.script_calls(), ["ADD", "CHECK", "STATUS", "GC", "DEL"]);
}

#[test]
fn a_delegates_errors_are_ours_with_its_name() {
    let place = Place::new();
    let fail = |code: u32| format!("echo '{{\"code\":{code},\"msg\":\"no pool\",\"details\":\"ask acme\"}}'; exit 1\n");
    let config = place.config(&json!({"type": "acme"}));
    let path = place.script(&fail(11));
    let error = place.in_path("ADD", &config, &path).error();
    assert_eq!((&error["code"], &error["msg"]), (&json!(11), &json!("ipam acme: no pool")));
    assert_eq!(place.script_calls(), ["ADD", "DEL"], "what a failed ADD left is taken back");
    assert_eq!(place.in_path("DEL", &config, &path).message(), (11, "ipam acme: no pool".to_owned()));
    assert_eq!(place.in_path("STATUS", &config, &path).message(), (50, "ipam acme: no pool".to_owned()));
    place.script(&fail(51));
    assert_eq!(place.in_path("STATUS", &config, &path).message(), (51, "ipam acme: no pool".to_owned()));
    for (text, code, said) in [
        ("exit 3\n", 999, "ipam acme: ended with exit status: 3 and no error object"),
        ("kill -9 $$\n", 999, "ipam acme: ended with signal: 9 (SIGKILL) and no error object"),
        ("echo no JSON\n", 6, "ipam acme printed no result: "),
        ("echo '{\"cniVersion\":\"7.0.0\"}'\n", 6, "ipam acme printed no result: incompatible CNI versions"),
    ] {
        place.script(text);
        let (got, msg) = place.in_path("ADD", &config, &path).message();
        assert!(got == code && msg.starts_with(said), "{text}: {got} {msg}");
    }
    let answer = place.in_path("ADD", &place.config(&json!({"type": "nobody"})), "/nowhere:/nor/here");
    assert_eq!(answer.message(), (999, "failed to find plugin \"nobody\" in path [/nowhere /nor/here]".to_owned()));
    assert!(!place.agent.calls().contains(&"POST /v1/reserve".to_owned()));
    place.clean();
}

#[test]
fn a_name_that_leads_elsewhere_and_settings_that_would_do_nothing_are_refused() {
    let place = Place::new();
    for (ipam, code, said) in [
        (
            json!({"type": "../../bin/sh"}),
            7,
            "invalid ipam.type \"../../bin/sh\": must be the name of a plugin in CNI_PATH",
        ),
        (json!({"type": 5}), 7, "invalid ipam.type 5: must be a string"),
        (json!("weft"), 7, "invalid ipam \"weft\": must be an object"),
        (
            json!({"type": "weft", "ranges": []}),
            2,
            "unsupported field ipam.ranges = []: the addresses of ipam type weft are weftd's, see its settings",
        ),
    ] {
        assert_eq!(place.call("ADD", &place.config(&ipam)).message(), (code, said.to_owned()));
    }
    for own in [json!({"type": "weft"}), json!({}), Value::Null] {
        place.call("ADD", &place.config(&own)).result();
        place.call("DEL", &place.config(&own)).silent_success();
    }
}
