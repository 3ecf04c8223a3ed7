//! How a host is.

use super::{or_dash, plain, table};
use std::fmt::Write;
use weft_api::agent::{KernelView, PeerView, Status, StoreStatus, SyncStatus};
use weft_model::group::HostKind;

/// A page about a host: what is wrong first.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut page = String::new();
    for alarm in &status.alarms {
        push(&mut page, "ALARM", alarm);
    }
    let kind = match status.kind {
        HostKind::Kubernetes => "kubernetes",
        HostKind::Cell => "cell",
    };
    push(&mut page, "host", &format!("{} ({kind}), weftd {}", status.node, status.version));
    let subnet = or_dash(status.subnet.as_ref());
    push(&mut page, "network", &format!("underlay {}, subnet {subnet}, lease {}", status.public_ip, status.lease));
    push(&mut page, "store", &store(&status.store));
    push(&mut page, "policies", &format!("revision {} enforced", status.enforced_revision));
    push(&mut page, "workloads", &workloads(status));
    push(&mut page, "links, routes", &sync(&status.network));
    push(&mut page, "programs, maps", &sync(&status.datapath));
    if !status.kernel.release.is_empty() {
        push(&mut page, "kernel", &kernel(&status.kernel));
    }
    for refused in &status.refused_peers {
        push(&mut page, "refused peer", refused);
    }
    page.push('\n');
    page.push_str(&peers(&status.peers));
    let counted = status.counters.iter().filter(|(_, packets)| **packets > 0);
    let rows: Vec<_> = counted.map(|(reason, packets)| [reason.clone(), packets.to_string()]).collect();
    if !rows.is_empty() {
        page.push('\n');
        page.push_str(&table(["PACKETS", "COUNT"], rows));
    }
    page
}

fn workloads(status: &Status) -> String {
    let collected = match status.collected {
        0 => String::new(),
        count => format!(", {count} collected that had lost their namespace"),
    };
    format!("{}, {} addresses free{collected}", status.endpoints, status.free_addresses)
}

fn push(page: &mut String, what: &str, text: &str) {
    // Writing to a String cannot fail.
    writeln!(page, "{what:<16}{}", plain(text)).unwrap_or_default();
}

fn store(store: &StoreStatus) -> String {
    match (&store.error, store.connected) {
        (_, true) => "connected".to_owned(),
        (Some(error), false) => format!("AWAY, going on with what is known: {error}"),
        (None, false) => "AWAY, going on with what is known".to_owned(),
    }
}

fn kernel(kernel: &KernelView) -> String {
    if kernel.missing.is_empty() {
        return format!("{}, with all that weft uses", kernel.release);
    }
    format!("{}; {}", kernel.release, kernel.missing.join("; "))
}

fn sync(sync: &SyncStatus) -> String {
    let state = if sync.in_sync { "as they should be" } else { "NOT as they should be" };
    let error = sync.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{state}, {} changes since start{error}", sync.changes)
}

fn peers(peers: &[PeerView]) -> String {
    if peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let rows = peers.iter().map(|peer| {
        let kind = if peer.managed { "weft" } else { "unmanaged" };
        let tags = if peer.gbp { "yes" } else { "no" };
        let name = or_dash(peer.hostname.as_ref());
        [peer.subnet.to_string(), peer.public_ip.to_string(), name, kind.to_owned(), tags.to_owned()]
    });
    table(["PEER", "UNDERLAY", "NAME", "KIND", "TAGS"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"version":"0.1.0","node":"n1","kind":"cell","publicIp":"192.0.2.1","subnet":"10.255.1.0/24",
        "lease":"held","store":{"connected":true},"peers":[
        {"subnet":"10.255.2.0/24","publicIp":"192.0.2.2","managed":true,"gbp":true,"hostname":"cell-2"},
        {"subnet":"10.255.3.0/24","publicIp":"192.0.2.3","managed":false,"gbp":false}],
        "refusedPeers":[],"endpoints":2,"freeAddresses":251,"enforcedRevision":57,
        "network":{"inSync":true,"changes":14},"datapath":{"inSync":true,"changes":3},
        "counters":{"passed":10,"policy":4,"revoked":0},"alarms":[]}"#;

    fn parsed() -> Status {
        serde_json::from_str(STATUS).unwrap()
    }

    #[test]
    fn a_healthy_host() {
        assert_eq!(
            status(&parsed()),
            "host            n1 (cell), weftd 0.1.0\n\
             network         underlay 192.0.2.1, subnet 10.255.1.0/24, lease held\n\
             store           connected\n\
             policies        revision 57 enforced\n\
             workloads       2, 251 addresses free\n\
             links, routes   as they should be, 14 changes since start\n\
             programs, maps  as they should be, 3 changes since start\n\
             \n\
             PEER           UNDERLAY   NAME    KIND       TAGS\n\
             10.255.2.0/24  192.0.2.2  cell-2  weft       yes\n\
             10.255.3.0/24  192.0.2.3  -       unmanaged  no\n\
             \n\
             PACKETS  COUNT\n\
             passed   10\n\
             policy   4\n"
        );
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let mut sick = parsed();
        sick.alarms.push("the store was wiped".to_owned());
        sick.store = StoreStatus { connected: false, error: Some("connection refused".to_owned()) };
        sick.datapath = SyncStatus { in_sync: false, changes: 1, error: Some("map full".to_owned()) };
        sick.kernel = KernelView { release: "6.1.0".to_owned(), missing: vec!["no TCX: clsact".to_owned()] };
        (sick.subnet, sick.peers) = (None, vec![]);
        let shown = status(&sick);
        assert!(shown.starts_with("ALARM           the store was wiped\n"), "{shown}");
        for line in [
            "subnet -,",
            "AWAY, going on with what is known: connection refused\n",
            "NOT as they should be, 1 changes since start: map full\n",
            "kernel          6.1.0; no TCX: clsact\n",
            "\nno peers\n",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    }
}
