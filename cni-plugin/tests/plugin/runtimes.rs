//! What kubelets with containerd, and Garden, really send.

use weft_cni_plugin::args;
use weft_cni_plugin::capabilities;
use weft_cni_plugin::config::Config;
use weft_cni_plugin::requested;
use weft_cni_plugin::result::CniResult;
use weft_cni_plugin::section::Section;
use weft_cni_plugin::version::Version;
use weft_model::bandwidth::{Bandwidth, Limit};
use weft_model::capability::Capabilities;
use weft_model::group::Identity;

macro_rules! fixture {
    ($name:literal) => {
        Config::parse(include_bytes!(concat!("fixtures/", $name, ".json"))).unwrap()
    };
}

fn wanted(config: &Config) -> Capabilities {
    capabilities::wanted(config, &args::Args::default()).unwrap()
}

/// As people read them.
fn ports(config: &Config) -> Vec<String> {
    wanted(config).ports.iter().map(ToString::to_string).collect()
}

#[test]
fn port_mappings_of_both_runtimes() {
    assert_eq!(ports(&fixture!("garden-add")), ["tcp *:61000->8080", "tcp *:40001->2222"]);
    assert_eq!(ports(&fixture!("garden-capabilities")), ["tcp *:61000->1"]);
    for none in [fixture!("garden-health-check"), fixture!("garden-no-properties"), fixture!("garden-del")] {
        assert_eq!(wanted(&none), Capabilities::default());
    }
    assert_eq!(ports(&fixture!("kubernetes-chained-add")), ["tcp *:18080->8080", "udp 172.31.77.13:18053->53"]);
}

#[test]
fn bandwidth_of_a_kubelet() {
    let burst = u64::from(u32::MAX);
    let limit = |rate| Some(Limit { rate, burst });
    let both = Bandwidth { ingress: limit(100_000_000), egress: limit(50_000_000) };
    assert_eq!(wanted(&fixture!("kubernetes-add")).bandwidth, both);
    let of = |text: &str| wanted(&Config::parse(text.as_bytes()).unwrap()).bandwidth;
    let lower = r#"{"name":"a","runtimeConfig":{"bandwidth":{"ingressRate":0,"ingressBurst":0,"egressRate":50000000,"egressBurst":4294967295}}}"#;
    assert_eq!(of(lower), Bandwidth { ingress: None, ..both });
    assert_eq!(of(r#"{"name":"a","runtimeConfig":{"bandwidth":null}}"#), Bandwidth::default());
    assert_eq!(of(r#"{"name":"a","runtimeConfig":{"bandwidth":{"egressRate":null}}}"#), Bandwidth::default());
}

#[test]
fn dns_of_the_runtime_in_the_results_words() {
    let dns = serde_json::Value::Object(capabilities::dns(&fixture!("kubernetes-add")).unwrap());
    let wanted = serde_json::json!({
        "nameservers": ["10.96.0.10"],
        "search": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
        "options": ["ndots:5"],
    });
    assert_eq!(dns, wanted);
}

#[test]
fn bad_capabilities_are_named_with_what_is_allowed() {
    let field = "invalid runtimeConfig.";
    let cases = [
        (r#"{"portMappings":{}}"#, "portMappings {}: must be a list"),
        (r#"{"portMappings":[7]}"#, "portMappings[0] 7: must be an object"),
        (
            r#"{"portMappings":[{"hostPort":"80","containerPort":80}]}"#,
            "portMappings[0].hostPort \"80\": must be a whole number from 1 to 65535",
        ),
        (
            r#"{"portMappings":[{"hostPort":80,"containerPort":-1}]}"#,
            "portMappings[0].containerPort -1: must be a whole number from 1 to 65535",
        ),
        (
            r#"{"portMappings":[{"hostPort":80,"containerPort":80,"hostIP":"224.0.0.1"}]}"#,
            "portMappings[0].hostIP \"224.0.0.1\": must be an IPv4 address of this host, or empty or 0.0.0.0 for all",
        ),
        (r#"{"bandwidth":[]}"#, "bandwidth []: must be an object"),
        (r#"{"bandwidth":{"IngressRate":-1}}"#, "bandwidth.ingressRate -1: must be a whole number, 0 for no limit"),
        (
            r#"{"bandwidth":{"ingressRate":1000}}"#,
            "bandwidth: ingressRate 1000, ingressBurst 0: if rate is set, burst must also be set",
        ),
        (
            r#"{"bandwidth":{"egressBurst":1000}}"#,
            "bandwidth: egressRate 0, egressBurst 1000: if burst is set, rate must also be set",
        ),
        (
            r#"{"bandwidth":{"egressRate":1000,"egressBurst":34359738361}}"#,
            "bandwidth: egressRate 1000, egressBurst 34359738361: burst cannot be more than 4GB, which is 34359738360 bits",
        ),
        (r#"{"mac":7}"#, "mac 7: must be a string"),
        (r#"{"mac":"02:00"}"#, "mac \"02:00\": must be six bytes in hexadecimal with ':' between"),
    ];
    for (runtime, message) in cases {
        let config = Config::parse(format!(r#"{{"name":"a","runtimeConfig":{runtime}}}"#).as_bytes()).unwrap();
        let error = capabilities::wanted(&config, &args::Args::default()).unwrap_err();
        assert_eq!((error.code, error.msg), (7, format!("{field}{message}")));
    }
    let config = Config::parse(br#"{"name":"a","runtimeConfig":{"dns":{"servers":["a",7]}}}"#).unwrap();
    let error = capabilities::dns(&config).unwrap_err();
    assert_eq!(error.msg, "invalid runtimeConfig.dns.servers 7: must be a list of strings");
}

#[test]
fn an_address_is_asked_for_in_three_places_and_once() {
    let asked = |config: &str, ip: Option<&str>| {
        let config = Config::parse(format!(r#"{{"name":"a",{config}}}"#).as_bytes()).unwrap();
        let args = args::Args { ip: ip.map(str::to_owned), ..args::Args::default() };
        let requested = requested::requested(&config, &args).map_err(|error| (error.code, error.msg))?;
        Ok::<_, (u32, String)>(requested.map(|requested| (requested.address.to_string(), requested.field)))
    };
    let runtime = r#""RuntimeConfig":{"IPs":["10.255.8.7/24"]}"#;
    let structured = r#""args":{"cni":{"ips":["10.255.8.7"]}}"#;
    let given = |field| Ok(Some(("10.255.8.7".to_owned(), field)));
    assert_eq!(asked(runtime, None), given("runtimeConfig.ips"));
    assert_eq!(asked(structured, None), given("args.cni.ips"));
    assert_eq!(asked(r#""args":null"#, Some("10.255.8.7/32")), given("IP of CNI_ARGS"));
    assert_eq!(asked(&format!("{runtime},{structured}"), Some("10.255.8.7")), given("runtimeConfig.ips"));
    for none in [r#""runtimeConfig":{"ips":null}"#, r#""runtimeConfig":{"ips":[]},"args":{"cni":{}}"#] {
        assert_eq!(asked(none, None), Ok(None));
    }
    let allowed = "must be one IPv4 address of this host's subnet, as a.b.c.d or a.b.c.d/nn";
    let refused = |config: &str, ip, msg: &str| assert_eq!(asked(config, ip), Err((7, msg.to_owned())));
    for bad in [r#""fd00::7""#, r#""10.255.8""#, "7", r#""10.255.8.7/33""#, r#""""#] {
        let config = format!(r#""runtimeConfig":{{"ips":[{bad}]}}"#);
        refused(&config, None, &format!("invalid runtimeConfig.ips {bad}: {allowed}"));
    }
    refused(r#""args":{}"#, Some("x"), &format!("invalid IP of CNI_ARGS \"x\": {allowed}"));
    refused(r#""args":{"cni":{"ips":"10.255.8.7"}}"#, None, r#"invalid args.cni.ips "10.255.8.7": must be a list"#);
    let msg = "invalid IP of CNI_ARGS \"10.255.8.9\": must be 10.255.8.7 as runtimeConfig.ips says, or absent: a workload has one address";
    refused(runtime, Some("10.255.8.9"), msg);
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn gardens_metadata_is_the_identity() {
    let config = fixture!("garden-add");
    assert_eq!(config.version().unwrap(), Version::V100);
    let identity =
        Identity { policy_group_id: some("3b1c"), space_id: some("5e"), org_id: some("6f"), ..Identity::default() };
    assert_eq!(config.identity().unwrap(), identity);
    assert_eq!(Section::of(&config).unwrap(), Section::default());
    let staging = fixture!("garden-staging").identity().unwrap();
    assert_eq!(staging.policy_group_id, some("app-guid-1"));
}

#[test]
fn absent_null_and_empty_metadata_are_no_identity() {
    for config in [
        fixture!("garden-health-check"),
        fixture!("garden-no-properties"),
        fixture!("garden-capabilities"),
        fixture!("garden-rules"),
        fixture!("garden-del"),
        fixture!("garden-del-again"),
        fixture!("kubernetes-status"),
        fixture!("kubernetes-chained-add"),
        Config::parse(br#"{"name":"a","metadata":null,"runtimeConfig":null}"#).unwrap(),
        Config::parse(br#"{"name":"a","metadata":{"policy_group_id":"","space_id":null}}"#).unwrap(),
    ] {
        assert_eq!(config.identity().unwrap(), Identity::default(), "{config:?}");
    }
}

#[test]
fn containerds_add() {
    let config = fixture!("kubernetes-add");
    assert_eq!(config.version().unwrap(), Version::V110);
    assert_eq!(config.identity().unwrap(), Identity::default());
    let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=w3;K8S_POD_INFRA_CONTAINER_ID=f4a629747e4ddf1e17beaa8abbc3624ffe8d3f4d126720851ef0999d5088cca4;K8S_POD_UID=8c5a04e3-4f48-4cfb-8256-dbbd02734cde";
    let args = args::parse(text).unwrap();
    assert_eq!((args.pod_namespace, args.pod_name), (some("default"), some("w3")));
    let chained = CniResult::previous(&fixture!("kubernetes-chained-add")).unwrap().unwrap();
    let again = chained.clone().to_json(Version::V110);
    assert!(again.contains("vethaf9c321a") && again.contains("10.244.2.2/24"), "{again}");
}

#[test]
fn the_annotation_is_found_in_any_case_of_the_key_around_it() {
    for key in ["io.kubernetes.cri.pod-annotations", "IO.Kubernetes.cri.Pod-Annotations"] {
        for outer in ["runtimeConfig", "RuntimeConfig"] {
            let text = format!(
                r#"{{"name":"a","{outer}":{{"{key}":{{"weft/policy-group":"web","Weft/Policy-Group":"no"}}}}}}"#
            );
            let identity = Config::parse(text.as_bytes()).unwrap().identity().unwrap();
            assert_eq!(identity.group_annotation, some("web"));
        }
    }
    // An empty annotation is one, and the agent refuses it; another key in capitals is none.
    let of = |text: &str| Config::parse(text.as_bytes()).unwrap().identity().unwrap().group_annotation;
    let around =
        |inner: &str| format!(r#"{{"name":"a","runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{inner}}}}}"#);
    assert_eq!(of(&around(r#"{"weft/policy-group":""}"#)), some(""));
    assert_eq!(of(&around(r#"{"Weft/policy-group":"x"}"#)), None);
}

#[test]
fn many_mebibytes_of_annotations_are_read() {
    let filler = "x".repeat(8 << 20);
    let text = format!(
        r#"{{"name":"a","runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{{"big":"{filler}","weft/policy-group":"web"}}}}}}"#
    );
    let identity = Config::parse(text.as_bytes()).unwrap().identity().unwrap();
    assert_eq!(identity.group_annotation, some("web"));
}
