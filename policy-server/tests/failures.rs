//! The store away, frozen and back; the server's end.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{Etcd, Server, eventually, policy};
use serde_json::Value;
use std::time::{Duration, Instant};

const V1: &str = "/networking/v1/external/policies";
const DELETE: &str = "/networking/v1/external/policies/delete";

/// What a request without a store is answered.
fn without_a_store(server: &Server) {
    let body = policy("app", "web", 2);
    let requests = [
        ("GET", "/health", "check database failed"),
        ("GET", V1, "database read failed"),
        ("GET", "/networking/v1/external/tags", "database read failed"),
        ("GET", "/networking/v1/internal/policies_last_updated", "database read failed"),
        ("GET", "/weft/v1/enforced?revision=1&timeout=0s", "database read failed"),
        ("POST", V1, "database create failed"),
        ("POST", DELETE, "database delete failed"),
    ];
    // Together, because each takes as long as the store's client tries.
    std::thread::scope(|scope| {
        for (method, path, error) in requests {
            let request = server.request(method, path).body(if method == "POST" { body.as_str() } else { "" });
            scope.spawn(move || {
                let answer = request.send();
                assert_eq!((answer.status, answer.error().as_str()), (500, error), "{answer:?}");
                let line = eventually("a log line", || server.logged("answer", error).pop());
                for key in ["error", "next"] {
                    assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{line}");
                }
            });
        }
    });
    // What does not need it still works, in Cloud Foundry's order.
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.get("/networking/v2/external/policies").status, 406);
    assert_eq!(server.post(V1, "{}").status, 400);
    assert_eq!(server.get(&format!("{V1}?id=%zz")).status, 400);
}

#[test]
fn the_store_dies_and_comes_back() {
    let mut etcd = Etcd::start();
    let server = Server::start(&etcd);
    assert_eq!(server.post(V1, &policy("app", "web", 1)).status, 200);
    etcd.kill();
    without_a_store(&server);
    etcd.up();
    eventually("healthy again", || (server.get("/health").status == 200).then_some(()));
    assert_eq!(server.get(V1).policies(), ["app>web:1"]);
    assert_eq!(server.post(V1, &policy("app", "web", 3)).status, 200);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("store_errors_total{answer=\"database create failed\"} 1\n"), "{metrics}");
}

#[test]
fn a_store_that_hangs_is_given_up_on() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    assert_eq!(server.post(V1, &policy("app", "web", 1)).status, 200);
    etcd.freeze();
    // Within our patience with a request.
    let answer = server.get(V1);
    etcd.thaw();
    assert_eq!((answer.status, answer.error().as_str()), (500, "database read failed"));
    eventually("healthy again", || (server.get("/health").status == 200).then_some(()));
}

#[test]
fn a_change_whose_client_is_gone_still_has_its_audit_line() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    assert_eq!(server.post(V1, &policy("app", "web", 1)).status, 200);
    let mut ports = 2..;
    let (port, line) = eventually("a change that was begun before its client was gone", || {
        let port = ports.next()?;
        etcd.freeze();
        let connection = server.request("POST", V1).body(policy("app", "web", port)).begin();
        // A later connection that is served means that this one was accepted, and mostly that it was read.
        assert_eq!(server.get("/").status, 200);
        drop(connection);
        assert_eq!(server.get("/").status, 200);
        etcd.thaw();
        told_or_not_begun(&server, port).map(|line| (port, line))
    });
    // One whose answer came too late may have been made all the same.
    let there = server.get(V1).policies().contains(&format!("app>web:{port}"));
    assert!(there || line["message"] == "policies not changed", "{line}");
}

/// The audit line of a change, or nothing if the server noticed that its client was gone before it began it.
fn told_or_not_begun(server: &Server, port: u16) -> Option<Value> {
    let is_it = |line: &Value| {
        let policies: Value = serde_json::from_str(line["policies"].as_str().unwrap()).unwrap();
        policies[0]["destination"]["ports"]["start"] == port
    };
    let told = || server.logged("target", "audit").into_iter().find(is_it);
    // Longer than a change goes on without a store.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if let Some(line) = told() {
            return Some(line);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let there = eventually("healthy again", || Some(server.get(V1)).filter(|answer| answer.status == 200));
    let made = there.policies().contains(&format!("app>web:{port}"));
    made.then(|| eventually("the audit line of a change that was made", told))
}

#[test]
fn it_starts_before_its_store() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let server = Server::start(&etcd);
    assert_eq!(server.get("/health").status, 500);
    etcd.up();
    eventually("healthy", || (server.get("/health").status == 200).then_some(()));
    assert_eq!(server.post(V1, &policy("app", "web", 1)).status, 200);
}

#[test]
fn signals_end_it_with_success() {
    let etcd = Etcd::start();
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&etcd);
        assert_eq!(server.get("/").status, 200);
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_waiting_request_does_not_hold_up_the_end() {
    let etcd = Etcd::start();
    // A host that will never enforce anything.
    let mut server = Server::start(&etcd);
    let never = "/weft/v1/enforced?revision=9223372036854775807&timeout=10m";
    let request = server.request("GET", never);
    etcd.ctl(&["put", "/weft/v1/enforced/node-1", r#"{"revision":1,"at":"2026-01-01T00:00:00Z"}"#]);
    let waiting = std::thread::spawn(move || std::panic::catch_unwind(|| request.send()).is_ok());
    eventually("the want", || etcd.value("/weft/v1/wanted"));
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));
    waiting.join().unwrap();
}

#[test]
fn a_taken_port_is_said_clearly() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let listen = server.address.to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_weft-policy-server"))
        .env_clear()
        .args(["--development-no-auth", "--listen", &listen])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&listen) && stderr.contains("in use"), "{stderr}");
}
