//! Whatever comes in: never a panic, and exactly one JSON document on stdout, or nothing where a
//! success of the command is silent.

use crate::support::{Call, Namespace, PATIENCE, Reply, TestAgent, output, reservation};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["1.1.0", "0.3.1", "0.4.0", "1.0.0", "weft", "10.0.0.1/32"]).prop_map(Value::from),
    ]
}

fn key() -> impl Strategy<Value = String> {
    let known = vec![
        "cniVersion",
        "name",
        "weft",
        "socket",
        "timeoutSeconds",
        "metadata",
        "policy_group_id",
        "runtimeConfig",
        "io.kubernetes.cri.pod-annotations",
        "weft/policy-group",
        "prevResult",
        "interfaces",
        "ips",
        "routes",
        "dns",
        "interface",
        "address",
        "cni.dev/valid-attachments",
        "cni.dev/attachments",
        "containerID",
        "ifname",
        "ipam",
        "type",
        "NAME",
    ];
    prop_oneof![6 => prop::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

fn json_value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What runtimes ask for, with something else in one place or another.
fn capability() -> impl Strategy<Value = (&'static str, Value)> {
    let number = prop_oneof![
        4 => (0..3_u64).prop_map(|n| Value::from(n * 8_000_000)),
        1 => prop::sample::select(vec![1, u64::from(u32::MAX), u64::MAX]).prop_map(Value::from),
        1 => leaf(),
    ];
    let limits = proptest::collection::vec(number.clone(), 4)
        .prop_map(|n| json!({"ingressRate": n[0], "IngressBurst": n[1], "egressRate": n[2], "EGRESSBURST": n[3]}));
    let address = prop::sample::select(vec!["10.255.30.7", "10.255.30.7/24", "10.255.30.9", "fd00::1/64", ""]);
    let addresses = proptest::collection::vec(address, 0..3).prop_map(Value::from);
    let mapping = (number.clone(), leaf(), prop::sample::select(vec!["tcp", "UDP", "sctp"])).prop_map(
        |(port, ip, protocol)| json!([{"HostPort": port, "container_port": 80, "hostIP": ip, "protocol": protocol}]),
    );
    let mac = prop::sample::select(vec!["02:00:0a:00:00:07", "02-00-0a-00-00-07", "ff:ff:ff:ff:ff:ff", "02:00"]);
    prop_oneof![
        limits.prop_map(|value| ("bandwidth", value)),
        addresses.prop_map(|value| ("ips", value)),
        mapping.prop_map(|value| ("portMappings", value)),
        mac.prop_map(|value| ("mac", value.into())),
        (prop::sample::select(vec!["bandwidth", "ips", "portMappings", "mac", "dns"]), json_value()),
    ]
}

/// Bytes for stdin: garbage, any JSON, or a good config with changes.
fn stdin() -> impl Strategy<Value = Vec<u8>> {
    let good = || json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft-cni"});
    let changed = proptest::collection::vec((key(), json_value()), 0..3).prop_map(move |changes| {
        let mut config = good();
        for (key, value) in changes {
            config[key] = value;
        }
        config.to_string().into_bytes()
    });
    let asked = (proptest::collection::vec(capability(), 1..3), any::<bool>()).prop_map(move |(asked, everybody)| {
        let mut config = good();
        for (key, value) in asked {
            if everybody && key == "bandwidth" {
                config["weft"] = json!({ key: value });
            } else {
                config["runtimeConfig"][key] = value;
            }
        }
        config.to_string().into_bytes()
    });
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..64),
        1 => json_value().prop_map(|value| value.to_string().into_bytes()),
        6 => changed,
        4 => asked,
    ]
}

fn bytes(good: Vec<&'static str>) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        40 => prop::sample::select(good).prop_map(|text| Some(text.as_bytes().to_vec())),
        1 => Just(None),
        1 => proptest::collection::vec(1u8.., 0..20).prop_map(Some),
    ]
}

fn environment(netns: &str) -> impl Strategy<Value = Vec<(&'static str, Option<Vec<u8>>)>> + use<> {
    let netns: &'static str = netns.to_owned().leak();
    (
        bytes(vec!["ADD", "ADD", "ADD", "ADD", "ADD", "ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "add"]),
        bytes(vec!["c1"]),
        bytes(vec![netns, "", "/proc/self/ns/net", "/dev/null"]),
        bytes(vec!["eth0", "lo"]),
        bytes(vec![
            "",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
            "IP=10.255.30.7",
            "MAC=02:00:0a:00:00:07;IP=x",
        ]),
        bytes(vec!["/opt/cni/bin"]),
    )
        .prop_map(|(command, id, netns, ifname, args, path)| {
            vec![
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", id),
                ("CNI_NETNS", netns),
                ("CNI_IFNAME", ifname),
                ("CNI_ARGS", args),
                ("CNI_PATH", path),
            ]
        })
}

/// What the agent says: the right thing, the right thing changed, a refusal as it words them, or bytes.
fn reply() -> impl Strategy<Value = Option<(u16, Value)>> {
    let changed = (key(), json_value()).prop_map(|(key, value)| {
        let mut answer = reservation(false);
        answer["wiring"][key] = value;
        answer
    });
    // An agent that carries out what it was asked for, or something else.
    let granted = capability().prop_map(|(key, value)| {
        let mut answer = reservation(false);
        answer["capabilities"] = json!({ key: value });
        answer
    });
    let body =
        prop_oneof![Just(reservation(false)), granted, Just(reservation(true)), changed, json_value(), Just(json!({}))];
    let refusal = prop::sample::select(vec![(503, "try-again"), (503, "limited"), (409, "exists"), (500, "internal")])
        .prop_map(|(status, code)| Some((status, json!({"code": code, "message": "not now"}))));
    prop_oneof![
        8 => (prop::sample::select(vec![200u16, 200, 400, 503, 500]), body).prop_map(Some),
        3 => refusal,
        1 => Just(None),
    ]
}

#[test]
fn always_one_document() {
    let (host, workload) = (Namespace::new(), Namespace::new());
    let said: Arc<Mutex<Option<(u16, Value)>>> = Arc::default();
    let ours = said.clone();
    let agent = TestAgent::new(move |_| match ours.lock().unwrap().clone() {
        Some((status, body)) => Reply::Json(status, body),
        None => Reply::Raw(b"\0\xff nonsense".to_vec()),
    });
    // Configs without a section of their own reach this agent by the default path, made private here.
    let socket = agent.socket();
    let outcomes = RefCell::new(std::collections::BTreeMap::<String, u32>::new());
    let strategy = (environment(&workload.path()), stdin(), reply());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 700,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |(environment, stdin, reply)| {
            *said.lock().unwrap() = reply;
            let stdin = with_socket(stdin, &socket);
            let mut command = host.command(env!("CARGO_BIN_EXE_weft-cni"));
            command.env_clear().env("PATH", std::env::var("PATH").unwrap());
            for (name, value) in &environment {
                if let Some(value) = value {
                    command.env(name, OsString::from_vec(value.clone()));
                }
            }
            let output = output(&mut command, &stdin);
            let command = environment[0].1.clone().unwrap_or_default();
            let silent = ["DEL", "CHECK", "STATUS", "GC"].iter().any(|word| word.as_bytes() == command);
            let outcome = match output.status.code() {
                Some(0) if silent => {
                    prop_assert!(output.stdout.is_empty(), "{output:?}");
                    "silent".to_owned()
                }
                Some(0) => {
                    serde_json::from_slice::<Value>(&output.stdout)
                        .map_err(|error| TestCaseError::fail(format!("{error}: {output:?}")))?;
                    "result".to_owned()
                }
                Some(1) => {
                    let error: Value = serde_json::from_slice(&output.stdout)
                        .map_err(|error| TestCaseError::fail(format!("{error}: {output:?}")))?;
                    let msg = error["msg"].as_str().unwrap_or_default();
                    prop_assert!(!msg.is_empty() && !msg.contains("a bug"), "{error}");
                    error["code"].to_string()
                }
                other => return Err(TestCaseError::fail(format!("{other:?}: {output:?}"))),
            };
            *outcomes.borrow_mut().entry(outcome).or_default() += 1;
            tidy(&host);
            Ok(())
        })
        .unwrap();
    // The generator is good for nothing if it does not get everywhere.
    let outcomes = outcomes.into_inner();
    for wanted in ["silent", "result", "4", "6", "7", "8", "11", "999"] {
        assert!(outcomes.contains_key(wanted), "never {wanted}: {outcomes:?}");
    }
}

/// Points a config at our agent, unless it says something of its own about that.
fn with_socket(stdin: Vec<u8>, socket: &std::path::Path) -> Vec<u8> {
    let Ok(Value::Object(mut config)) = serde_json::from_slice::<Value>(&stdin) else {
        return stdin;
    };
    let section = config.entry("weft").or_insert_with(|| json!({}));
    if let Value::Object(section) = section {
        section.insert("socket".to_owned(), json!(socket));
        section.insert("timeoutSeconds".to_owned(), json!(PATIENCE.as_secs()));
    }
    Value::Object(config).to_string().into_bytes()
}

/// Removes what a good ADD made, so that the next is not the second.
fn tidy(host: &Namespace) {
    for name in host.links().keys().filter(|name| name.starts_with("weft")) {
        host.run(&format!("ip link del {name}"));
    }
}

/// Seeds that are refused early would find nothing: these get as far as the namespace, or the agent.
#[test]
fn seeds_of_the_fuzz_target_are_good_calls_but_for_where_they_lead() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/plugin");
    let host = Namespace::new();
    for seed in std::fs::read_dir(folder).unwrap() {
        let seed = seed.unwrap().path();
        let text = std::fs::read_to_string(&seed).unwrap();
        let lines: Vec<&str> = text.splitn(5, '\n').collect();
        let [command, args, container, ifname, stdin] = lines[..] else { panic!("{seed:?}") };
        let mut config: Value = serde_json::from_str(stdin).unwrap();
        config["weft"]["socket"] = json!("/dev/null/agent.sock");
        let call = Call::new(command, &config).with("CNI_ARGS", args).with("CNI_NETNS", "/nonexistent/namespace");
        let answer = call.with("CNI_CONTAINERID", container).with("CNI_IFNAME", ifname).run(&host);
        match command {
            "ADD" | "CHECK" => assert_eq!(answer.message().0, 8, "{seed:?}: {:?}", answer.message()),
            "DEL" => answer.silent_success(),
            "GC" => assert_eq!(answer.message().0, 11, "{seed:?}"),
            _ => assert_eq!(answer.message().0, 50, "{seed:?}"),
        }
    }
}
