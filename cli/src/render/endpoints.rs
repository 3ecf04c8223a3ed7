//! Workloads of a host.

use super::{or_dash, table};
use weft_api::agent::EndpointView;

/// A table of workloads.
#[must_use]
pub fn endpoints(endpoints: &[EndpointView]) -> String {
    if endpoints.is_empty() {
        return "no workloads\n".to_owned();
    }
    let header = [
        "ADDRESS",
        "GROUP",
        "TAG",
        "STATE",
        "REACHABLE BY",
        "RULES",
        "WORKLOAD",
        "CONTAINER",
        "LINK",
        "INSIDE",
        "PORTS",
    ];
    table(header, endpoints.iter().map(row))
}

fn row(endpoint: &EndpointView) -> [String; 11] {
    let container: String = endpoint.attachment.container_id.as_str().chars().take(13).collect();
    [
        endpoint.address.to_string(),
        or_dash(endpoint.group.as_ref()),
        or_dash(endpoint.tag.as_ref()),
        endpoint.state.clone(),
        reachable_by(endpoint).to_owned(),
        endpoint.rules.to_string(),
        workload(endpoint),
        container,
        endpoint.host_ifname.clone(),
        inside(endpoint),
        ports(endpoint),
    ]
}

fn reachable_by(endpoint: &EndpointView) -> &'static str {
    match (endpoint.isolated, endpoint.group.is_some()) {
        (true, true) => "policy",
        (true, false) => "own host",
        (false, _) => "anybody",
    }
}

/// The other end of the link.
fn inside(endpoint: &EndpointView) -> String {
    let name = &endpoint.attachment.ifname;
    // An adopted workload's namespace is not known.
    if endpoint.netns.is_empty() { name.to_string() } else { format!("{name} in {}", endpoint.netns) }
}

/// Ports of the host that lead to it.
fn ports(endpoint: &EndpointView) -> String {
    let ports: Vec<String> = endpoint.capabilities.ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() { "-".to_owned() } else { ports.join(", ") }
}

/// The name people know: a pod's. Apps have none here.
fn workload(endpoint: &EndpointView) -> String {
    match (&endpoint.identity.pod_namespace, &endpoint.identity.pod_name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_apps() {
        let json = r#"[
            {"attachment":{"containerId":"0123456789abcdef","ifname":"eth0"},"address":"10.255.1.5","hostIfname":"weft0a1b2c3d4e5",
             "netns":"/run/netns/x","group":"k8s:east/shop/web","tag":"0A1F","state":"committed","isolated":true,"rules":3,
             "generation":7,"identity":{"podNamespace":"shop","podName":"web-1"},
             "capabilities":{"ports":[{"protocol":"tcp","hostPort":80,"containerPort":8080},
             {"protocol":"udp","hostIp":"192.0.2.1","hostPort":53,"containerPort":5353}]}},
            {"attachment":{"containerId":"handle","ifname":"eth0"},"address":"10.255.1.6","hostIfname":"weftfffffffffff",
             "netns":"/run/netns/y","group":null,"tag":null,"state":"reserved","isolated":true,"rules":0,"generation":0,"identity":{}}]"#;
        let shown = endpoints(&serde_json::from_str::<Vec<_>>(json).unwrap());
        assert_eq!(
            shown,
            "ADDRESS     GROUP              TAG   STATE      REACHABLE BY  RULES  WORKLOAD    CONTAINER      LINK             INSIDE                PORTS\n\
             10.255.1.5  k8s:east/shop/web  0A1F  committed  policy        3      shop/web-1  0123456789abc  weft0a1b2c3d4e5  eth0 in /run/netns/x  tcp *:80->8080, udp 192.0.2.1:53->5353\n\
             10.255.1.6  -                  -     reserved   own host      0      -           handle         weftfffffffffff  eth0 in /run/netns/y  -\n"
        );
        assert_eq!(endpoints(&[]), "no workloads\n");
    }
}
