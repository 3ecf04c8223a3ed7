//! What is refused, and how it is said.

use super::*;
use weft_model::policy::Isolation;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    check(toml::from_str(text).unwrap(), "h1")
}

#[test]
fn defaults_follow_the_kind() {
    let cell = parse("kind = 'cell'").unwrap();
    assert_eq!((cell.stance.isolation, cell.deny), (Isolation::Always, DenyAction::Reject));
    assert!(!cell.stance.hosts_may_reach && cell.stance.host_services.is_some());
    let node = parse("kind = 'kubernetes'").unwrap();
    assert_eq!((node.stance.isolation, node.deny), (Isolation::Selected, DenyAction::Drop));
    assert!(node.stance.hosts_may_reach && node.stance.host_services.is_none());
    assert_eq!(node.hostname, "h1");
    assert!(cell.fast_path && node.fast_path);
    assert!(!parse("kind = 'cell'\nfast_path = 'off'").unwrap().fast_path);
}

#[test]
fn all_errors_at_once_with_field_value_and_what_is_allowed() {
    let errors = parse(
        "isolation = 'sometimes'\npublic_ip = 'ten'\nmtu = 100\nhost_services = ['53']\nkind = 'cell'\nfast_path = 'yes'\netcd_endpoints = ['https://x']\nnetwork = '10.0.0.0/29'",
    )
    .unwrap_err();
    let text = errors.to_string();
    for want in [
        "isolation: invalid value \"sometimes\": one of always, selected, never",
        "public_ip: invalid value \"ten\": an IPv4 address",
        "fast_path: invalid value \"yes\": one of on, off",
        "mtu: invalid value \"100\": a number from 576 to 65535",
        "host_services: invalid value \"53\": tcp:<port> or udp:<port>, port 1 to 65535",
        "etcd_endpoints: invalid value \"https://x\": http://<host>:<port>",
        "network: 10.0.0.0/29: network is too small. Minimum useful network prefix is /28",
    ] {
        assert!(text.contains(want), "{want} in\n{text}");
    }
    assert_eq!(errors.0.len(), 7, "{text}");
    assert_eq!(parse("").unwrap_err().0, ["kind: missing: kubernetes or cell"]);
}

#[test]
fn what_could_never_work_is_refused() {
    for (text, field) in [
        ("hostname = ''", "hostname"),
        ("subnet_len = 24", "subnet_len"),
        ("vxlan_name = 'weft0'", "vxlan_name"),
        ("reserved_addresses = ['10.255.3.20-10.255.3.10']", "reserved_addresses"),
        ("reserved_addresses = ['10.255.3.1', '10.255.3.1/28']", "reserved_addresses"),
        ("record_buffer_kib = 1000", "record_buffer_kib"),
        ("max_connections = 7", "max_connections"),
        ("denials_burst = 0", "denials_burst"),
        ("audit_groups = ['']", "audit_groups"),
        ("metrics_listen = '9469'", "metrics_listen"),
        ("etcd_endpoints = ['http://:2379']", "etcd_endpoints"),
        ("etcd_endpoints = ['http://a:99999']", "etcd_endpoints"),
    ] {
        let errors = parse(&format!("kind = 'cell'\n{text}")).unwrap_err();
        assert!(errors.0.len() == 1 && errors.0[0].starts_with(field), "{text}: {errors}");
    }
    let reserved =
        parse("kind = 'cell'\nreserved_addresses = ['10.255.3.9', '10.255.3.10-10.255.3.20', '10.255.3.64/28']");
    let ranges: Vec<String> = reserved.unwrap().reserved.iter().map(|range| format!("{range:?}")).collect();
    assert_eq!(ranges, ["10.255.3.9..=10.255.3.9", "10.255.3.10..=10.255.3.20", "10.255.3.64..=10.255.3.79"]);
    assert!(parse("kind = 'cell'\netcd_endpoints = ['http://[::1]:2379', 'http://etcd-0.etcd:2379/']").is_ok());
}

#[test]
fn unknown_keys_are_refused_by_name_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weftd.toml");
    std::fs::write(&path, "kind = 'cell'\nmtu = 1400\nbrigde = 'x'\n").unwrap();
    let flags = || Raw { config: Some(path.clone()), mtu: Some(1300), ..Raw::default() };
    assert!(load(flags(), "h").unwrap_err().to_string().contains("brigde"));
    std::fs::write(&path, "kind = 'cell'\nmtu = 1400\naudit = true\n").unwrap();
    let config = load(flags(), "h").unwrap();
    assert_eq!((config.mtu, config.logging.audit), (Some(1300), true));
}
