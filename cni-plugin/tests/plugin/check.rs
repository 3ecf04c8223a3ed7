//! CHECK against the real kernel: what the agent says, what the namespace shows, what the result says.

use crate::support::{Answer, Call, Namespace, Reply, TestAgent, ok, reservation};
use serde_json::{Value, json};

/// A wired workload, its result, and an agent that finds nothing wrong.
fn wired() -> (Namespace, Namespace, TestAgent, Value) {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let agent = TestAgent::new(|request| match request.call.as_str() {
        "POST /v1/reserve" => ok(reservation(false)),
        "POST /v1/check" => ok(json!({"wiring": reservation(true)["wiring"]})),
        _ => ok(json!({})),
    });
    let result = Call::new("ADD", &agent.config()).with("CNI_NETNS", workload.path()).run(&host).result();
    (host, workload, agent, result)
}

fn check(agent: &TestAgent, host: &Namespace, workload: &Namespace, previous: &Value) -> Answer {
    let mut config = agent.config();
    config["prevResult"] = previous.clone();
    Call::new("CHECK", &config).with("CNI_NETNS", workload.path()).run(host)
}

#[test]
fn check_finds_each_thing_that_was_changed_inside() {
    let (host, workload, agent, result) = wired();
    let check = |previous: &Value| check(&agent, &host, &workload, previous);
    check(&result).silent_success();
    assert_eq!(agent.seen().last().unwrap().body, json!({"attachment": {"containerId": "c1", "ifname": "eth0"}}));
    for (breaking, mending, said) in [
        ("ip route del default", "ip route add default via 10.255.30.1 src 10.255.30.7 proto 119", "route 0.0.0.0/0"),
        (
            "ip neigh del 10.255.30.1 dev eth0",
            "ip neigh add 10.255.30.1 lladdr aa:aa:0a:ff:1e:01 dev eth0 nud permanent",
            "neighbour",
        ),
        (
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0",
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1",
            "disable_ipv6",
        ),
        ("ip link set eth0 mtu 1500", "ip link set eth0 mtu 1400", "MTU 1500"),
        ("ip link set lo down", "ip link set lo up", "lo is down"),
    ] {
        workload.run(breaking);
        let (code, msg) = check(&result).message();
        assert!(code == 999 && msg.starts_with("c1/eth0: ") && msg.contains(said), "{breaking}: {msg}");
        workload.run(mending);
        check(&result).silent_success();
    }
    workload.run("ip addr del 10.255.30.7/32 dev eth0");
    workload.run("ip link set eth0 down");
    let (_, msg) = check(&result).message();
    assert!(msg.contains("eth0 is down") && msg.contains("lacks its address 10.255.30.7/32"), "all at once: {msg}");
    workload.run("ip link set eth0 name other");
    assert_eq!(check(&result).message().1, "c1/eth0: eth0 is missing");
}

/// An interface of the right name and numbers whose other end is somewhere else.
#[test]
fn check_knows_the_two_ends_belong_together() {
    let (host, workload, agent, result) = wired();
    workload.run("ip link del eth0");
    workload.run("ip link add eth0 address ee:ee:0a:ff:1e:07 mtu 1450 type veth peer name other");
    let (_, msg) = check(&agent, &host, &workload, &result).message();
    assert!(msg.contains("eth0 is not the other end of weft"), "{msg}");
}

#[test]
fn check_compares_the_result_of_the_chain() {
    let (host, workload, agent, result) = wired();
    let check = |previous: &Value| check(&agent, &host, &workload, previous);
    assert_eq!(check(&Value::Null).message(), (7, "Required prevResult missing".to_owned()));
    for (pointer, value) in [
        ("/ips/0/address", json!("10.255.30.8/32")),
        ("/ips/0/interface", json!(0)),
        ("/ips/0/interface", json!(-1)),
        ("/ips/0/interface", json!(7)),
        ("/interfaces/1/name", json!("eth1")),
        ("/interfaces/1/sandbox", json!("/run/netns/weft-cni-no-such")),
    ] {
        let mut other = result.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        let (_, msg) = check(&other).message();
        assert!(msg.contains("prevResult lacks 10.255.30.7/32 on eth0"), "{pointer}: {msg}");
    }
    // What later plugins add is no difference, nor is another name of the same namespace.
    let mut more = result.clone();
    more["interfaces"].as_array_mut().unwrap().push(json!({"name": "ifb0"}));
    more["ips"].as_array_mut().unwrap().insert(0, json!({"address": "192.0.2.1/24", "interface": 2}));
    more["interfaces"][1]["sandbox"] = json!(format!("/var{}", workload.path()));
    check(&more).silent_success();
    // A route it names must be there.
    more["routes"].as_array_mut().unwrap().push(json!({"dst": "192.0.2.0/24", "gw": "10.255.30.1"}));
    assert!(check(&more).message().1.contains("the route 192.0.2.0/24 via 10.255.30.1"));
}

#[test]
fn what_the_agent_finds_is_what_check_says() {
    let (host, workload, _agent, result) = wired();
    let wrong = TestAgent::new(|_| {
        Reply::Json(500, json!({"code": "internal", "message": "c1/eth0: weft0123456789a lacks its programs"}))
    });
    let answer = check(&wrong, &host, &workload, &result);
    assert_eq!(answer.message(), (999, "c1/eth0: weft0123456789a lacks its programs".to_owned()));
    let mut config = crate::support::config(&wrong.folder.path().join("nobody.sock"), 1);
    config["prevResult"] = result;
    let answer = Call::new("CHECK", &config).with("CNI_NETNS", workload.path()).run(&host);
    assert_eq!(answer.message().0, 11, "without an agent nothing can be proved");
}
