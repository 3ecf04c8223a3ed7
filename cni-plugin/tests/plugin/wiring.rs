//! ADD and DEL against the real kernel: what the agent finds at commit, and what is left afterwards.

use crate::support::{Answer, Call, Namespace, Reply, TestAgent, no_such_path, ok, reservation};
use serde_json::{Value, json};

const HOST_END: &str = "weft:1:0123456789abcdef:c1:eth0";

/// A host, a workload's namespace, and the name the host's end will have.
fn places() -> (Namespace, Namespace, String) {
    let attachment: weft_model::id::Attachment =
        serde_json::from_value(json!({"containerId": "c1", "ifname": "eth0"})).unwrap();
    (Namespace::new(), Namespace::new(), weft_model::workload::host_ifname(&attachment).to_string())
}

fn add(agent: &TestAgent, host: &Namespace, netns: &str) -> Answer {
    Call::new("ADD", &agent.config()).with("CNI_NETNS", netns).run(host)
}

fn del(agent: &TestAgent, host: &Namespace, netns: &str) -> Answer {
    Call::new("DEL", &agent.config()).with("CNI_NETNS", netns).run(host)
}

/// An agent that says yes, and looks at the host when it is asked to commit. It is an older one, which
/// leaves the removal of links to the plugin.
fn willing(host: &Namespace) -> (TestAgent, std::sync::mpsc::Receiver<Value>) {
    let (send, looked) = std::sync::mpsc::channel();
    let mut look = host.command("ip -json -details link");
    let agent = TestAgent::new(move |request| match request.call.as_str() {
        "POST /v1/reserve" => ok(reservation(false)),
        "POST /v1/commit" => {
            let links = look.output().unwrap().stdout;
            send.send(serde_json::from_slice(&links).unwrap()).unwrap();
            ok(json!({"dnsServers": ["169.254.0.53"]}))
        }
        "POST /v1/remove" => no_such_path(),
        _ => ok(json!({"released": true})),
    });
    (agent, looked)
}

#[test]
fn at_commit_the_workload_is_wired_and_the_hosts_end_is_down_and_free() {
    let (host, workload, name) = places();
    let (agent, looked) = willing(&host);
    let result = add(&agent, &host, &workload.path()).result();
    let links = looked.recv().unwrap();
    let end = links.as_array().unwrap().iter().find(|link| link["ifname"] == name.as_str()).unwrap();
    assert_eq!(end["ifindex"], 0x0100_0000 + 7);
    assert_eq!(end["ifalias"], HOST_END);
    assert_eq!(end["address"], "aa:aa:0a:ff:1e:07");
    assert_eq!(end["mtu"], 1450);
    assert_eq!(end.get("master"), None);
    assert!(!end["flags"].as_array().unwrap().contains(&json!("UP")), "{end}");

    let inside = &workload.links()["eth0"];
    assert_eq!((&inside["address"], &inside["mtu"]), (&json!("ee:ee:0a:ff:1e:07"), &json!(1450)));
    assert!(inside["flags"].as_array().unwrap().contains(&json!("UP")), "{inside}");
    assert!(workload.links()["lo"]["flags"].as_array().unwrap().contains(&json!("UP")));
    assert!(workload.run("ip -4 -o addr show dev eth0").contains("inet 10.255.30.7/32"));
    let neighbours = workload.run("ip -4 neigh show dev eth0");
    assert_eq!(neighbours.trim(), "10.255.30.1 lladdr aa:aa:0a:ff:1e:01 PERMANENT");
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": name, "mac": "aa:aa:0a:ff:1e:07", "mtu": 1450},
                {"name": "eth0", "mac": "ee:ee:0a:ff:1e:07", "mtu": 1450, "sandbox": workload.path()},
            ],
            "ips": [{"interface": 1, "address": "10.255.30.7/32", "gateway": "10.255.30.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.255.30.1"}],
            "dns": {"nameservers": ["169.254.0.53"]},
        })
    );
    let routes = workload.run("ip -4 route");
    assert!(routes.contains("default via 10.255.30.1 dev eth0"), "{routes}");
}

#[test]
fn del_takes_the_link_and_says_which_incarnation_it_was() {
    let (host, workload, name) = places();
    let (agent, _looked) = willing(&host);
    add(&agent, &host, &workload.path()).result();
    del(&agent, &host, &workload.path()).silent_success();
    assert!(!host.links().contains_key(&name));
    assert!(!workload.links().contains_key("eth0"));
    let last = agent.seen().pop().unwrap();
    assert_eq!(agent.calls()[2..], ["POST /v1/remove", "POST /v1/release"]);
    assert_eq!(last.body["token"], "0123456789abcdef");
    // Again, with nothing there and without a namespace, as a kubelet does.
    del(&agent, &host, "").silent_success();
    assert_eq!(agent.seen().pop().unwrap().body["token"], Value::Null);
}

#[test]
fn del_leaves_the_link_to_an_agent_that_removes_it() {
    let (host, workload, name) = places();
    for foreign in [false, true] {
        let agent = TestAgent::new(move |_| ok(json!({"released": true, "foreign": foreign})));
        let answer = del(&agent, &host, &workload.path());
        answer.silent_success();
        let said = String::from_utf8_lossy(&answer.0.stderr).into_owned();
        assert_eq!(said.contains(&format!("link {name} is not weft's and stays")), foreign, "{said}");
        assert_eq!(agent.calls(), ["POST /v1/remove"]);
        assert_eq!(agent.seen()[0].body, json!({"attachment": {"containerId": "c1", "ifname": "eth0"}}));
        assert!(!agent.folder.path().join("del").exists(), "a note was left");
    }
}

/// Killed in the middle, the agent gives no answer; hung, none in time; failing, a bad one.
#[test]
fn del_removes_the_link_itself_where_the_agent_does_not() {
    let (host, workload, name) = places();
    let replies: [fn() -> Reply; 3] = [
        || Reply::Raw(Vec::new()),
        || Reply::Hang,
        || Reply::Json(500, json!({"code": "internal", "message": "the kernel refuses"})),
    ];
    for reply in replies {
        let (willing, _looked) = willing(&host);
        add(&willing, &host, &workload.path()).result();
        let agent = TestAgent::new(move |_| reply());
        del(&agent, &host, &workload.path()).silent_success();
        assert!(!host.links().contains_key(&name) && !workload.links().contains_key("eth0"));
        let note = agent.folder.path().join(format!("del/{name}-0123456789abcdef.json"));
        assert!(note.exists(), "the agent is told later");
    }
}

#[test]
fn a_refused_commit_is_undone_and_the_first_error_is_printed() {
    let (host, workload, name) = places();
    let agent = TestAgent::new(|request| match request.call.as_str() {
        "POST /v1/reserve" => ok(reservation(false)),
        "POST /v1/commit" => Reply::Json(
            503,
            json!({"code": "try-again", "message": "the reservation lapsed", "details": "it was older than 120 s"}),
        ),
        _ => Reply::Json(500, json!({"code": "internal", "message": "and the release fails too"})),
    });
    let answer = add(&agent, &host, &workload.path());
    assert_eq!(
        answer.error(),
        json!({
            "cniVersion": "1.1.0", "code": 11,
            "msg": "the reservation lapsed", "details": "it was older than 120 s",
        })
    );
    assert!(!host.links().contains_key(&name) && !workload.links().contains_key("eth0"));
    assert_eq!(agent.calls(), ["POST /v1/reserve", "POST /v1/commit", "POST /v1/release"]);
    // The release that failed is in a note.
    let note = std::fs::read(agent.folder.path().join(format!("del/{name}-0123456789abcdef.json"))).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&note).unwrap(), agent.seen()[2].body);
}

#[test]
fn a_second_add_leaves_the_living_workload_alone() {
    let (host, workload, name) = places();
    let (agent, _looked) = willing(&host);
    add(&agent, &host, &workload.path()).result();
    host.run(&format!("ip link set {name} up"));
    let before = agent.calls();
    let (code, msg) = add(&agent, &host, &workload.path()).message();
    assert_eq!((code, msg.as_str()), (999, "c1/eth0 is wired already: ADD was called twice without DEL between"));
    assert!(host.links().contains_key(&name) && workload.links().contains_key("eth0"));
    assert_eq!(agent.calls(), before, "nothing was asked or released");
}

#[test]
fn a_committed_workload_whose_link_is_down_is_left_alone_too() {
    let (host, workload, name) = places();
    let (agent, _looked) = willing(&host);
    add(&agent, &host, &workload.path()).result();
    let committed = TestAgent::new(|_| ok(reservation(true)));
    let (code, msg) = add(&committed, &host, &workload.path()).message();
    assert_eq!((code, msg.contains("wired already")), (999, true), "{msg}");
    assert!(host.links().contains_key(&name) && workload.links().contains_key("eth0"));
    assert_eq!(committed.calls(), ["POST /v1/reserve"]);
}

#[test]
fn what_a_killed_add_left_is_replaced() {
    let (host, workload, name) = places();
    let (agent, _looked) = willing(&host);
    add(&agent, &host, &workload.path()).result();
    // Still down: its commit never came. The agent knows a reservation.
    let first = host.links()[&name]["link_netnsid"].clone();
    add(&agent, &host, &workload.path()).result();
    assert_eq!(host.links()[&name]["link_netnsid"], first);
    assert_eq!(agent.calls().iter().filter(|call| *call == "POST /v1/commit").count(), 2);
    del(&agent, &host, "").silent_success();
    assert!(!host.links().contains_key(&name));
}

#[test]
fn an_interface_of_that_name_inside_is_refused_before_anything_is_reserved() {
    let (host, workload, name) = places();
    workload.run("ip link add eth0 type bridge");
    let (agent, _looked) = willing(&host);
    let (code, msg) = add(&agent, &host, &workload.path()).message();
    assert_eq!((code, msg), (999, format!("interface eth0 exists already in netns {:?}", workload.path())));
    assert_eq!(agent.calls(), [""; 0]);
    assert!(workload.links().contains_key("eth0") && !host.links().contains_key(&name));
}

#[test]
fn a_slot_whose_link_is_still_there_fails_without_touching_that_link() {
    let (host, workload, name) = places();
    host.run("ip link add other index 16777223 type bridge");
    let (agent, _looked) = willing(&host);
    let (code, msg) = add(&agent, &host, &workload.path()).message();
    assert_eq!((code, msg.starts_with("cannot wire c1/eth0: ")), (999, true), "{msg}");
    assert_eq!(agent.calls(), ["POST /v1/reserve", "POST /v1/release"]);
    assert!(host.links().contains_key("other") && !host.links().contains_key(&name));
    assert!(!workload.links().contains_key("eth0"));
}

#[test]
fn a_link_of_somebody_else_is_never_touched() {
    let (host, workload, name) = places();
    host.run(&format!("ip link add {name} type bridge"));
    let (agent, _looked) = willing(&host);
    let (code, msg) = add(&agent, &host, &workload.path()).message();
    assert_eq!((code, msg.contains("is not weft's")), (999, true), "{msg}");
    del(&agent, &host, &workload.path()).silent_success();
    assert!(host.links().contains_key(&name));
}

#[test]
fn the_hosts_own_namespace_is_refused_by_add_and_untouched_by_del() {
    let (host, _workload, _name) = places();
    host.run("ip link add eth0 type bridge");
    let (agent, _looked) = willing(&host);
    for path in [host.path(), "/proc/self/ns/net".to_owned()] {
        let (code, msg) = add(&agent, &host, &path).message();
        let text = "plugin's netns and netns from CNI_NETNS should not be the same";
        assert_eq!((code, msg.as_str()), (8, text));
        del(&agent, &host, &path).silent_success();
    }
    assert!(host.links().contains_key("eth0"));
    assert!(!agent.calls().contains(&"POST /v1/reserve".to_owned()));
}

#[test]
fn a_netns_that_is_none_fails_add_by_name_and_del_not_at_all() {
    let (host, _workload, _name) = places();
    let (agent, _looked) = willing(&host);
    let file = agent.folder.path().join("ordinary");
    std::fs::write(&file, "").unwrap();
    let other = "/proc/self/ns/mnt";
    for path in [file.to_str().unwrap(), "/run/netns/weft-cni-no-such", other, "/", "relative"] {
        let (code, msg) = add(&agent, &host, path).message();
        assert!(code == 8 && msg.contains(&format!("failed to open netns {path:?}")), "{msg}");
        del(&agent, &host, path).silent_success();
    }
}

#[test]
fn a_link_whose_maker_was_killed_before_it_wrote_the_alias_is_replaced_and_removed() {
    let (host, workload, name) = places();
    let (agent, _looked) = willing(&host);
    let bare = format!("ip link add {name} index 16777223 type veth peer name eth0 netns {}", workload.0);
    host.run(&bare);
    add(&agent, &host, &workload.path()).result();
    assert_eq!(host.links()[&name]["ifalias"], HOST_END);
    del(&agent, &host, "").silent_success();
    host.run(&bare);
    del(&agent, &host, &workload.path()).silent_success();
    assert!(!host.links().contains_key(&name) && !workload.links().contains_key("eth0"));
}

#[test]
fn a_plan_that_fails_inside_is_undone() {
    let (host, workload, name) = places();
    let agent = TestAgent::new(|request| match request.call.as_str() {
        "POST /v1/reserve" => {
            let mut wrong = reservation(false);
            wrong["wiring"]["address"] = json!("224.0.0.7");
            ok(wrong)
        }
        _ => ok(json!({"released": true})),
    });
    let (code, msg) = add(&agent, &host, &workload.path()).message();
    assert!(code == 999 && msg.starts_with("cannot wire c1/eth0: "), "{msg}");
    assert!(!host.links().contains_key(&name) && !workload.links().contains_key("eth0"));
    assert_eq!(agent.calls(), ["POST /v1/reserve", "POST /v1/release"]);
    assert_eq!(agent.seen()[1].body["token"], "0123456789abcdef");
}

#[test]
fn a_committed_attachment_whose_link_vanished_is_wired_again() {
    let (host, workload, name) = places();
    let agent = TestAgent::new(|request| match request.call.as_str() {
        "POST /v1/reserve" => ok(reservation(true)),
        _ => ok(json!({})),
    });
    add(&agent, &host, &workload.path()).result();
    assert!(host.links().contains_key(&name));
    assert_eq!(agent.calls(), ["POST /v1/reserve", "POST /v1/commit"]);
}

#[test]
fn the_agent_learns_identity_and_namespace() {
    let (host, workload, _name) = places();
    let (agent, _looked) = willing(&host);
    let mut config = agent.config();
    config["metadata"] = json!({"policy_group_id": "3b1c", "space_id": "5e", "org_id": "6f", "ports": ""});
    config["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": {"weft/policy-group": "web", "x": "y"}});
    Call::new("ADD", &config)
        .with("CNI_NETNS", workload.path())
        .with("CNI_ARGS", "K8S_POD_NAME=w3;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop")
        .run(&host)
        .result();
    assert_eq!(
        agent.seen()[0].body,
        json!({
            "attachment": {"containerId": "c1", "ifname": "eth0"},
            "netns": workload.path(),
            "network": "weft",
            "capabilities": {},
            "identity": {
                "policyGroupId": "3b1c", "spaceId": "5e", "orgId": "6f",
                "podNamespace": "shop", "podName": "w3", "groupAnnotation": "web",
            },
        })
    );
}
