//! GC: whom it names, in which spelling, and that a list that is none removes nothing.

use crate::support::{Answer, Call, Namespace, Reply, TestAgent, ok};
use serde_json::{Value, json};

fn gc(agent: &TestAgent, host: &Namespace, changes: &[(&str, Value)]) -> Answer {
    let mut config = agent.config();
    for (key, value) in changes {
        config[key] = value.clone();
    }
    Call::new("GC", &config).with("CNI_CONTAINERID", "").with("CNI_IFNAME", "").run(host)
}

const SPEC: &str = "cni.dev/valid-attachments";
const DRAFT: &str = "cni.dev/attachments";

#[test]
fn gc_names_the_network_and_everybody_in_either_list() {
    let host = Namespace::new();
    let agent = TestAgent::new(|_| ok(json!({"removed": []})));
    let one = || json!([{"containerID": "c1", "ifname": "eth0"}]);
    let two = json!([{"ContainerID": "c2", "IfName": "eth1", "extra": 1}]);
    for changes in [vec![(SPEC, one())], vec![(DRAFT, one())], vec![(SPEC, one()), (DRAFT, one())]] {
        gc(&agent, &host, &changes).silent_success();
        let valid = json!([{"containerId": "c1", "ifname": "eth0"}]);
        assert_eq!(agent.seen().last().unwrap().body, json!({"network": "weft", "valid": valid}));
    }
    gc(&agent, &host, &[(SPEC, one()), (DRAFT, two)]).silent_success();
    let last = agent.seen().pop().unwrap();
    assert_eq!(last.call, "POST /v1/gc");
    assert_eq!(last.body["valid"].as_array().unwrap().len(), 2, "{:?}", last.body);
}

/// Go writes a nil list as `null`: no workload is valid. Without the key nobody said anything.
#[test]
fn gc_tells_none_from_nothing() {
    let host = Namespace::new();
    let agent = TestAgent::new(|_| ok(json!({"removed": []})));
    for none in [vec![(SPEC, Value::Null)], vec![(DRAFT, json!([]))], vec![(SPEC, json!([])), (DRAFT, Value::Null)]] {
        gc(&agent, &host, &none).silent_success();
        assert_eq!(agent.seen().last().unwrap().body["valid"], json!([]));
    }
    let before = agent.seen().len();
    let text = "cni.dev/valid-attachments is missing: nothing was collected";
    assert_eq!(gc(&agent, &host, &[]).message(), (7, text.to_owned()));
    assert_eq!(agent.seen().len(), before, "the agent was asked");
}

#[test]
fn a_list_that_is_none_removes_nothing() {
    let host = Namespace::new();
    let agent = TestAgent::new(|_| ok(json!({"removed": []})));
    for bad in [
        json!("all"),
        json!({}),
        json!([5]),
        json!([{"containerID": "c1"}]),
        json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "../x", "ifname": "eth0"}]),
        json!([{"containerID": "c1", "ifname": ""}]),
    ] {
        let (code, msg) = gc(&agent, &host, &[(SPEC, bad)]).message();
        assert!(code == 7 && msg.contains(SPEC) && msg.ends_with("nothing was collected"), "{msg}");
    }
    assert_eq!(agent.calls(), [""; 0]);
}

#[test]
fn gc_says_what_could_not_be_removed_and_needs_the_agent() {
    let host = Namespace::new();
    let agent = TestAgent::new(|_| {
        Reply::Json(
            500,
            json!({"code": "internal", "message": "GC of network weft: 1 of 2 could not be removed: c1/eth0: no"}),
        )
    });
    let (code, msg) = gc(&agent, &host, &[(SPEC, Value::Null)]).message();
    assert_eq!((code, msg.as_str()), (999, "GC of network weft: 1 of 2 could not be removed: c1/eth0: no"));
    let mut nobody = crate::support::config(&agent.folder.path().join("nobody.sock"), 1);
    nobody[SPEC] = Value::Null;
    assert_eq!(Call::new("GC", &nobody).run(&host).message().0, 11);
}
