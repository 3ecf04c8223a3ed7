//! Results in every version, and results of earlier plugins.

use serde_json::{Value, json};
use weft_cni_plugin::config::Config;
use weft_cni_plugin::result::CniResult;
use weft_cni_plugin::version::Version;
use weft_model::workload::Wiring;

fn wiring() -> Wiring {
    serde_json::from_value(json!({
        "attachment": {"containerId": "c1", "ifname": "eth0"},
        "token": "0123456789abcdef", "slot": 7, "address": "10.255.30.7",
        "gateway": "10.255.30.1", "gatewayMac": "aa:aa:0a:ff:1e:01", "mtu": 1450, "bridge": "weft0",
    }))
    .unwrap()
}

fn printed(config: &Value, servers: &[std::net::Ipv4Addr]) -> Value {
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    let mut result = CniResult::previous(&config).unwrap().unwrap_or_default();
    result.add_workload(&wiring(), "/run/netns/w");
    result.set_dns(&config.object("dns").unwrap().cloned().unwrap_or_default(), servers);
    serde_json::from_str(&result.to_json(config.version().unwrap())).unwrap()
}

#[test]
fn alone_in_every_version() {
    for version in Version::ALL {
        let result = printed(&json!({"name": "weft", "cniVersion": version.as_str()}), &[]);
        let mut ip = json!({"interface": 2, "address": "10.255.30.7/32", "gateway": "10.255.30.1"});
        let name = weft_model::workload::host_ifname(&wiring().attachment).to_string();
        let mut links = json!([
            {"name": "weft0", "mac": "aa:aa:0a:ff:1e:01"},
            {"name": name, "mac": "aa:aa:0a:ff:1e:07"},
            {"name": "eth0", "mac": "ee:ee:0a:ff:1e:07", "sandbox": "/run/netns/w"},
        ]);
        if version < Version::V100 {
            ip["version"] = json!("4");
        }
        if version == Version::V110 {
            links[0]["mtu"] = json!(1450);
            links[1]["mtu"] = json!(1450);
            links[2]["mtu"] = json!(1450);
        }
        let expected = json!({
            "cniVersion": version.as_str(), "interfaces": links, "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.255.30.1"}], "dns": {},
        });
        assert_eq!(result, expected);
    }
}

#[test]
fn earlier_results_stay_in_front_in_the_configs_version() {
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "x0", "mac": "02:00:00:00:00:01", "mtu": 9000, "sandbox": "/run/netns/w", "pciID": "0000:00:01.0"}],
        "ips": [
            {"address": "192.0.2.5/24", "gateway": "192.0.2.1", "interface": 0},
            {"address": "2001:db8::5/64", "interface": 0},
        ],
        "routes": [{"dst": "192.0.2.0/24", "mtu": 1400, "priority": 5}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let result = printed(&json!({"name": "weft", "cniVersion": "0.4.0", "prevResult": previous}), &[]);
    assert_eq!(
        result["ips"],
        json!([
            {"version": "4", "interface": 0, "address": "192.0.2.5/24", "gateway": "192.0.2.1"},
            {"version": "6", "interface": 0, "address": "2001:db8::5/64"},
            {"version": "4", "interface": 3, "address": "10.255.30.7/32", "gateway": "10.255.30.1"},
        ])
    );
    assert_eq!(result["interfaces"][0], json!({"name": "x0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/w"}));
    assert_eq!(result["routes"][0], json!({"dst": "192.0.2.0/24"}));
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
    let same = printed(&json!({"name": "weft", "cniVersion": "1.1.0", "prevResult": previous}), &[]);
    assert_eq!(same["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(same["routes"][0], previous["routes"][0]);
}

#[test]
fn older_results_and_gos_nulls_are_read() {
    let previous = json!({
        "cniVersion": "0.3.1", "interfaces": null, "routes": null, "dns": null,
        "ips": [{"version": "4", "address": "192.0.2.5/24"}],
    });
    let result = printed(&json!({"name": "weft", "cniVersion": "1.0.0", "prevResult": previous}), &[]);
    assert_eq!(result["ips"][0], json!({"address": "192.0.2.5/24"}));
    assert_eq!(result["ips"][1]["interface"], 2);
}

#[test]
fn a_previous_result_that_is_none_is_refused() {
    let refused = |previous: Value| {
        let config = json!({"name": "weft", "cniVersion": "1.0.0", "prevResult": previous}).to_string();
        CniResult::previous(&Config::parse(config.as_bytes()).unwrap()).unwrap_err()
    };
    for bad in [json!("x"), json!([]), json!(["1.0.0", []]), json!({"ips": "x"}), json!({"interfaces": [5]})] {
        let error = refused(bad);
        assert!(error.code == 6 && error.msg.starts_with("could not parse prevResult: "), "{error}");
    }
    assert_eq!(refused(json!({"cniVersion": "0.2.0"})).code, 1);
}

#[test]
fn dns_of_the_config_goes_before_the_agents() {
    let dns = json!({"nameservers": ["192.0.2.53"], "domain": "d", "search": ["s"], "options": ["ndots:5"]});
    let agents = ["169.254.0.53".parse().unwrap()];
    let config = |dns: Value| json!({"name": "weft", "cniVersion": "1.0.0", "dns": dns});
    assert_eq!(printed(&config(dns.clone()), &agents)["dns"], dns);
    for none in [json!({}), Value::Null] {
        assert_eq!(printed(&config(none), &agents)["dns"], json!({"nameservers": ["169.254.0.53"]}));
    }
}
