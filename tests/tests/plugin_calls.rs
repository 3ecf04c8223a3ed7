//! Runtimes call the plugin wrongly, twice, late, or with nothing there: one clear error each, no
//! harm to anybody.

use serde_json::{Value, json};
use std::net::SocketAddr;
use weft_lab::lab::remove_netns;
use weft_lab::probe::{self, HttpServer};
use weft_lab::wait;
use weft_lab::workload::{CniCall, WorkloadOptions, add_call, del_call};
use weft_tests::{PATIENCE, lab};

fn error_of(output: &std::process::Output) -> Value {
    assert!(!output.status.success(), "succeeded: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not one JSON document: {output:?}"))
}

#[test]
fn malformed_calls_get_one_error_document_and_change_nothing() {
    let mut lab = lab("bad");
    let (id, netns) = lab.container("n1", "w").unwrap();
    let host = lab.host("n1");
    let good = add_call(host, &WorkloadOptions::pod("w", "shop"), &id, &netns);
    let with = |change: &dyn Fn(&mut CniCall)| {
        let mut call = good.clone();
        change(&mut call);
        error_of(&call.run(host).unwrap())
    };
    let version = with(&|call| call.stdin["cniVersion"] = json!("9.9.9"));
    assert_eq!((&version["code"], &version["msg"]), (&json!(1), &json!("incompatible CNI versions")));
    let nameless = with(&|call| drop(call.stdin.as_object_mut().unwrap().remove("name")));
    assert_eq!(nameless["code"], 7);
    let unknown = with(&|call| call.stdin["weft"]["sokcet"] = json!("x"));
    assert_eq!(unknown["code"], 2);
    assert!(unknown.to_string().contains("sokcet"), "{unknown}");
    let variable = with(&|call| call.container_id.clear());
    assert_eq!(variable["code"], 4);
    assert!(variable["msg"].as_str().unwrap().contains("CNI_CONTAINERID"), "{variable}");
    let missing = with(&|call| call.netns = "/run/netns/weft-there-is-none".to_owned());
    assert!(missing.to_string().contains("/run/netns/weft-there-is-none"), "{missing}");
    let file = with(&|call| call.netns = "/etc/hostname".to_owned());
    assert!(file.to_string().contains("/etc/hostname"), "{file}");
    let own = with(&|call| call.netns = host.netns.display().to_string());
    assert_eq!(own["code"], 8, "{own}");
    let command = with(&|call| call.command = "FROBNICATE".to_owned());
    assert_eq!((&command["code"], &command["msg"]), (&json!(4), &json!("unknown CNI_COMMAND: FROBNICATE")));
    let escape = with(&|call| {
        call.stdin["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["weft/policy-group"] = json!("../other")
    });
    assert!(escape.to_string().contains("weft/policy-group"), "{escape}");
    // It would not fit into the link's alias.
    let long = with(&|call| call.container_id = "a".repeat(191));
    assert_eq!(
        (&long["code"], &long["msg"]),
        (&json!(4), &json!("CNI_CONTAINERID has 191 characters: at most 190 are allowed"))
    );
    assert_eq!(host.endpoints().unwrap(), [], "something was left of a refused call");
    good.expect(host).expect("the good call still works");
    let (_, netns) = lab.container("n1", "w").unwrap();
    let host = lab.host("n1");
    let mut longest = add_call(host, &WorkloadOptions::pod("w", "shop"), &"a".repeat(190), &netns);
    longest.environment.push(("CNI_IFNAME", "fifteen-letters".to_owned()));
    longest.expect(host).unwrap();
}

#[test]
fn add_twice_is_refused_and_leaves_the_living_alone() {
    let mut lab = lab("twice");
    let options = WorkloadOptions::pod("w", "open");
    let workload = lab.add("n1", &options).unwrap();
    let host = lab.host("n1");
    let again = add_call(host, &options, &workload.container_id, &workload.netns);
    error_of(&again.run(host).unwrap());
    assert_eq!(host.endpoints().unwrap().len(), 1);
    let _server = HttpServer::start(&workload.netns, 8080).unwrap();
    probe::get(&host.netns, SocketAddr::from((workload.ip, 8080)), PATIENCE).expect("it still answers");
}

#[test]
fn del_succeeds_twice_without_namespace_and_without_agent() {
    let mut lab = lab("del");
    let options = WorkloadOptions::app("a", "3b1c");
    let [first, second, third] = [0; 3].map(|_| lab.add("c1", &options).unwrap());
    lab.del("c1", &first).unwrap();
    let host = lab.host("c1");
    del_call(host, &first).expect(host).expect("a second DEL");
    remove_netns(&second).unwrap();
    let mut late = del_call(host, &second);
    late.expect(host).expect("DEL with the namespace gone");
    late.netns.clear();
    late.stdin.as_object_mut().unwrap().remove("prevResult");
    late.expect(host).expect("containerd's late DEL: no namespace, no prevResult");
    lab.host_mut("c1").kill_agent().unwrap();
    lab.del("c1", &third).expect("DEL with the agent dead");
    let host = lab.host_mut("c1");
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    wait::until_true("the note to be carried out", PATIENCE, || Ok(host.endpoints()?.is_empty())).unwrap();
}

#[test]
fn what_lost_its_namespace_is_collected_without_a_del() {
    let mut lab = lab("gone");
    let workload = lab.add("n1", &WorkloadOptions::pod("w", "open")).unwrap();
    assert_eq!(lab.host("n1").endpoints().unwrap().len(), 1);
    remove_netns(&workload).unwrap();
    let host = lab.host("n1");
    wait::until_true("collection", PATIENCE, || Ok(host.endpoints()?.is_empty())).unwrap();
}

#[test]
fn an_exhausted_subnet_says_so_and_serves_again_after_the_cool_down() {
    let mut options = weft_lab::LabOptions::three(&weft_lab::LabOptions::unique_name("full"));
    for host in &mut options.hosts {
        host.flags = ["--subnet-len", "29", "--address-cool-down", "1"].map(str::to_owned).into();
    }
    let mut lab = weft_lab::Lab::up(options).unwrap();
    let pod = WorkloadOptions::pod("w", "open");
    let workloads: Vec<_> = (0..5).map(|_| lab.add("n1", &pod).unwrap()).collect();
    let (id, netns) = lab.container("n1", "one-too-many").unwrap();
    let call = add_call(lab.host("n1"), &pod, &id, &netns);
    let error = error_of(&call.run(lab.host("n1")).unwrap());
    assert_eq!(error["code"], 11, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("exhausted"), "{error}");
    lab.del("n1", &workloads[0]).unwrap();
    let host = lab.host("n1");
    wait::until("an address to cool down", PATIENCE, || call.expect(host)).unwrap();
}
