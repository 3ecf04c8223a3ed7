//! From policies to the rules and look-up tables of the policy sets a host needs.

use crate::id::{GroupId, Tag};
use crate::policy::{Direction, Peer, Policy, PolicySet, PortRange, Precedence, Protocol, Rule, Traffic, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Precedence of rules made from allow policies (CF's API).
pub const ALLOW_PRECEDENCE: Precedence = Precedence::policy(1_000_000);

/// All policies and tags, arranged for the question a host asks: who may reach this group?
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    by_destination: BTreeMap<GroupId, BTreeSet<Policy>>,
    tags: BTreeMap<GroupId, Tag>,
}

impl Policies {
    /// Arranges them.
    pub fn new<'a>(policies: impl IntoIterator<Item = &'a Policy>, tags: BTreeMap<GroupId, Tag>) -> Self {
        let mut by_destination: BTreeMap<GroupId, BTreeSet<Policy>> = BTreeMap::new();
        for policy in policies {
            by_destination.entry(policy.destination.clone()).or_default().insert(policy.clone());
        }
        Self { by_destination, tags }
    }

    /// All tags.
    #[must_use]
    pub fn tags(&self) -> &BTreeMap<GroupId, Tag> {
        &self.tags
    }

    fn towards<'a>(&'a self, group: Option<&GroupId>) -> impl Iterator<Item = &'a Policy> + use<'a> {
        group.and_then(|group| self.by_destination.get(group)).into_iter().flatten()
    }

    /// The tags that identify a group's workloads: the only place that knows it is one.
    pub fn tags_of(&self, group: &GroupId) -> impl Iterator<Item = Tag> + use<> {
        self.tags.get(group).copied().into_iter()
    }

    /// Whether some policy names `group`.
    #[must_use]
    pub fn names(&self, group: &GroupId) -> bool {
        self.is_destination(group) || self.by_destination.values().flatten().any(|policy| policy.source == *group)
    }

    /// Whether some policy names `group` as destination.
    #[must_use]
    pub fn is_destination(&self, group: &GroupId) -> bool {
        self.by_destination.contains_key(group)
    }
}

/// What a group's workloads on this host are, besides what policies say of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stance {
    /// Against whom they protect themselves.
    pub isolation: crate::policy::Isolation,
    /// Whether other weft hosts' own addresses may always reach them.
    pub hosts_may_reach: bool,
    /// Host services they may open connections to; `None`: all.
    pub host_services: Option<BTreeSet<(Protocol, u16)>>,
}

/// Where a rule of a policy set comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The host's configuration lists this service.
    HostService(Protocol, u16),
    /// An operator's policy.
    Policy(Policy),
}

/// The policy set of `group`'s workloads (`None`: workloads without identity, which nobody but
/// their own host reaches).
#[must_use]
pub fn policy_set(group: Option<&GroupId>, stance: &Stance, policies: &Policies) -> PolicySet {
    let rules = (1..).zip(sources(group, stance, policies)).map(|(id, source)| rule(id, &source));
    let is_destination = group.is_some_and(|group| policies.is_destination(group));
    PolicySet {
        isolated: group.is_none() || crate::policy::isolated(stance.isolation, is_destination),
        hosts_may_reach: group.is_some() && stance.hosts_may_reach,
        host_listed_only: stance.host_services.is_some(),
        rules: rules.collect(),
    }
}

fn rule(id: u32, (direction, peer, traffic, _): &Sourced<'_>) -> Rule {
    let (precedence, verdict) = (ALLOW_PRECEDENCE, Verdict::Allow);
    Rule { direction: *direction, peer: *peer, traffic: *traffic, precedence, verdict, id }
}

/// Where a rule comes from; `None`: [`policy_set`] makes no such rule of the same.
#[must_use]
pub fn origin(group: Option<&GroupId>, stance: &Stance, policies: &Policies, of: &Rule) -> Option<Origin> {
    let index = usize::try_from(of.id.checked_sub(1)?).ok()?;
    let sourced = sources(group, stance, policies).nth(index).filter(|sourced| rule(of.id, sourced) == *of)?;
    Some(match sourced.3 {
        Source::HostService(protocol, port) => Origin::HostService(protocol, port),
        Source::Policy(policy) => Origin::Policy(policy.clone()),
    })
}

/// As [`Origin`], borrowed.
enum Source<'a> {
    HostService(Protocol, u16),
    Policy(&'a Policy),
}

type Sourced<'a> = (Direction, Peer, Traffic, Source<'a>);

/// What is allowed, in the order of the rules' numbers.
fn sources<'a>(
    group: Option<&'a GroupId>,
    stance: &'a Stance,
    policies: &'a Policies,
) -> impl Iterator<Item = Sourced<'a>> {
    let services = stance.host_services.iter().flatten().filter_map(|(protocol, port)| {
        let traffic = Traffic::Ports((*protocol).into(), PortRange::new(*port, *port)?);
        Some((Direction::Egress, Peer::Host, traffic, Source::HostService(*protocol, *port)))
    });
    let granted = policies.towards(group).flat_map(|policy| {
        let traffic = Traffic::Ports(policy.protocol.into(), policy.ports);
        let tags = policies.tags_of(&policy.source);
        tags.map(move |tag| (Direction::Ingress, Peer::Tag(tag), traffic, Source::Policy(policy)))
    });
    services.chain(granted)
}

/// A block of ports that share their leading bits: `prefix_len` of the 16 bits of `port` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    /// First port of the block.
    pub port: u16,
    /// How many leading bits are fixed, 0 to 16.
    pub prefix_len: u8,
}

/// The fewest port prefixes that cover exactly `ports`.
#[must_use]
pub fn port_prefixes(ports: RangeInclusive<u16>) -> Vec<PortPrefix> {
    let mut prefixes = Vec::new();
    let (mut start, end) = (u32::from(*ports.start()), u32::from(*ports.end()));
    while start <= end {
        let aligned = if start == 0 { 16 } else { start.trailing_zeros().min(16) };
        let fits = (end - start + 1).ilog2();
        let bits = aligned.min(fits);
        prefixes.push(PortPrefix {
            port: u16::try_from(start).unwrap_or(u16::MAX),
            prefix_len: 16 - u8::try_from(bits).unwrap_or(16),
        });
        start += 1 << bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Isolation, Remote, evaluate};
    use proptest::prelude::*;

    fn group(name: &str) -> GroupId {
        GroupId::new(name).unwrap()
    }

    fn stance(isolation: Isolation) -> Stance {
        Stance { isolation, hosts_may_reach: false, host_services: None }
    }

    fn web_policies() -> Policies {
        let policy = Policy {
            source: group("app"),
            destination: group("web"),
            protocol: Protocol::Tcp,
            ports: PortRange::new(80, 80).unwrap(),
        };
        let tags = BTreeMap::from([(group("app"), Tag::new(1).unwrap()), (group("web"), Tag::new(2).unwrap())]);
        Policies::new([&policy], tags)
    }

    #[test]
    fn selected_is_isolated_only_when_named_as_destination() {
        let policies = web_policies();
        assert!(policy_set(Some(&group("web")), &stance(Isolation::Selected), &policies).isolated);
        assert!(!policy_set(Some(&group("app")), &stance(Isolation::Selected), &policies).isolated);
        assert!(policy_set(Some(&group("app")), &stance(Isolation::Always), &policies).isolated);
        assert!(!policy_set(Some(&group("web")), &stance(Isolation::Never), &policies).isolated);
    }

    #[test]
    fn a_workload_without_identity_is_isolated_whatever_the_mode() {
        let set = policy_set(None, &stance(Isolation::Never), &web_policies());
        assert!(set.isolated && set.rules.is_empty() && !set.hosts_may_reach);
    }

    #[test]
    fn every_rule_has_its_origin() {
        let policies = web_policies();
        let services = Some(BTreeSet::from([(Protocol::Udp, 53)]));
        let stance = Stance { host_services: services, ..stance(Isolation::Always) };
        let web = group("web");
        let rules = policy_set(Some(&web), &stance, &policies).rules;
        let origins: Vec<_> = rules.iter().map(|rule| origin(Some(&web), &stance, &policies, rule).unwrap()).collect();
        let [Origin::HostService(Protocol::Udp, 53), Origin::Policy(policy)] = &origins[..] else {
            panic!("{origins:?}")
        };
        assert_eq!((policy.source.as_str(), policy.ports.start()), ("app", 80));
        // Rules of other sets, and none at all.
        for other in [Rule { id: 1, ..rules[1] }, Rule { id: 3, ..rules[1] }, Rule { id: 0, ..rules[1] }] {
            assert_eq!(origin(Some(&web), &stance, &policies, &other), None);
        }
        assert!(policies.names(&group("app")) && !policies.names(&group("nobody")));
    }

    #[test]
    fn a_policy_without_a_tag_for_its_source_allows_nobody() {
        let mut policies = web_policies();
        policies.tags.clear();
        let set = policy_set(Some(&group("web")), &stance(Isolation::Always), &policies);
        assert_eq!(set.rules, []);
        let remote = Remote::Tagged(Tag::new(1).unwrap());
        assert!(!evaluate(&set, Direction::Ingress, remote, 6, 80).allowed);
    }

    proptest! {
        #[test]
        fn prefixes_cover_exactly_the_range(a: u16, b: u16) {
            let range = a.min(b)..=a.max(b);
            let prefixes = port_prefixes(range.clone());
            prop_assert!(prefixes.len() <= 30);
            for port in [0, a, b, a.saturating_sub(1), b.saturating_add(1), a.midpoint(b), 65535] {
                let hits = prefixes.iter().filter(|p| {
                    let shift = 16 - u32::from(p.prefix_len);
                    (u32::from(port) >> shift) == (u32::from(p.port) >> shift)
                }).count();
                prop_assert_eq!(hits, usize::from(range.contains(&port)));
            }
        }
    }
}
