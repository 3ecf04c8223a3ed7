//! Policies and who enforces them.

use super::{plain, table};
use weft_api::enforced::EnforcedReport;
use weft_api::policies::{PolicyBody, PolicyList, PortsBody};
use weft_model::id::GroupId;
use weft_model::policy::Policy;

/// A table of policies.
#[must_use]
pub fn policies(list: &PolicyList) -> String {
    if list.policies.is_empty() {
        return "no policies\n".to_owned();
    }
    let mut rows: Vec<_> = list.policies.iter().map(row).collect();
    rows.sort();
    table(["SOURCE", "DESTINATION", "PROTOCOL", "PORTS"], rows)
}

fn row(PolicyBody { source, destination }: &PolicyBody) -> [String; 4] {
    let ports = ports(destination.ports);
    [source.id.clone(), destination.id.clone(), destination.protocol.clone(), ports]
}

fn ports(PortsBody { start, end }: PortsBody) -> String {
    if start == end { start.to_string() } else { format!("{start}-{end}") }
}

/// `app → web tcp 8080-8090`
#[must_use]
pub fn policy(policy: &Policy) -> String {
    let [source, destination, protocol, ports] = row(&PolicyBody::from(policy)).map(|text| plain(&text));
    format!("{source} → {destination} {protocol} {ports}")
}

/// What taking back the last policy towards a group means.
#[must_use]
pub fn last_policy(destination: &GroupId) -> String {
    let group = plain(&destination.to_string());
    format!(
        "warning: that was the last policy towards {group}: hosts with isolation `selected` (Kubernetes' default) now let \
         everybody reach it; a policy from a group that does not exist keeps it closed\n"
    )
}

/// Who is behind and how far: `cell-7 is at 41, node-2 has not said`.
#[must_use]
pub fn laggards(report: &EnforcedReport) -> String {
    let said = |host: &weft_api::enforced::HostEnforced| {
        let name = plain(host.hostname.as_deref().unwrap_or(host.node.as_str()));
        match host.revision {
            0 => format!("{name} has not said"),
            revision => format!("{name} is at {revision}"),
        }
    };
    report.laggards().map(said).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_order() {
        let json = r#"{"total_policies":2,"policies":[
            {"source":{"id":"web"},"destination":{"id":"db","protocol":"tcp","ports":{"start":5432,"end":5432}}},
            {"source":{"id":"app"},"destination":{"id":"k8s:east/shop/web","protocol":"udp","ports":{"start":80,"end":90}}}]}"#;
        let list = serde_json::from_str(json).unwrap();
        assert_eq!(
            policies(&list),
            "SOURCE  DESTINATION        PROTOCOL  PORTS\n\
             app     k8s:east/shop/web  udp       80-90\n\
             web     db                 tcp       5432\n"
        );
        assert_eq!(policies(&PolicyList { total_policies: 0, policies: vec![] }), "no policies\n");
    }

    #[test]
    fn laggards_by_the_name_people_know() {
        let json = r#"{"revision":9,"enforced":false,"hosts":[{"node":"a","revision":9},
            {"node":"b","hostname":"cell-7","revision":4},{"node":"c","revision":0}]}"#;
        assert_eq!(laggards(&serde_json::from_str(json).unwrap()), "cell-7 is at 4, c has not said");
    }
}
