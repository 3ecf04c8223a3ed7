//! From an event of the programs to a record with names.

use crate::directory::{Directory, Resident};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_api::denial::{Decision, DenialRecord, Party};
use weft_datapath::{DenialEvent, Reason, action, direction};
use weft_model::id::{Slot, Tag};

/// A record and what the sinks need besides.
pub(crate) struct Denial {
    /// The record.
    pub(super) record: Arc<DenialRecord>,
    /// When, nanoseconds since 1970.
    pub(super) at_ns: i128,
    /// The workload that judged, if it is still here.
    pub(super) judge: Option<Resident>,
    /// IP length.
    pub(super) length: u16,
}

impl Denial {
    /// Names what the event numbers.
    pub(super) fn new(event: &DenialEvent, directory: &Directory, clock: &Clock, decision: Option<Decision>) -> Self {
        let at = clock.wall(event.at_ns);
        let judge = u16::try_from(event.slot).ok().and_then(|slot| directory.endpoints.get(&Slot(slot)));
        let source_tag = Tag::new(event.source_tag);
        let source = party(directory, v4(event.source), u16::from_be(event.source_port), source_tag);
        let destination = party(directory, v4(event.destination), u16::from_be(event.destination_port), None);
        let icmp = event.proto == 1;
        let record = DenialRecord {
            at: at.to_string(),
            reason: Reason::from_code(event.reason)
                .map_or_else(|| format!("code {}", event.reason), |r| r.name().to_owned()),
            action: match event.action {
                action::REJECT => "reject",
                action::AUDIT => "audit",
                action::ALLOW => "allow",
                _ => "drop",
            }
            .to_owned(),
            rule: (event.rule != 0).then_some(event.rule),
            decision,
            direction: if event.direction == direction::EGRESS { "egress" } else { "ingress" }.to_owned(),
            source,
            destination,
            protocol: protocol(event.proto),
            tcp_flags: if event.proto == 6 { tcp_flags(event.tcp_flags_or_icmp_type) } else { String::new() },
            icmp_type: icmp.then_some(event.tcp_flags_or_icmp_type),
            icmp_code: icmp.then_some(event.icmp_code),
            mark: event.mark,
            interface: judge.map_or_else(|| format!("if{}", event.ifindex), |resident| resident.host_ifname.clone()),
            suppressed: event.suppressed,
        };
        Self { record: Arc::new(record), at_ns: at.as_nanosecond(), judge: judge.cloned(), length: event.length }
    }
}

/// Both clocks at one moment, to tell the wall clock's time of one of the monotonic clock.
pub(super) struct Clock {
    wall: jiff::Timestamp,
    monotonic_ns: i128,
}

impl Clock {
    pub(super) fn read() -> Self {
        let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(0, |time| std::time::Duration::from(time).as_nanos());
        Self { wall: jiff::Timestamp::now(), monotonic_ns: i128::try_from(monotonic).unwrap_or(0) }
    }

    fn wall(&self, monotonic_ns: u64) -> jiff::Timestamp {
        let passed = self.monotonic_ns - i128::from(monotonic_ns);
        jiff::Timestamp::from_nanosecond(self.wall.as_nanosecond() - passed).unwrap_or(self.wall)
    }
}

pub(super) fn v4(address: [u8; 16]) -> Ipv4Addr {
    Ipv4Addr::new(address[12], address[13], address[14], address[15])
}

fn party(directory: &Directory, ip: Ipv4Addr, port: u16, tag: Option<Tag>) -> Party {
    let resident = directory.resident(ip);
    let tag = tag.or(resident.and_then(|resident| resident.tag));
    let group = tag.and_then(|tag| directory.groups.get(&tag).cloned());
    Party {
        ip,
        port,
        group: group.or_else(|| resident.and_then(|resident| resident.group.clone())),
        tag,
        container_id: resident.map(|resident| resident.attachment.container_id.to_string()),
        host: directory.host_of(ip).map(str::to_owned),
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

fn tcp_flags(flags: u8) -> String {
    let names = [(0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x20, "URG")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    set.join(",")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn directory() -> Directory {
        let resident = Resident {
            attachment: weft_model::id::Attachment {
                container_id: "6e2ad364-5bb4-4f1c-bd5c-90fbe5a9b1b8".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            group: Some("0d1c1c93-77d8-4a0e-a8b1-2f9a7c1e0b11".parse().unwrap()),
            tag: None,
            identity: weft_model::group::Identity::default(),
            host_ifname: "weft0123".to_owned(),
        };
        Directory {
            subnet: ipnetwork::Ipv4Network::new(Ipv4Addr::new(10, 255, 1, 0), 24).unwrap().try_into().ok(),
            endpoints: BTreeMap::from([(Slot(5), resident)]),
            ..Directory::default()
        }
    }

    /// A TCP SYN from 10.255.2.9 (tag 0A05) to the app in slot 5.
    pub(in crate::denials) fn denial(done: &str, way: &str) -> Denial {
        let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
        let allowed = done == "allow";
        let event = DenialEvent {
            at_ns: 1,
            ifindex: 0x0100_0005,
            slot: 5,
            incarnation: 1,
            rule: u32::from(allowed) * 3,
            suppressed: 0,
            mark: 0,
            source: mapped(Ipv4Addr::new(10, 255, 2, 9)),
            destination: mapped(Ipv4Addr::new(10, 255, 1, 5)),
            source_port: 40000u16.to_be(),
            destination_port: 80u16.to_be(),
            source_tag: 0x0a05,
            length: 60,
            reason: if allowed { Reason::Passed as u8 } else { Reason::Policy as u8 },
            direction: u8::from(way == "egress"),
            proto: 6,
            action: match done {
                "reject" => action::REJECT,
                "audit" => action::AUDIT,
                "allow" => action::ALLOW,
                _ => action::DROP,
            },
            tcp_flags_or_icmp_type: 2,
            icmp_code: 0,
            reserved: [0; 2],
        };
        Denial::new(&event, &directory(), &Clock::read(), None)
    }

    #[test]
    fn the_rule_or_its_absence() {
        assert_eq!(denial("reject", "ingress").record.rule, None);
        let allowed = denial("allow", "ingress").record;
        assert_eq!((allowed.rule, allowed.action.as_str(), allowed.reason.as_str()), (Some(3), "allow", "passed"));
        assert!(allowed.passed());
    }

    #[test]
    fn a_moment_of_the_monotonic_clock_on_the_wall() {
        let clock = Clock { wall: jiff::Timestamp::from_second(1000).unwrap(), monotonic_ns: 5_000_000_000 };
        assert_eq!(clock.wall(3_000_000_000).as_second(), 998);
        assert_eq!(clock.wall(5_500_000_000).as_millisecond(), 1_000_500);
    }
}
