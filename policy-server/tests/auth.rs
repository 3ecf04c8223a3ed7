//! Who gets in.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{Etcd, Server, TOKEN, policy};
use serde_json::json;
use std::process::{Command, Output};

const V1: &str = "/networking/v1/external/policies";

#[test]
fn nothing_happens_without_the_token() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let paths = [
        ("GET", V1),
        ("POST", V1),
        ("POST", "/networking/v1/external/policies/delete"),
        ("GET", "/networking/v0/external/tags"),
        ("GET", "/networking/v1/external/whoami"),
        ("GET", "/networking/v1/internal/policies"),
        ("GET", "/networking/v1/internal/policies_last_updated"),
        ("GET", "/weft/v1/enforced?revision=1"),
    ];
    for (method, path) in paths {
        // The body is faulty, the token is looked at first.
        let request = server.request(method, path).body("{");
        let none = request.clone().without("Authorization").send();
        assert_eq!((none.status, none.error().as_str()), (401, "missing authorization header"), "{path}");
        assert_eq!(none.header("www-authenticate"), Some("Bearer"));
        for wrong in ["Bearer nope", "Basic s3cret", "BEARER s3cret", "Bearer  s3cret", ""] {
            let answer = request.clone().header("Authorization", wrong).send();
            assert_eq!((answer.status, answer.error().as_str()), (401, "failed to verify token with uaa"), "{wrong:?}");
        }
    }
    let body = policy("a", "b", 1);
    assert_eq!(server.request("POST", V1).header("Authorization", "Bearer nope").body(body).send().status, 401);
    assert_eq!(server.get(V1).policies(), [""; 0]);
    for right in [format!("bearer {TOKEN}"), TOKEN.to_owned()] {
        assert_eq!(server.request("GET", V1).header("Authorization", &right).send().status, 200, "{right}");
    }
}

#[test]
fn changes_are_logged_with_their_author() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    assert_eq!(server.get("/networking/v1/external/whoami").json(), json!({"subject": "admin"}));
    let created = server.post(V1, &policy("app", "web", 8080));
    server.post("/networking/v1/external/policies/delete", &policy("app", "web", 8080));
    let lines = common::eventually("two audit lines", || {
        let lines = server.logged("target", "audit");
        (lines.len() == 2).then_some(lines)
    });
    assert_eq!(lines[0]["event"], "created-policies");
    assert_eq!(lines[1]["event"], "deleted-policies");
    assert_eq!((&lines[0]["who"], &lines[0]["revision"]), (&json!("admin"), &json!(created.revision())));
    let policies: serde_json::Value = serde_json::from_str(lines[0]["policies"].as_str().unwrap()).unwrap();
    assert_eq!(policies[0]["destination"]["ports"]["start"], 8080);
    assert_eq!(lines[0]["span"]["id"], created.header("x-vcap-request-id").unwrap());
    assert!(server.logged("target", "audit").iter().all(|line| !line.to_string().contains(TOKEN)));
}

fn start(arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-policy-server"));
    command.env_clear().args(arguments).envs(token.map(|token| ("WEFT_TOKEN", token)));
    command.output().unwrap()
}

#[test]
fn it_does_not_start_open_by_mistake() {
    for (arguments, token, words) in [
        (&[][..], None, "token-file: missing"),
        (&["--listen", "0.0.0.0:0", "--development-no-auth"][..], None, "only on a loopback address"),
        (&["--development-no-auth"], Some("t"), "together with a token"),
        (&["--token-file", "/nonexistent/token"], None, "/nonexistent/token"),
        (&["--listen", "localhost:1"], Some("t"), "must be an IP address and a port"),
        (&["--log", "x=y=z"], Some("t"), "log \"x=y=z\""),
    ] {
        let output = start(arguments, token);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
