//! The external API as clients of Cloud Foundry know it: requests → status, body, headers.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::{Answer, Etcd, PATIENCE, Server, entry, policy};
use serde_json::json;
use std::time::Instant;

const V1: &str = "/networking/v1/external/policies";
const V0: &str = "/networking/v0/external/policies";
const DELETE: &str = "/networking/v1/external/policies/delete";

fn bad_body(answer: &Answer, error: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (400, error), "{answer:?}");
}

#[test]
fn a_policy_comes_shows_and_goes() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let empty = server.get(V1);
    assert_eq!((empty.status, empty.json()), (200, json!({"total_policies": 0, "policies": []})));

    let created = server.post(V1, &policy("app", "web", 8080));
    assert_eq!((created.status, created.json()), (200, json!({})));
    let again = server.post(V1, &policy("app", "web", 8080));
    assert_eq!((again.status, again.revision()), (200, created.revision()), "nothing changed");

    let listed = server.get(V1);
    assert_eq!(listed.revision(), created.revision());
    let ports = json!({"start": 8080, "end": 8080});
    assert_eq!(
        listed.json(),
        json!({"total_policies": 1, "policies": [
            {"source": {"id": "app"}, "destination": {"id": "web", "protocol": "tcp", "ports": ports}}]})
    );

    let gone = server.post(DELETE, &policy("app", "web", 8080));
    assert_eq!((gone.status, gone.json()), (200, json!({})));
    assert!(gone.revision() > created.revision());
    assert_eq!(server.get(V1).policies(), [""; 0]);
    let again = server.post(DELETE, &policy("app", "web", 8080));
    assert_eq!((again.status, again.revision()), (200, gone.revision()));
}

#[test]
fn a_request_is_all_or_nothing_and_policies_are_exact() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let good_and_bad = format!(r#"{{"policies":[{},{}]}}"#, entry("a", "b", 1), entry("a", "", 2));
    bad_body(&server.post(V1, &good_and_bad), "mapper: validate policies: missing destination id");
    assert_eq!(server.get(V1).policies(), [""; 0]);

    let range = |start, end| {
        format!(
            r#"{{"policies":[{{"source":{{"id":"a"}},"destination":{{"id":"b","protocol":"udp","ports":{{"start":{start},"end":{end}}}}}}}]}}"#
        )
    };
    for body in [range(80, 90), range(85, 95)] {
        assert_eq!(server.post(V1, &body).status, 200);
    }
    assert_eq!(server.post(DELETE, &range(80, 95)).status, 200);
    assert_eq!(server.get(V1).policies(), ["a>b:80", "a>b:85"], "overlapping ranges are policies of their own");
    assert_eq!(server.post(DELETE, &range(80, 90)).status, 200);
    assert_eq!(server.get(V1).policies(), ["a>b:85"]);
}

#[test]
fn filters() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let entries = [entry("a", "b", 1), entry("b", "c", 2), entry("k8s:east/shop/web", "a", 3)];
    assert_eq!(server.post(V1, &format!(r#"{{"policies":[{}]}}"#, entries.join(","))).status, 200);
    let (ab, bc, wa) = ("a>b:1", "b>c:2", "k8s:east/shop/web>a:3");
    let shown = |query: &str| server.get(&format!("{V1}?{query}")).policies();
    for (query, want) in [
        ("", vec![ab, bc, wa]),
        ("id=a", vec![ab, wa]),
        ("id=c,x", vec![bc]),
        ("id=c%2Cx", vec![bc]),
        ("id=k8s:east/shop/web", vec![wa]),
        ("id=k8s%3Aeast%2Fshop%2Fweb", vec![wa]),
        ("id=a&id=c", vec![ab, wa]),
        ("source_id=a", vec![ab]),
        ("dest_id=a,b", vec![ab, wa]),
        ("source_id=a,b&dest_id=b", vec![ab]),
        ("id=c&source_id=a", vec![bc]),
        ("ID=c", vec![ab, bc, wa]),
        ("id=", vec![]),
        ("id", vec![]),
        ("id=,", vec![]),
        ("source_id=&dest_id=b", vec![]),
    ] {
        assert_eq!(shown(query), want, "?{query}");
    }
    for query in ["id=%zz", "id=a;x", "id=%ff", "x=%"] {
        let answer = server.get(&format!("{V1}?{query}"));
        assert_eq!(answer.status, 400, "?{query} must not answer everything: {answer:?}");
        assert!(answer.error().starts_with("invalid query"), "{answer:?}");
    }
}

#[test]
fn faulty_bodies() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let with = |destination: &str| format!(r#"{{"policies":[{{"source":{{"id":"a"}},"destination":{destination}}}]}}"#);
    let ports = |start: i64, end: i64| {
        with(&format!(r#"{{"id":"b","protocol":"tcp","ports":{{"start":{start},"end":{end}}}}}"#))
    };
    let long = "x".repeat(256);
    for (body, error) in [
        (String::new(), "mapper: unmarshal json: unexpected end of JSON input"),
        ("{}x".to_owned(), "mapper: unmarshal json: invalid character 'x' after top-level value"),
        ("[]".to_owned(), "mapper: unmarshal json: the body must be an object, not a list"),
        ("null".to_owned(), "mapper: validate policies: missing policies"),
        (r#"{"policies":[]}"#.to_owned(), "mapper: validate policies: missing policies"),
        (r#"{"policies":[null]}"#.to_owned(), "mapper: validate policies: missing source id"),
        (with(r#"{"protocol":"tcp"}"#), "mapper: validate policies: missing destination id"),
        (
            with(r#"{"id":"b","protocol":"icmp"}"#),
            "mapper: validate policies: invalid destination protocol, specify either udp or tcp",
        ),
        (ports(80, 0), "mapper: validate policies: invalid port range 80-0, start must be less than or equal to end"),
        (ports(-5, -1), "mapper: validate policies: invalid start port -5, must be in range 1-65535"),
        (ports(0, 80), "mapper: validate policies: missing start port"),
        (ports(80, 65536), "mapper: validate policies: invalid end port 65536, must be in range 1-65535"),
        (
            with(r#"{"id":"b","tag":"0001","protocol":"tcp","ports":{"start":1,"end":1}}"#),
            "mapper: validate policies: tags may not be specified",
        ),
        (
            with(r#"{"id":"b","protocol":"tcp","ports":{"start":1.0,"end":1}}"#),
            "mapper: unmarshal json: policies[0].destination.ports.start must be a whole number, not a number that is not whole, or out of range",
        ),
        (policy(&long, "b", 1), "mapper: validate policies: invalid source id, must be 1 to 255 bytes without NUL"),
        (
            policy("a\\u0000", "b", 1),
            "mapper: validate policies: invalid source id, must be 1 to 255 bytes without NUL",
        ),
    ] {
        for path in [V1, DELETE] {
            bad_body(&server.post(path, &body), error);
        }
    }
    let quotes = server.post(V1, "\"'\\");
    assert_eq!(quotes.status, 400);
    assert!(!quotes.error().is_empty(), "errors are escaped");
    assert_eq!(server.get(V1).policies(), [""; 0]);
}

#[test]
fn bodies_as_gos_decoder_takes_them() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let body = r#"{"Total_Policies":7,"unknown":[1],"POLICIES":[{"Source":{"ID":"first","id":"a"},
        "destination":{"id":"b","type":"app","protocol":"tcp","Ports":{"START":1,"end":1}}}]}"#;
    assert_eq!(server.post(V1, body).status, 200);
    let mut broken = policy("x?", "b", 1).into_bytes();
    let place = broken.iter().position(|byte| *byte == b'?').unwrap();
    broken[place] = 0xff;
    assert_eq!(server.request("POST", V1).body(broken).send().status, 200);
    assert_eq!(server.get(V1).policies(), ["a>b:1", "x\u{fffd}>b:1"]);
}

#[test]
fn ten_mebibytes_and_no_more() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let mut body = policy("a", "b", 1);
    body += &" ".repeat((10 << 20) - body.len());
    assert_eq!(server.post(V1, &body).status, 200);
    body.push(' ');
    bad_body(&server.post(V1, &body), "failed reading request body");
    bad_body(&server.post(DELETE, &body), "invalid request body");
    let chunked = server.request("POST", V1).body(format!("{:x}\r\n{}\r\n0\r\n\r\n", 4, "null"));
    let chunked = chunked.without("Content-Length").header("Transfer-Encoding", "chunked");
    bad_body(&chunked.send(), "mapper: validate policies: missing policies");
}

#[test]
fn version_zero() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let body = |port: i64| {
        format!(
            r#"{{"policies":[{{"source":{{"id":"a"}},"destination":{{"id":"b","protocol":"tcp","port":{port}}}}}]}}"#
        )
    };
    assert_eq!(server.post(V0, &body(80)).status, 200);
    assert_eq!(server.post(V1, &policy("c", "d", 90)).status, 200);
    let range =
        r#"{"policies":[{"source":{"id":"e"},"destination":{"id":"f","protocol":"tcp","ports":{"start":1,"end":9}}}]}"#;
    assert_eq!(server.post(V1, range).status, 200);
    let list = server.get(V0);
    assert_eq!(list.policies(), ["a>b:80", "c>d:90"], "ranges are neither shown nor counted");
    assert_eq!(list.json()["policies"][0]["destination"], json!({"id": "b", "protocol": "tcp", "port": 80}));
    assert_eq!(server.get(V1).policies().len(), 3);
    bad_body(&server.post(V0, &policy("a", "b", 80)), "mapper: validate policies: missing port");
    bad_body(&server.post(V0, &body(-1)), "mapper: validate policies: invalid port -1, must be in range 1-65535");
    bad_body(&server.post(V0, &body(70000)), "mapper: validate policies: invalid port 70000, must be in range 1-65535");
    assert_eq!(server.post(&format!("{V0}/delete"), &body(80)).status, 200);
    assert_eq!(server.get(V0).policies(), ["c>d:90"]);
}

#[test]
fn other_versions_paths_and_methods() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    for version in ["v2", "V1", "v01", "1"] {
        let answer = server.request("GET", &V1.replace("v1", version)).without("Authorization").send();
        assert_eq!(answer.status, 406);
        assert_eq!(answer.json(), json!({"error": format!("api version '{version}' not supported")}));
    }
    assert_eq!(server.get("/networking/v%22/external/policies").error(), "api version 'v\"' not supported");
    for path in [&format!("{V1}/"), "//networking", "/networking/v1/external", "/nope", "/networking/../networking"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), None);
    }
    for (method, path, allow) in [
        ("DELETE", V1, "POST,GET,OPTIONS"),
        ("HEAD", V1, "POST,GET,OPTIONS"),
        ("GET", DELETE, "POST,OPTIONS"),
        ("HEAD", "/", "GET,OPTIONS"),
        ("POST", "/health", "GET,OPTIONS"),
    ] {
        let answer = server.request(method, path).send();
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(answer.header("x-vcap-request-id"), None);
        assert_eq!(answer.body, if method == "HEAD" { "" } else { "Method Not Allowed\n" });
    }
}

#[test]
fn headers() {
    let etcd = Etcd::start();
    let server = Server::open(&etcd, &["--cors-origins", "https://ui.example,https://b.example"]);
    let answer = server.request("GET", V1).header("X-Vcap-Request-Id", "outer").send();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
        ("x-xss-protection", "1; mode=block"),
        ("x-frame-options", "deny"),
        ("content-security-policy", "frame-ancestors 'none'"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let id = answer.header("x-vcap-request-id").unwrap().strip_prefix("outer::").unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(server.get("/").header("x-vcap-request-id").unwrap().len(), 36);
    assert_eq!(answer.header("access-control-allow-origin"), None);

    let origin = |origin: &str| server.request("GET", V1).header("Origin", origin).send();
    let allowed = origin("https://b.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://b.example"));
    assert_eq!(origin("https://evil.example").header("access-control-allow-origin"), None);
    let preflight = server.request("OPTIONS", &V1.replace("v1", "v7")).without("Authorization").send();
    assert_eq!((preflight.status, preflight.body.as_str()), (200, ""));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("POST,GET,OPTIONS"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
    assert_eq!(preflight.header("x-vcap-request-id"), None);
}

#[test]
fn tags_and_the_internal_api() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let updated = || server.get("/networking/v1/internal/policies_last_updated").json().as_i64().unwrap();
    assert_eq!(server.post(V1, &policy("app", "web", 1)).status, 200);
    let before = updated();
    assert_eq!(server.post(V1, &policy("app", "db", 1)).status, 200);
    assert!(updated() > before);

    let tags = server.get("/networking/v1/external/tags").json();
    let tags = tags["tags"].as_array().unwrap();
    let column = |key: &str| tags.iter().map(|tag| tag[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let numbers = column("tag");
    assert!(numbers.is_sorted() && numbers.iter().all(|tag| tag.len() == 4 && tag != "0000"), "{numbers:?}");
    let mut ids = column("id");
    ids.sort();
    assert_eq!(
        (ids.as_slice(), column("type").as_slice()),
        (&["app", "db", "web"].map(str::to_owned)[..], &["app"; 3].map(str::to_owned)[..])
    );

    let internal = server.get("/networking/v1/internal/policies?id=web").json();
    let tag_of = |id: &str| tags.iter().find(|tag| tag["id"] == id).unwrap()["tag"].clone();
    assert_eq!(internal["total_policies"], 1);
    assert_eq!(internal["policies"][0]["source"], json!({"id": "app", "tag": tag_of("app")}));
    assert_eq!(internal["policies"][0]["destination"]["tag"], tag_of("web"));
    assert!(!server.get(V1).body.contains("tag"), "tags are not shown outside");
}

#[test]
fn what_needs_no_token() {
    let etcd = Etcd::start();
    let server = Server::start(&etcd);
    let get = |path: &str| server.request("GET", path).without("Authorization").send();
    for path in ["/", "/networking"] {
        let answer = get(path);
        assert_eq!(answer.status, 200);
        let uptime = answer.body.strip_prefix("Network policy server, up for ").unwrap();
        assert!(uptime.ends_with("s\n"), "{uptime}");
    }
    let health = get("/health");
    assert_eq!((health.status, health.body.as_str()), (200, ""));
    assert_eq!(server.post(V1, &policy("a", "b", 1)).status, 200);
    assert_eq!(server.get(V1).status, 200);
    let metrics = get("/metrics").body;
    for line in [
        "weft_policies 1\n",
        "weft_policy_tags 2\n",
        "weft_policy_server_requests_total{method=\"POST\",route=\"/networking/{version}/external/policies\",status=\"200\"} 1\n",
        "# TYPE weft_policy_server_store_errors_total counter\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn concurrent_writers_lose_nothing() {
    let etcd = Etcd::start();
    let servers = [Server::start(&etcd), Server::start(&etcd)];
    let started = Instant::now();
    let mut revisions: Vec<i64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..40u16)
            .map(|number| {
                let server = &servers[usize::from(number % 2)];
                // All name one destination, half of them one source.
                let source = if number % 4 < 2 { "hot".to_owned() } else { format!("app-{number}") };
                scope.spawn(move || {
                    let answer = server.post(V1, &policy(&source, "web", number + 1));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answer.revision()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(started.elapsed() < PATIENCE);
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 40, "every change has a revision of its own");
    for server in &servers {
        let list = server.get(V1);
        assert_eq!((list.policies().len(), list.revision()), (40, revisions[39]), "a server reads what another wrote");
    }
    let tags = servers[0].get("/networking/v1/external/tags").json();
    let mut tags: Vec<_> = tags["tags"].as_array().unwrap().iter().map(|tag| tag["tag"].to_string()).collect();
    assert_eq!(tags.len(), 22);
    tags.dedup();
    assert_eq!(tags.len(), 22, "no tag twice");
}
