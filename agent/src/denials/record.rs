//! From an event of the programs to a record with names.

use crate::directory::{Directory, Resident};
use std::net::Ipv4Addr;
use weft_api::denial::{DenialRecord, Party};
use weft_datapath::{DenialEvent, Reason, action, direction};
use weft_model::id::{Slot, Tag};

/// A record and what the sinks need besides.
pub(super) struct Denial {
    /// The record.
    pub(super) record: DenialRecord,
    /// When, nanoseconds since 1970.
    pub(super) at_ns: i128,
    /// The workload that judged, if it is still here.
    pub(super) judge: Option<Resident>,
    /// IP length.
    pub(super) length: u16,
}

impl Denial {
    /// Names what the event numbers.
    pub(super) fn new(event: &DenialEvent, directory: &Directory) -> Self {
        let at = wall_clock(event.at_ns);
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
                _ => "drop",
            }
            .to_owned(),
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
        Self { record, at_ns: at.as_nanosecond(), judge: judge.cloned(), length: event.length }
    }
}

/// The wall clock's time of a moment of the monotonic clock, as far as both go on together.
fn wall_clock(monotonic_ns: u64) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    let passed = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| std::time::Duration::from(time).as_nanos())
        .saturating_sub(u128::from(monotonic_ns));
    let passed = i128::try_from(passed).unwrap_or(0);
    jiff::Timestamp::from_nanosecond(now.as_nanosecond() - passed).unwrap_or(now)
}

fn v4(address: [u8; 16]) -> Ipv4Addr {
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
