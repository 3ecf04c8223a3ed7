//! `weft explain`: what this host's programs would do with a connection nobody has opened yet.

use super::{Core, Reply, internal, try_again};
use crate::in_force::{Known, origin_in_words};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_api::agent::{ApiError, ErrorCode};
use weft_api::explain::{DataPlane, ExplainQuery, Explanation, Judgement, PartyView, RuleView, Service, Verdict};
use weft_ipam::{Entry, State};
use weft_model::compile::policy_set;
use weft_model::datapath::{Host, Surroundings};
use weft_model::explain::{Door, Party, closed_door, opener, party, target};
use weft_model::id::{Attachment, GroupId, Slot, Tag};
use weft_model::policy::{Direction, PolicySet, Remote, evaluate};

/// One side, found.
struct Side {
    party: Party,
    view: PartyView,
    group: Option<GroupId>,
    slot: Option<Slot>,
}

/// What an answer is made of.
struct Facts<'a> {
    host: Host,
    around: Surroundings,
    known: &'a Known,
}

fn invalid(message: String) -> ApiError {
    ApiError { code: ErrorCode::Invalid, message, details: None }
}

impl Core {
    /// For `weft explain`.
    pub(super) fn explain(&self, query: &ExplainQuery) -> Reply<Explanation> {
        let service = Service::parse(&query.protocol, query.port.as_deref()).map_err(invalid)?;
        let (Some(host), Some(datapath)) = (self.host(), &self.datapath) else {
            return Err(try_again("this host has no place in the overlay yet"));
        };
        let known = self.policies.as_deref().ok_or_else(|| try_again("no policies were read yet"))?;
        let around = datapath.surroundings().map_err(|error| internal(error.to_string()))?;
        let facts = Facts { host, around, known };
        let source = self.side("source", &query.source, &facts)?;
        let destination = self.side("destination", &query.destination, &facts)?;
        let judgements: Vec<Judgement> = [
            self.leaving(&source, &destination, service, &facts),
            self.arriving(&source, &destination, service, &facts)?,
        ]
        .into_iter()
        .flatten()
        .collect();
        let elsewhere = matches!(destination.party, Party::Elsewhere(_));
        let verdict = match judgements.iter().all(|judgement| judgement.passes) {
            false => Verdict::Denied,
            true if elsewhere => Verdict::Elsewhere,
            true => Verdict::Allowed,
        };
        Ok(Explanation {
            verdict,
            ask: destination.view.host.clone().filter(|_| verdict == Verdict::Elsewhere),
            source: source.view,
            destination: destination.view,
            service: service.to_string(),
            revision: known.revision,
            judgements,
        })
    }

    fn side(&self, field: &str, name: &str, facts: &Facts<'_>) -> Reply<Side> {
        let found = match name.parse::<Ipv4Addr>() {
            Ok(address) => self.resident_at(address).or_else(|| Some(self.side_at(name, address, facts))),
            Err(_) => self.resident_named(field, name)?.or_else(|| self.side_of_group(name, facts)),
        };
        let unknown = || {
            invalid(format!(
                "{field}: {name:?} is no address, no container here, and no group that a policy or a workload here names (weft endpoints and weft policies list show those there are)"
            ))
        };
        let mut side = found.ok_or_else(unknown)?;
        name.clone_into(&mut side.view.name);
        Ok(side)
    }

    fn committed_entries(&self) -> impl Iterator<Item = (&Attachment, &Entry)> {
        let entries = self.pool.iter().flat_map(|pool| pool.entries());
        entries.filter(|(_, entry)| entry.state == State::Committed)
    }

    fn resident_at(&self, address: Ipv4Addr) -> Option<Side> {
        let pool = self.pool.as_ref()?;
        let (attachment, entry) =
            self.committed_entries().find(|(_, entry)| pool.address(entry.slot) == Some(address))?;
        self.resident(attachment, entry)
    }

    /// By container id, or so much of its beginning that it is the only one.
    fn resident_named(&self, field: &str, name: &str) -> Reply<Option<Side>> {
        let id = |attachment: &Attachment| attachment.container_id.as_str().to_owned();
        let mut found: Vec<_> = self.committed_entries().filter(|(attachment, _)| id(attachment) == name).collect();
        if found.is_empty() && name.len() >= 4 {
            found = self.committed_entries().filter(|(attachment, _)| id(attachment).starts_with(name)).collect();
        }
        match found[..] {
            [] => Ok(None),
            [(attachment, entry)] => Ok(self.resident(attachment, entry)),
            _ => Err(invalid(format!(
                "{field}: {} containers here begin with {name:?}: give more of the id",
                found.len()
            ))),
        }
    }

    fn resident(&self, attachment: &Attachment, entry: &Entry) -> Option<Side> {
        let address = self.pool.as_ref()?.address(entry.slot)?;
        let tag = self.programmed.endpoints.get(&entry.slot).and_then(|endpoint| endpoint.tag);
        let view = PartyView {
            address: Some(address),
            group: entry.group.clone(),
            tag,
            attachment: Some(attachment.clone()),
            ..view("workload")
        };
        let party = Party::Workload { address, tag };
        Some(Side { party, view, group: entry.group.clone(), slot: Some(entry.slot) })
    }

    /// A group that exists as far as can be known: a typing error must not be taken for one.
    fn side_of_group(&self, name: &str, facts: &Facts<'_>) -> Option<Side> {
        let group = GroupId::new(name).ok()?;
        let policies = &facts.known.arranged;
        let resident = self.committed_entries().find(|(_, entry)| entry.group.as_ref() == Some(&group));
        if resident.is_none() && !policies.names(&group) && !name.starts_with("k8s:") {
            return None;
        }
        let tag: Option<Tag> = policies.tags_of(&group).next();
        let view = PartyView { group: Some(group.clone()), tag, ..view("group") };
        let slot = resident.map(|(_, entry)| entry.slot);
        Some(Side { party: Party::Group(tag), view, group: Some(group), slot })
    }

    fn side_at(&self, name: &str, address: Ipv4Addr, facts: &Facts<'_>) -> Side {
        let party = party(address, &facts.host, &facts.around);
        let kind = match party {
            Party::OwnHost(_) => "this host",
            Party::OtherHost(_) => "other host",
            Party::Elsewhere(_) => "workload elsewhere",
            Party::Vacant(_) => "nobody",
            _ => "outside",
        };
        let peer = self.peers.iter().find(|peer| peer.subnet.offset(address).is_some());
        let host = peer.map(|peer| match &peer.hostname {
            Some(hostname) => format!("{hostname} ({})", peer.public_ip),
            None => peer.public_ip.to_string(),
        });
        let view = PartyView { name: name.to_owned(), address: Some(address), host, ..view(kind) };
        Side { party, view, group: None, slot: None }
    }

    /// The source's programs, if it runs here, or could.
    fn leaving(&self, source: &Side, destination: &Side, service: Service, facts: &Facts<'_>) -> Option<Judgement> {
        if !matches!(source.party, Party::Workload { .. } | Party::Group(_)) {
            return None;
        }
        let udp_port = (service.proto == 17).then_some(service.port);
        match closed_door(&destination.party, udp_port, &facts.host) {
            Some(door) => Some(self.closed(door, source, facts)),
            None => {
                let own = matches!(destination.party, Party::OwnHost(_));
                // Seen from a workload that is not here, this host is another one.
                let remote = if own && source.slot.is_none() { Remote::OtherHost } else { target(&destination.party) };
                Some(self.judged(source, Direction::Egress, remote, service, facts))
            }
        }
    }

    /// The destination's programs, if it runs here, or could.
    fn arriving(
        &self,
        source: &Side,
        destination: &Side,
        service: Service,
        facts: &Facts<'_>,
    ) -> Reply<Option<Judgement>> {
        if !matches!(destination.party, Party::Workload { .. } | Party::Group(_)) {
            return Ok(None);
        }
        let remote = opener(&source.party, &destination.party).ok_or_else(|| {
            let host = source.view.host.as_deref().unwrap_or("another host");
            invalid(format!(
                "source: {} is a workload on {host}, and only that host knows its group: name the group instead (weft endpoints there shows it)",
                source.view.name
            ))
        })?;
        Ok(Some(self.judged(destination, Direction::Ingress, remote, service, facts)))
    }

    fn closed(&self, door: Door, side: &Side, facts: &Facts<'_>) -> Judgement {
        let because = match door {
            Door::Multicast => "multicast",
            Door::LinkLocal => "link-local",
            Door::WorkloadVxlan => "workload-vxlan",
        };
        Judgement {
            host: self.me.hostname.clone(),
            direction: "egress".to_owned(),
            passes: false,
            because: because.to_owned(),
            rule: None,
            audit: false,
            data_plane: side.slot.and_then(|slot| self.data_plane(slot, &self.wanted_set(side, facts), facts)),
        }
    }

    fn wanted_set(&self, side: &Side, facts: &Facts<'_>) -> PolicySet {
        policy_set(side.group.as_ref(), &self.config.stance, &facts.known.arranged)
    }

    /// By the set in force, where it is known; else by the one that should be.
    fn judged(
        &self,
        side: &Side,
        direction: Direction,
        remote: Remote,
        service: Service,
        facts: &Facts<'_>,
    ) -> Judgement {
        let wanted = self.wanted_set(side, facts);
        let endpoint = side.slot.and_then(|slot| self.programmed.endpoints.get(&slot));
        let in_force = endpoint.and_then(|endpoint| self.programmed.sets.get(&endpoint.set)).map(Arc::as_ref);
        let set = in_force.unwrap_or(&wanted);
        let ruling = evaluate(set, direction, remote, service.proto, service.port);
        let audits = || self.logging.audits(side.group.as_ref());
        let audit = !ruling.allowed && endpoint.map_or_else(audits, |endpoint| endpoint.audit);
        let (stance, policies) = (&self.config.stance, &facts.known.arranged);
        let rule = set
            .rules
            .iter()
            .find(|rule| rule.id == ruling.rule())
            .map(|rule| RuleView { id: rule.id, origin: origin_in_words(side.group.as_ref(), stance, policies, rule) });
        Judgement {
            host: self.me.hostname.clone(),
            direction: match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            }
            .to_owned(),
            passes: ruling.allowed || audit,
            because: ruling.why.code().to_owned(),
            rule,
            audit,
            data_plane: side.slot.and_then(|slot| self.data_plane(slot, &wanted, facts)),
        }
    }

    /// Read from the maps themselves, not from what we remember of them.
    fn data_plane(&self, slot: Slot, wanted: &PolicySet, facts: &Facts<'_>) -> Option<DataPlane> {
        let live = self.datapath.as_ref()?.endpoints().remove(&slot)?;
        let set = self.programmed.sets.get(&live.endpoint.set).map(Arc::as_ref);
        let attachment = self.committed_entries().find(|(_, entry)| entry.slot == slot)?.0;
        Some(DataPlane {
            revision: self.enforced,
            current: set == Some(wanted) && self.enforced == facts.known.revision,
            attached: self.guarded.contains(attachment),
            set: live.endpoint.set.0,
            rules: set.map(|set| u32::try_from(set.rules.len()).unwrap_or(u32::MAX)),
            generation: live.generation,
            isolated: live.endpoint.isolated,
        })
    }
}

fn view(kind: &str) -> PartyView {
    PartyView {
        name: String::new(),
        kind: kind.to_owned(),
        address: None,
        group: None,
        tag: None,
        attachment: None,
        host: None,
    }
}
