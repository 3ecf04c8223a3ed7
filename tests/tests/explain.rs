//! `weft explain` says what packets then find.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use weft_lab::probe::{self, HttpServer};
use weft_lab::workload::{Dialect, WorkloadOptions};
use weft_lab::{Host, shell, wait};
use weft_tests::{PATIENCE, lab};

/// Exit code, and what it said.
fn explain(host: &Host, question: &[&str]) -> (i32, String) {
    let mut weft = Command::new(shell::binary("weft").expect("weft"));
    let output = weft.env("WEFT_SOCKET", host.socket()).arg("explain").args(question).output().expect("weft runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("a code"), said)
}

/// Asks first, then tries: they must agree. Returns what was said.
#[track_caller]
fn agrees(host: &Host, from: (&str, &Path), to: (&str, Ipv4Addr), port: u16, allowed: bool) -> String {
    let (code, said) = explain(host, &[from.0, to.0, "tcp", &port.to_string()]);
    assert_eq!(code, if allowed { 0 } else { 3 }, "{said}");
    let tried = probe::connects(from.1, SocketAddr::from((to.1, port)), PATIENCE);
    assert_eq!(tried.is_ok(), allowed, "{said}: {tried:?}");
    said
}

#[test]
fn explain_and_packets_agree() {
    let mut lab = lab("explain");
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).expect("app");
    let web = lab.add("c1", &WorkloadOptions::app("web", "77aa")).expect("web");
    let dialect = Dialect::Containerd { namespace: "shop".to_owned(), group: Some("front".to_owned()) };
    let pod = lab.add("n1", &WorkloadOptions::new("front", dialect)).expect("pod");
    let _servers = [8080, 8081].map(|port| HttpServer::start(&web.netns, port).expect("server"));
    let (app_ip, web_ip, pod_ip) = (app.ip.to_string(), web.ip.to_string(), pod.ip.to_string());
    let (on_cell, on_node) = (lab.host("c1"), lab.host("n1"));

    let said = agrees(on_cell, (&app_ip, &app.netns), (&web_ip, web.ip), 8080, false);
    assert!(said.starts_with("DENIED: ") && said.contains("the workload is isolated"), "{said}");
    lab.weft(&["policies", "allow", "--from", "3b1c", "--to", "77aa", "--port", "8080", "--wait"]).expect("allowed");
    let said = agrees(on_cell, (&app_ip, &app.netns), (&web_ip, web.ip), 8080, true);
    assert!(said.contains("policy 3b1c → 77aa tcp 8080"), "{said}");
    agrees(on_cell, (&app_ip, &app.netns), (&web_ip, web.ip), 8081, false);
    // By container and by group it is the same.
    let id = &web.container_id;
    agrees(on_cell, ("3b1c", &app.netns), (id, web.ip), 8080, true);
    agrees(on_cell, (&app_ip, &app.netns), ("77aa", web.ip), 8081, false);

    // Across hosts: the source's host knows who decides, the destination's host decides by group.
    let told = || {
        let (code, said) = explain(on_node, &[&pod_ip, &web_ip, "tcp", "8080"]);
        if code == 4 && said.contains("c1 (") && said.contains("has the last word") {
            Ok(())
        } else {
            Err((code, said))
        }
    };
    wait::until("n1 to know the other host", PATIENCE, told).expect("told");
    agrees(on_cell, ("k8s:lab/shop/front", &pod.netns), (&web_ip, web.ip), 8080, false);
    lab.weft(&["policies", "allow", "--from", "k8s:lab/shop/front", "--to", "77aa", "--port", "8080", "--wait"])
        .expect("allowed");
    agrees(on_cell, ("k8s:lab/shop/front", &pod.netns), (&web_ip, web.ip), 8080, true);
    let (code, said) = explain(on_cell, &[&pod_ip, &web_ip, "tcp", "8080"]);
    assert!(code == 1 && said.contains("name the group instead"), "{code}: {said}");

    // The own host, both ways; and what no policy opens.
    let gateway = on_cell.status().expect("status").subnet.expect("a subnet").gateway();
    let _on_cell = HttpServer::start(&on_cell.netns, 9000).expect("server");
    let said = agrees(on_cell, (&app_ip, &app.netns), (&gateway.to_string(), gateway), 9000, false);
    assert!(said.contains("host_services"), "{said}");
    agrees(on_cell, (&gateway.to_string(), &on_cell.netns), (&web_ip, web.ip), 8081, true);
    let (code, said) = explain(on_cell, &[&app_ip, "169.254.169.254", "tcp", "80"]);
    assert!(code == 3 && said.contains("169.254.0.0/16"), "{code}: {said}");
    let (code, said) = explain(on_cell, &[&app_ip, "nobody-knows", "tcp", "80"]);
    assert!(code == 1 && said.contains("destination: \"nobody-knows\""), "{code}: {said}");

    // What machines read: the maps' own state.
    let (code, said) = explain(on_cell, &["--json", &app_ip, &web_ip, "icmp"]);
    let answer: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let state = &answer["judgements"][1]["dataPlane"];
    let enforced = on_cell.status().expect("status").enforced_revision;
    assert_eq!(
        (code, state["current"].as_bool(), state["revision"].as_i64()),
        (3, Some(true), Some(enforced)),
        "{said}"
    );
    assert_eq!((state["rules"].as_u64(), state["attached"].as_bool()), (Some(2), Some(true)), "{said}");
}
