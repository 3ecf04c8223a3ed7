//! What is refused, in which words, in which order: the reference implementation's.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use weft_cni_plugin::process::Answer;
use weft_cni_plugin::respond;

fn call(environment: &[(&str, &str)], stdin: &str) -> Answer {
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    respond(|name| environment.get(name).map(OsString::from), stdin.as_bytes())
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/weft-cni-no-such"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
];

fn with(changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    ADD.iter().chain(changes).copied().collect()
}

/// Code, message and details of a refusal.
fn refused(answer: &Answer) -> (u64, String, String) {
    assert_eq!(answer.status, 1, "{answer:?}");
    let error: Value = serde_json::from_str(&answer.stdout).unwrap();
    let details = error.get("details").map_or("", |details| details.as_str().unwrap());
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned(), details.to_owned())
}

#[test]
fn missing_variables_are_named_in_the_references_order() {
    let missing = |environment: &[(&str, &str)]| refused(&call(environment, "{}"));
    let text = |names: &str| (4, format!("required env variables [{names}] missing"), String::new());
    assert_eq!(missing(&[("CNI_COMMAND", "ADD")]), text("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
    assert_eq!(missing(&[("CNI_COMMAND", "CHECK")]), text("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
    assert_eq!(missing(&[("CNI_COMMAND", "DEL")]), text("CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"));
    assert_eq!(missing(&[("CNI_COMMAND", "GC")]), text("CNI_PATH"));
    assert_eq!(missing(&[("CNI_COMMAND", "STATUS")]), text("CNI_PATH"));
    assert_eq!(missing(&with(&[("CNI_NETNS", ""), ("CNI_PATH", "")])), text("CNI_NETNS,CNI_PATH"));
    assert_eq!(missing(&with(&[("CNI_COMMAND", "FOO")])), (4, "unknown CNI_COMMAND: FOO".to_owned(), String::new()));
}

#[test]
fn bad_names_in_the_environment() {
    let config = r#"{"cniVersion":"1.1.0","name":"weft"}"#;
    let of = |name, value| refused(&call(&with(&[(name, value)]), config));
    for id in ["../x", "-a", "a b", "a/b", ".", "ä"] {
        assert_eq!(of("CNI_CONTAINERID", id), (4, "invalid characters in containerID".to_owned(), id.to_owned()));
    }
    let cases = [
        ("sixteen-letters-", "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a/b", "interface name contains / or : or whitespace characters"),
        ("a:b", "interface name contains / or : or whitespace characters"),
        ("a b", "interface name contains / or : or whitespace characters"),
        ("a\u{a0}b", "interface name contains / or : or whitespace characters"),
    ];
    for (name, text) in cases {
        assert_eq!(of("CNI_IFNAME", name), (4, text.to_owned(), name.to_owned()));
    }
}

#[test]
fn values_that_are_no_utf8_are_named() {
    use std::os::unix::ffi::OsStringExt;
    let answer = respond(
        |name| {
            let value = ADD.iter().find(|(ours, _)| *ours == name)?.1;
            Some(if name == "CNI_IFNAME" { OsString::from_vec(vec![0xff]) } else { value.into() })
        },
        &b"{}"[..],
    );
    assert_eq!(refused(&answer), (4, "CNI_IFNAME is not UTF-8".to_owned(), "\u{fffd}".to_owned()));
}

#[test]
fn configs_in_the_references_words_and_order() {
    let of = |stdin: &str| {
        let (code, msg, details) = refused(&call(&ADD, stdin));
        (code, msg, details)
    };
    let starts = |stdin: &str, start: &str| {
        let (code, msg, _) = of(stdin);
        assert!(code == 6 && msg.starts_with(start), "{stdin}: {msg}");
    };
    starts("", "error unmarshall network config: ");
    starts("{", "error unmarshall network config: ");
    starts("{} {}", "error unmarshall network config: ");
    starts("[]", "error unmarshall network config: ");
    starts(r#"{"name":1}"#, "error unmarshall network config: ");
    starts(r#"{"name":"a","cniVersion":1}"#, "decoding version from network config: ");
    starts(&"[".repeat(1 << 20), "error unmarshall network config: ");
    for stdin in ["null", "{}", r#"{"name":""}"#, r#"{"name":null}"#] {
        assert_eq!(of(stdin), (7, "missing network name".to_owned(), String::new()), "{stdin}");
    }
    assert_eq!(of(r#"{"name":"a/b"}"#), (7, "invalid characters found in network name".to_owned(), "a/b".to_owned()));
    let supported = r#"plugin supports ["0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#;
    for (stdin, version) in [
        (r#"{"name":"a","cniVersion":"9.9.9"}"#, "9.9.9"),
        (r#"{"name":"a"}"#, "0.1.0"),
        (r#"{"name":"a","cniVersion":"0.2.0"}"#, "0.2.0"),
    ] {
        let details = format!("config is {version:?}, {supported}");
        assert_eq!(of(stdin), (1, "incompatible CNI versions".to_owned(), details));
    }
}

#[test]
fn our_own_section_names_what_it_refuses() {
    let of = |section: Value| {
        let config = json!({"cniVersion": "1.1.0", "name": "a", "weft": section, "unknown": {"is": "fine"}});
        let (code, msg, _) = refused(&call(&ADD, &config.to_string()));
        (code, msg)
    };
    let cases = [
        (
            json!({"sokcet": "/x"}),
            2,
            r#"unsupported field weft.sokcet = "/x": socket, timeoutSeconds and bandwidth are allowed"#,
        ),
        (
            json!({"bandwidth": {"rate": 1}}),
            2,
            "unsupported field weft.bandwidth.rate = 1: ingressRate, ingressBurst, egressRate, egressBurst are allowed",
        ),
        (
            json!({"bandwidth": {"egressRate": 8}}),
            7,
            "invalid weft.bandwidth: egressRate 8, egressBurst 0: if rate is set, burst must also be set",
        ),
        (json!({"socket": "x"}), 7, r#"invalid weft.socket "x": must be an absolute path of at most 107 bytes"#),
        (json!({"socket": 5}), 7, "invalid weft.socket 5: must be an absolute path of at most 107 bytes"),
        (json!({"timeoutSeconds": 0}), 7, "invalid weft.timeoutSeconds 0: must be a whole number from 1 to 120"),
        (
            json!({"timeoutSeconds": "10"}),
            7,
            r#"invalid weft.timeoutSeconds "10": must be a whole number from 1 to 120"#,
        ),
        (json!([]), 7, "invalid weft []: must be an object"),
    ];
    for (section, code, msg) in cases {
        assert_eq!(of(section), (code, msg.to_owned()));
    }
    // A good one gets as far as the namespace.
    assert_eq!(of(json!({"socket": "/x", "timeoutSeconds": 3})).0, 8);
    assert_eq!(of(Value::Null).0, 8);
}

#[test]
fn an_identity_is_never_guessed() {
    let of = |key: &str, value: Value| {
        let mut config = json!({"cniVersion": "1.1.0", "name": "a"});
        config[key] = value;
        let (code, msg, _) = refused(&call(&ADD, &config.to_string()));
        (code, msg)
    };
    let (code, msg) = of("metadata", json!({"policy_group_id": 5}));
    assert_eq!((code, msg.as_str()), (7, "invalid metadata.policy_group_id 5: must be a string"));
    assert_eq!(of("metadata", json!("x")).0, 7);
    let (code, msg) = of("runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": {"weft/policy-group": []}}));
    let text =
        r#"invalid runtimeConfig["io.kubernetes.cri.pod-annotations"]["weft/policy-group"] []: must be a string"#;
    assert_eq!((code, msg.as_str()), (7, text));
}

#[test]
fn args_as_go_reads_them() {
    let config = r#"{"cniVersion":"1.1.0","name":"weft"}"#;
    let of = |args| {
        let (code, msg, _) = refused(&call(&with(&[("CNI_ARGS", args)]), config));
        (code, msg)
    };
    for pair in ["nonsense", "K8S_POD_NAME=a=b"] {
        assert_eq!(of(pair), (4, format!("ARGS: invalid pair {pair:?}")));
    }
    let twice = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_NAMESPACE=other";
    assert_eq!(of(twice), (4, "ARGS: K8S_POD_NAMESPACE is given twice with different values".to_owned()));
    assert_eq!(of("MAC=aa;FOO=1.2.3.4"), (4, "ARGS: unknown args [\"FOO=1.2.3.4\"]".to_owned()));
    assert_eq!(of("IgnoreUnknown=maybe").0, 4);
    for fine in ["", "K8S_POD_NAME=a;IP=1.2.3.4;IgnoreUnknown=1", "K8S_POD_UID=x", "IgnoreUnknown=True;a=b"] {
        assert_eq!(of(fine).0, 8, "{fine}");
    }
}

#[test]
fn commands_newer_than_the_config() {
    let of = |command, version: &str| {
        let config = json!({"cniVersion": version, "name": "a"}).to_string();
        let (code, msg, _) = refused(&call(&with(&[("CNI_COMMAND", command)]), &config));
        (code, msg)
    };
    assert_eq!(of("CHECK", "0.3.1"), (1, "config version does not allow CHECK".to_owned()));
    assert_eq!(of("GC", "1.0.0"), (1, "config version does not allow GC".to_owned()));
    assert_eq!(of("STATUS", "1.0.0"), (1, "config version does not allow STATUS".to_owned()));
    assert_eq!(of("CHECK", "0.4.0"), (7, "Required prevResult missing".to_owned()));
}

#[test]
fn version_ignores_stdin_and_everything_else() {
    let answer = call(&[("CNI_COMMAND", "VERSION"), ("CNI_IFNAME", "a/b")], "garbage");
    let line = r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    assert_eq!((answer.status, answer.stdout), (0, format!("{line}\n")));
    let about = call(&[], "");
    assert_eq!(about.status, 0);
    assert!(about.stderr.contains("CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"));
}

#[test]
fn errors_look_as_the_references_do() {
    let answer = call(&ADD, r#"{"cniVersion":"0.4.0","name":"weft"}"#);
    let path = "/run/netns/weft-cni-no-such";
    let expected = format!(
        "{{\n    \"cniVersion\": \"0.4.0\",\n    \"code\": 8,\n    \"msg\": \"failed to open netns \\\"{path}\\\": network namespace {path}: no such file\"\n}}\n"
    );
    assert_eq!(answer.stdout, expected);
}

#[test]
fn a_stdin_that_fails_is_an_io_error() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("torn"))
        }
    }
    let answer = respond(|name| ADD.iter().find(|(ours, _)| *ours == name).map(|(_, value)| value.into()), Broken);
    assert_eq!(refused(&answer), (5, "error reading from stdin: torn".to_owned(), String::new()));
}
