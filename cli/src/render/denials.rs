//! Denied packets, one a line.

use super::plain;
use jiff::Timestamp;
use weft_api::denial::{DenialRecord, Party};

/// `2026-08-21T09:12:48.123Z  cell-7  DENY ingress tcp 10.255.3.2:51234 (app) → 10.255.1.5:8080 (web)  no policy`
#[must_use]
pub fn denial(record: &DenialRecord) -> String {
    let verdict = match record.action.as_str() {
        "audit" => "AUDIT",
        "allow" => "OK",
        _ => "DENY",
    };
    let line = format!(
        "{}  {}  {verdict} {} {}{} {} → {} {}{}\n",
        time(&record.at),
        place(record),
        record.direction,
        record.protocol.to_lowercase(),
        icmp(record),
        party(record, &record.source),
        party(record, &record.destination),
        why(record),
        suppressed(record.suppressed),
    );
    plain(line.trim_end()) + "\n"
}

/// To the millisecond, so that lines stay narrow; what cannot be read is shown as it is.
fn time(at: &str) -> String {
    match at.parse::<Timestamp>() {
        Ok(time) => format!("{time:.3}"),
        Err(_) => at.to_owned(),
    }
}

/// The host that judged, where the record names it, else the interface.
fn place(record: &DenialRecord) -> &str {
    let judged = if record.direction == "egress" { &record.source } else { &record.destination };
    judged.host.as_deref().unwrap_or(&record.interface)
}

fn icmp(record: &DenialRecord) -> String {
    match (record.icmp_type, record.icmp_code) {
        (Some(kind), Some(code)) => format!(" {kind}/{code}"),
        (Some(kind), None) => format!(" {kind}"),
        (None, _) => String::new(),
    }
}

fn party(record: &DenialRecord, party: &Party) -> String {
    // An echo's identifier stands where ports do.
    let portless = party.port == 0 || record.icmp_type.is_some();
    let port = if portless { String::new() } else { format!(":{}", party.port) };
    let group = match (&party.group, party.tag) {
        (Some(group), _) => format!(" ({group})"),
        (None, Some(tag)) => format!(" (tag {tag})"),
        (None, None) => String::new(),
    };
    format!("{}{port}{group}", party.ip)
}

/// What decided, and what else is the matter.
fn why(record: &DenialRecord) -> String {
    let Some(decision) = &record.decision else { return without_decision(record) };
    match record.reason.as_str() {
        "passed" | "policy" | "audited" | "host-access" => decision.text.clone(),
        reason => format!("{}; {}", in_words(reason), decision.text),
    }
}

/// `weft-abi`'s names of reasons in words; an agent may be newer than we are, or older.
fn without_decision(record: &DenialRecord) -> String {
    let by_rule = record.rule.map(|rule| format!("rule {rule}"));
    match (record.reason.as_str(), by_rule) {
        ("passed", rule) => rule.unwrap_or_else(|| "no rule needed".to_owned()),
        ("policy" | "audited", Some(rule)) => format!("by {rule}"),
        (reason, _) => in_words(reason).to_owned(),
    }
}

fn in_words(reason: &str) -> &str {
    match reason {
        "policy" | "audited" => "no policy",
        "revoked" => "the policy that allowed it is gone",
        "no-endpoint" => "no workload is registered there",
        "spoofed-mac" => "forged hardware address",
        "spoofed-ip" => "forged source address",
        "spoofed-arp" => "forged ARP",
        "fragment" => "fragment without its first",
        "mid-stream" => "middle of an unknown connection",
        "not-a-peer" => "VXLAN from a stranger",
        "inner-source" => "source address of another host's subnet",
        "ether-type" => "neither IPv4 nor ARP",
        "host-access" => "this port of the host is not listed",
        "workload-vxlan" => "VXLAN from a workload",
        "link-local" => "link-local destination",
        "wrong-destination" => "not the workload's address",
        "checksum-offload" => "a checksum that the device would write over a header",
        "fragment-share" => "too many unfinished datagrams of this workload",
        "martian" => "an address that is nobody's",
        "ip-options" => "IP options",
        "rogue-server" => "DHCP server in a workload",
        other => other,
    }
}

fn suppressed(records: u32) -> String {
    if records == 0 { String::new() } else { format!(" (and {records} more before)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"at":"2026-08-21T09:12:48.123456789Z","reason":"policy","action":"reject","direction":"ingress",
        "source":{"ip":"10.255.3.2","port":51234,"group":"app-guid","tag":"0001"},
        "destination":{"ip":"10.255.1.5","port":8080,"group":"k8s:east/shop/web"},
        "protocol":"TCP","tcpFlags":"SYN","mark":1,"interface":"weft01234567890","suppressed":0}"#;

    fn record() -> DenialRecord {
        serde_json::from_str(RECORD).unwrap()
    }

    #[test]
    fn both_groups_by_name() {
        assert_eq!(
            denial(&record()),
            "2026-08-21T09:12:48.123Z  weft01234567890  DENY ingress tcp 10.255.3.2:51234 (app-guid) → 10.255.1.5:8080 (k8s:east/shop/web) no policy\n"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut record = record();
        record.source.group = None;
        record.destination = Party { group: None, host: Some("cell-7".to_owned()), port: 0, ..record.destination };
        record.action = "audit".to_owned();
        record.protocol = "ICMP".to_owned();
        (record.icmp_type, record.icmp_code, record.source.port) = (Some(8), Some(0), 21120);
        record.reason = "something-new".to_owned();
        record.suppressed = 12;
        record.at = "then".to_owned();
        assert_eq!(
            denial(&record),
            "then  cell-7  AUDIT ingress icmp 8/0 10.255.3.2 (tag 0001) → 10.255.1.5 something-new (and 12 more before)\n"
        );
    }

    #[test]
    fn the_rule_that_decided() {
        let mut record = record();
        record.rule = Some(3);
        assert!(denial(&record).ends_with(" by rule 3\n"));
        (record.action, record.reason) = ("allow".to_owned(), "passed".to_owned());
        let line = denial(&record);
        assert!(line.contains("  OK ingress tcp ") && line.ends_with(" rule 3\n"), "{line}");
    }

    #[test]
    fn what_the_rule_is_or_why_there_is_none() {
        let mut record = record();
        record.decision = serde_json::from_str(
            r#"{"text":"no rule allows a → b tcp 80: isolation is always","because":"isolated","isolation":"always","revision":7}"#,
        )
        .unwrap();
        assert!(
            denial(&record).ends_with(") no rule allows a → b tcp 80: isolation is always\n"),
            "{}",
            denial(&record)
        );
        record.reason = "revoked".to_owned();
        let line = denial(&record);
        assert!(
            line.ends_with(" the policy that allowed it is gone; no rule allows a → b tcp 80: isolation is always\n")
        );
    }

    #[test]
    fn one_record_is_one_line() {
        let mut record = record();
        record.source.group = Some("a\n\u{1b}[31mb".parse().unwrap());
        let line = denial(&record);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains("(a\\n\\u{1b}[31mb)"), "{line}");
    }
}
