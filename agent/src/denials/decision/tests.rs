use super::*;
use crate::in_force::Known;
use std::collections::BTreeMap;
use weft_model::compile::{Policies, Stance, policy_set};
use weft_model::datapath::{Host, PeerHost, Surroundings};
use weft_model::group::Identity;
use weft_model::id::{Attachment, GroupId};
use weft_model::policy::{Isolation, Peer, Policy, PortRange, Precedence, Protocol, Tier, Traffic};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 5);
const APP: Ipv4Addr = Ipv4Addr::new(10, 255, 2, 9);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const APP_TAG: u16 = 0x0a05;

fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

/// The app `web` in slot 5, which group `app` may reach at port 80, and which may reach its host at UDP port 53.
fn directory(change: impl FnOnce(&mut PolicySet)) -> Arc<Directory> {
    let policy = Policy {
        source: group("app"),
        destination: group("web"),
        protocol: Protocol::Tcp,
        ports: PortRange::new(80, 80).unwrap(),
    };
    let tag = |number| Tag::new(number).unwrap();
    let tags = BTreeMap::from([(group("app"), tag(APP_TAG)), (group("web"), tag(0x0b06))]);
    let arranged = Policies::new([&policy], tags.clone());
    let stance = Stance {
        isolation: Isolation::Always,
        hosts_may_reach: false,
        host_services: Some([(Protocol::Udp, 53)].into()),
    };
    let mut set = policy_set(Some(&group("web")), &stance, &arranged);
    change(&mut set);
    let host = Host {
        overlay: "10.255.0.0/16".parse().unwrap(),
        gateway: GATEWAY,
        vtep: Ipv4Addr::new(10, 255, 1, 0),
        vni: 1,
        vxlan_port: 8472,
        mark_shift: 16,
        link_local: false,
        denials_per_second: 1,
        denials_burst: 1,
        allowed: None,
        fast_path: false,
    };
    let vtep = Ipv4Addr::new(10, 255, 2, 0);
    let peer = PeerHost { underlay: Ipv4Addr::new(192, 0, 2, 2), vtep, gbp: true, unmanaged: false };
    let around = Surroundings { peers: [("10.255.2.0/24".parse().unwrap(), peer)].into(), ..Surroundings::default() };
    let in_force = InForce {
        host,
        around: Arc::new(around),
        stance,
        known: Arc::new(Known { revision: 12, epoch: String::new(), arranged }),
        sets: [(Slot(5), Arc::new(set))].into(),
    };
    let web = Resident {
        attachment: Attachment { container_id: "web-0".parse().unwrap(), ifname: "eth0".parse().unwrap() },
        group: Some(group("web")),
        tag: Some(tag(0x0b06)),
        identity: Identity::default(),
        host_ifname: "weft0123".to_owned(),
    };
    Arc::new(Directory {
        subnet: ipnetwork::Ipv4Network::new(Ipv4Addr::new(10, 255, 1, 0), 24).unwrap().try_into().ok(),
        endpoints: [(Slot(5), web)].into(),
        groups: tags.into_iter().map(|(group, tag)| (tag, group)).collect(),
        enforced: 12,
        in_force: Some(Arc::new(in_force)),
        ..Directory::default()
    })
}

/// What the programs say of a TCP packet from `app` to port 80 of `web`: refused by policy, no rule.
fn event() -> DenialEvent {
    let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
    DenialEvent {
        at_ns: 1,
        ifindex: 0x0100_0005,
        slot: 5,
        incarnation: 1,
        rule: 0,
        suppressed: 0,
        mark: u32::from(APP_TAG) << 16,
        source: mapped(APP),
        destination: mapped(WEB),
        source_port: 40000_u16.to_be(),
        destination_port: 80_u16.to_be(),
        source_tag: APP_TAG,
        length: 60,
        reason: Reason::Policy as u8,
        direction: direction::INGRESS,
        proto: 6,
        action: action::REJECT,
        tcp_flags_or_icmp_type: 2,
        icmp_code: 0,
        reserved: [0; 2],
    }
}

fn to_port(port: u16) -> DenialEvent {
    DenialEvent { destination_port: port.to_be(), ..event() }
}

fn out(remote: Ipv4Addr, ports: (u16, u16)) -> DenialEvent {
    DenialEvent {
        source: WEB.to_ipv6_mapped().octets(),
        destination: remote.to_ipv6_mapped().octets(),
        source_port: ports.0.to_be(),
        destination_port: ports.1.to_be(),
        source_tag: 0x0b06,
        direction: direction::EGRESS,
        ..event()
    }
}

/// Of the policies as they are.
fn decision(event: &DenialEvent) -> Option<Decision> {
    Decisions::new().of(event, &directory(|_| {}), Instant::now())
}

fn text(event: &DenialEvent) -> String {
    decision(event).unwrap().text
}

#[test]
fn the_absence_of_a_rule_and_what_closes_the_workload() {
    let absent = decision(&to_port(81)).unwrap();
    assert_eq!(absent.text, "no rule allows app → web tcp 81: the workload is isolated (isolation always)");
    assert_eq!((absent.because.as_str(), absent.isolation, absent.revision), ("isolated", Some(Isolation::Always), 12));
    assert_eq!((absent.origin, absent.tier, absent.priority), (None, None, None));
    // Audited packets are those that would have been denied; who bears no tag is shown by its address.
    let audited = DenialEvent { action: action::AUDIT, reason: Reason::Audited as u8, ..to_port(81) };
    assert_eq!(text(&audited), absent.text);
    let outside = DenialEvent { source: OUTSIDE.to_ipv6_mapped().octets(), source_tag: 0, mark: 0, ..event() };
    assert!(text(&outside).starts_with("no rule allows 198.51.100.7 → web tcp 80: "), "{}", text(&outside));
}

#[test]
fn the_rule_that_allows_and_where_it_comes_from() {
    let allow = |event| DenialEvent { action: action::ALLOW, reason: Reason::Passed as u8, ..event };
    let allowed = decision(&allow(DenialEvent { rule: 2, ..event() })).unwrap();
    assert_eq!(allowed.text, "rule 2 allows (tier policy, priority 1000000): policy app → web tcp 80");
    assert_eq!(allowed.origin.as_deref(), Some("policy app → web tcp 80"));
    assert_eq!(
        (allowed.because.as_str(), allowed.tier.as_deref(), allowed.priority),
        ("rule", Some("policy"), Some(1_000_000))
    );
    let service = DenialEvent { rule: 1, proto: 17, ..out(GATEWAY, (40000, 53)) };
    assert!(text(&allow(service)).ends_with(": host_services: udp 53"));
    // Where none is needed, that is said.
    assert_eq!(text(&allow(out(OUTSIDE, (40000, 443)))), "no rule says no, and none is needed");
    let by_host = DenialEvent { source: GATEWAY.to_ipv6_mapped().octets(), source_tag: 0, mark: 0, ..event() };
    assert_eq!(text(&allow(by_host)), "a host always reaches its workloads");
    let client =
        DenialEvent { source: OUTSIDE.to_ipv6_mapped().octets(), source_tag: 0, mark: mapped_mark(16), ..event() };
    assert_eq!(text(&allow(client)), "a port of the host is mapped to it");
}

#[test]
fn the_rule_that_denies() {
    let deny = Rule {
        direction: Direction::Ingress,
        peer: Peer::Any,
        traffic: Traffic::All,
        precedence: Precedence { tier: Tier::Admin, priority: 9 },
        verdict: Verdict::Deny,
        id: 7,
    };
    let directory = directory(|set| set.rules.push(deny));
    let denied = Decisions::new().of(&DenialEvent { rule: 7, ..event() }, &directory, Instant::now()).unwrap();
    assert!(denied.text.starts_with("rule 7 denies (tier admin, priority 9): "), "{}", denied.text);
    assert_eq!((denied.tier.as_deref(), denied.priority), (Some("admin"), Some(9)));
}

#[test]
fn the_own_host_beyond_its_services() {
    let refused = DenialEvent { reason: Reason::HostAccess as u8, ..out(GATEWAY, (40000, 9000)) };
    let decision = decision(&refused).unwrap();
    assert_eq!(decision.because, "host-access");
    assert!(decision.text.starts_with("no rule allows web → 10.255.1.1 tcp 9000: "), "{}", decision.text);
}

/// Whoever's packet comes first: the flow is judged as its opener asked for it.
#[test]
fn a_revoked_flow_is_explained_from_its_openers_side() {
    let revoked = DenialEvent { reason: Reason::Revoked as u8, ..out(APP, (81, 40000)) };
    assert!(text(&revoked).starts_with("no rule allows 10.255.2.9 → web tcp 81: "), "{}", text(&revoked));
}

#[test]
fn what_the_programs_did_not_say_is_not_given() {
    // The policy that allows it came after the packet.
    let before = decision(&event()).unwrap();
    assert_eq!(before.because, "unknown");
    assert!(
        before.text.starts_with("no rule allowed it, by policies that are not in force any more"),
        "{}",
        before.text
    );
    let other_rule = text(&DenialEvent { rule: 3, action: action::ALLOW, reason: Reason::Passed as u8, ..event() });
    assert!(other_rule.starts_with("rule 3 decided, by policies "), "{other_rule}");
    // No rule is asked who lies about who it is.
    assert_eq!(decision(&DenialEvent { reason: Reason::SpoofedIp as u8, ..event() }), None);
}

#[test]
fn policies_that_change_change_the_answer() {
    let mut decisions = Decisions::new();
    let now = Instant::now();
    let closed = decisions.of(&to_port(81), &directory(|_| {}), now).unwrap();
    let open = decisions.of(&to_port(81), &directory(|set| set.isolated = false), now).unwrap();
    assert_eq!((closed.because.as_str(), open.because.as_str()), ("isolated", "unknown"));
}

#[test]
fn a_flood_asks_once_and_a_scan_no_more_than_there_is_time_for() {
    const RULES: usize = 1000;
    let directory = directory(|set| {
        let allow = set.rules[1];
        set.rules.extend((0..RULES).map(|_| allow));
    });
    let (mut decisions, start) = (Decisions::new(), Instant::now());
    for port in 0..100_000_u32 {
        let source_port = u16::try_from(port % 60_000).unwrap();
        assert!(decisions.of(&DenialEvent { source_port, ..to_port(81) }, &directory, start).is_some());
    }
    assert_eq!(decisions.looked_at, ANSWER + 1 + 2 + RULES, "each packet of a flood is asked about");
    let mut scan = |now| (1000..60_000).filter(|port| decisions.of(&to_port(*port), &directory, now).is_some()).count();
    let told = scan(start);
    assert!((900..910).contains(&told), "{told} of different packets");
    assert!(scan(start + Duration::from_secs(1)) > told, "the next second has its own");
    assert!(decisions.kept.len() <= KEPT);
}
