//! What is well with a host and what is not, told from its status.

use serde::Serialize;
use weft_api::agent::{Status, SyncStatus};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to be done.
    Note,
    /// Somebody has to do something.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What is the case.
    pub text: String,
}

/// Everything that can be told, what is wrong first.
#[must_use]
pub fn examine(status: &Status) -> Vec<Finding> {
    let mut findings = vec![lease(status), store(status)];
    findings.push(sync("links and routes", &status.network));
    findings.push(sync("kernel programs and maps", &status.datapath));
    findings.extend(addresses(status));
    findings.extend(status.alarms.iter().map(|alarm| finding(Level::Wrong, alarm.clone())));
    findings
        .extend(status.refused_peers.iter().map(|peer| finding(Level::Wrong, format!("a peer is not used: {peer}"))));
    findings.extend(status.kernel.missing.iter().map(|text| finding(Level::Note, format!("the kernel has {text}"))));
    findings.sort_by_key(|finding| match finding.level {
        Level::Wrong => 0,
        Level::Note => 1,
        Level::Ok => 2,
    });
    findings
}

/// Whether nobody has to do anything.
#[must_use]
pub fn is_healthy(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Wrong)
}

fn finding(level: Level, text: impl Into<String>) -> Finding {
    Finding { level, text: text.into() }
}

fn lease(status: &Status) -> Finding {
    let held = match &status.subnet {
        Some(subnet) => format!("lease of {subnet}: {}", status.lease),
        None => format!("no subnet: lease {}", status.lease),
    };
    finding(if status.lease == "held" { Level::Ok } else { Level::Wrong }, held)
}

fn store(status: &Status) -> Finding {
    match (&status.store.error, status.store.connected) {
        (_, true) => finding(Level::Ok, "etcd answers"),
        (error, false) => {
            let error = error.as_deref().unwrap_or("not reached yet");
            finding(Level::Wrong, format!("etcd is away, going on with what is known: {error}"))
        }
    }
}

fn sync(what: &str, sync: &SyncStatus) -> Finding {
    match (&sync.error, sync.in_sync) {
        (None, true) => finding(Level::Ok, format!("{what} are as they should be")),
        (error, _) => {
            let error = error.as_deref().unwrap_or("being put right");
            finding(Level::Wrong, format!("{what} are not as they should be: {error}"))
        }
    }
}

fn addresses(status: &Status) -> Option<Finding> {
    (status.subnet.is_some() && status.free_addresses == 0)
        .then(|| finding(Level::Wrong, "no address is free: no workload can start here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::agent::{KernelView, StoreStatus};

    fn healthy() -> Status {
        let text = r#"{"version":"0.1.0","node":"n1","kind":"cell","publicIp":"192.0.2.1","subnet":"10.255.1.0/24",
            "lease":"held","store":{"connected":true},"peers":[],"refusedPeers":[],"endpoints":2,"freeAddresses":251,
            "enforcedRevision":57,"network":{"inSync":true,"changes":14},"datapath":{"inSync":true,"changes":3},
            "counters":{},"alarms":[]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn nothing_is_wrong_with_a_healthy_host_and_what_its_kernel_lacks_is_no_fault() {
        let mut status = healthy();
        status.kernel =
            KernelView { release: "6.1.0".to_owned(), missing: vec!["no TCX (Linux 6.6): clsact".to_owned()] };
        let findings = examine(&status);
        assert!(is_healthy(&findings));
        assert_eq!(findings[0], finding(Level::Note, "the kernel has no TCX (Linux 6.6): clsact"));
        assert_eq!(findings.iter().filter(|finding| finding.level == Level::Ok).count(), 4);
    }

    /// A change of the status, and what is said of it.
    type Case = (fn(&mut Status), &'static str);

    #[test]
    fn each_thing_that_is_wrong_is_said_first_and_alone() {
        let cases: [Case; 8] = [
            (|status| status.lease = "cached".to_owned(), "lease of 10.255.1.0/24: cached"),
            (|status| (status.subnet, status.lease) = (None, "none".to_owned()), "no subnet: lease none"),
            (
                |status| status.store = StoreStatus { connected: false, error: Some("refused".to_owned()) },
                "etcd is away, going on with what is known: refused",
            ),
            (
                |status| status.network.error = Some("bar0 is in the way".to_owned()),
                "links and routes are not as they should be: bar0 is in the way",
            ),
            (
                |status| status.datapath.in_sync = false,
                "kernel programs and maps are not as they should be: being put right",
            ),
            (|status| status.free_addresses = 0, "no address is free: no workload can start here"),
            (|status| status.alarms.push("a rule uses our mark".to_owned()), "a rule uses our mark"),
            (
                |status| status.refused_peers.push("10.255.9.0/24: twice".to_owned()),
                "a peer is not used: 10.255.9.0/24: twice",
            ),
        ];
        for (change, said) in cases {
            let mut status = healthy();
            change(&mut status);
            let findings = examine(&status);
            assert!(!is_healthy(&findings), "{said}");
            assert_eq!(findings[0], finding(Level::Wrong, said));
            assert_eq!(findings.iter().filter(|finding| finding.level == Level::Wrong).count(), 1, "{said}");
        }
    }
}
