//! Which rule decided about a packet, or why there is none.
//!
//! The programs tell the rule's number. What it is, the reference semantics say, of the policy set in force, as for
//! `weft explain`. An answer that is not what the programs said is not given: policies have changed since.

use crate::directory::{Directory, Resident};
use crate::in_force::{InForce, origin_in_words};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_api::denial::Decision;
use weft_api::explain::{Service, in_words};
use weft_datapath::{DenialEvent, Reason, action, direction};
use weft_model::explain::{Party, party, target};
use weft_model::id::{Slot, Tag};
use weft_model::policy::{Direction, ICMP, PolicySet, Remote, Rule, Ruling, Verdict, Why, evaluate, icmp_port};
use weft_model::ports::mapped_mark;

/// Answers that are kept. A flood asks the same all the time.
const KEPT: usize = 4_096;
/// Rules that are looked at in a second: what asks something else all the time, of workloads with very many rules,
/// does not keep the reader from the ring buffer.
const RULES_A_SECOND: usize = 1_000_000;
/// What an answer costs besides, in rules.
const ANSWER: usize = 100;

/// What is asked about a packet, and what the programs said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    slot: Slot,
    /// In which it is judged.
    direction: Direction,
    /// The other side's address.
    remote: Ipv4Addr,
    /// Its tag, where it shows one; 0: none.
    tag: u16,
    /// It came through a mapped port.
    mapped: bool,
    proto: u8,
    port: u16,
    allowed: bool,
    rule: u32,
}

/// Answers, and how much may be asked yet.
pub(super) struct Decisions {
    /// What they are of.
    of: Arc<Directory>,
    /// `None`: not what the programs said.
    kept: HashMap<Question, Option<Decision>>,
    window: Instant,
    looked_at: usize,
}

impl Decisions {
    pub(super) fn new() -> Self {
        Self { of: Arc::default(), kept: HashMap::new(), window: Instant::now(), looked_at: 0 }
    }

    /// What decided about the packet; `None`: no rule was asked, or too many are.
    pub(super) fn of(&mut self, event: &DenialEvent, directory: &Arc<Directory>, now: Instant) -> Option<Decision> {
        if !asks_rules(event) {
            return None;
        }
        let in_force = directory.in_force.as_deref()?;
        if !Arc::ptr_eq(&self.of, directory) {
            self.kept.clear();
            self.of = directory.clone();
        }
        if now.saturating_duration_since(self.window) >= Duration::from_secs(1) {
            (self.window, self.looked_at) = (now, 0);
        }
        let question = Question::about(event, in_force)?;
        if let Some(decision) = self.ask(question, in_force)? {
            return Some(decision);
        }
        // A flow that was revoked is judged as its opener asked for it, whoever sent the packet at hand.
        if !question.allowed
            && let Some(decision) = self.ask(question.reversed(event, directory), in_force)?
        {
            return Some(decision);
        }
        Some(unknown(event, directory))
    }

    /// `None`: too many rules were looked at; `Some(None)`: the programs said something else.
    fn ask(&mut self, question: Question, in_force: &InForce) -> Option<Option<Decision>> {
        if let Some(kept) = self.kept.get(&question) {
            return Some(kept.clone());
        }
        if self.looked_at >= RULES_A_SECOND {
            return None;
        }
        let set = in_force.sets.get(&question.slot);
        self.looked_at += ANSWER + in_force.around.peers.len() + set.map_or(0, |set| set.rules.len());
        let decision = set.and_then(|set| decide(&question, set, in_force, &self.of));
        if self.kept.len() == KEPT {
            self.kept.clear();
        }
        self.kept.insert(question, decision.clone());
        Some(decision)
    }
}

/// Whether rules decided, or their absence.
fn asks_rules(event: &DenialEvent) -> bool {
    let allowed = event.action == action::ALLOW;
    allowed
        || matches!(
            Reason::from_code(event.reason),
            Some(Reason::Policy | Reason::MidStream | Reason::HostAccess | Reason::Revoked | Reason::Audited)
        )
}

impl Question {
    fn about(event: &DenialEvent, in_force: &InForce) -> Option<Self> {
        let egress = event.direction == direction::EGRESS;
        let remote = super::record::v4(if egress { event.destination } else { event.source });
        let host = &in_force.host;
        let outside = !host.overlay.contains(remote) || remote == host.gateway;
        Some(Self {
            slot: Slot(u16::try_from(event.slot).ok()?),
            direction: if egress { Direction::Egress } else { Direction::Ingress },
            remote,
            tag: if egress { 0 } else { event.source_tag },
            mapped: !egress && outside && event.mark & mapped_mark(host.mark_shift) != 0,
            proto: event.proto,
            port: match event.proto {
                ICMP => icmp_port(event.tcp_flags_or_icmp_type, event.icmp_code),
                _ => u16::from_be(event.destination_port),
            },
            allowed: event.action == action::ALLOW,
            rule: event.rule,
        })
    }

    /// The other side's question, or that of the side this packet answers.
    fn reversed(self, event: &DenialEvent, directory: &Directory) -> Self {
        let (direction, tag) = match self.direction {
            Direction::Ingress => (Direction::Egress, None),
            Direction::Egress => {
                (Direction::Ingress, directory.resident(self.remote).and_then(|resident| resident.tag))
            }
        };
        Self {
            direction,
            tag: tag.map_or(0, Tag::get),
            mapped: false,
            port: match self.proto {
                // Of ICMP only echo requests open flows.
                ICMP => icmp_port(8, 0),
                _ => u16::from_be(event.source_port),
            },
            ..self
        }
    }

    /// Whom the programs may have taken the other side for. Not all that they saw is in the record.
    fn remotes(&self, resident: &Resident, in_force: &InForce, own: Option<Ipv4Addr>) -> Vec<Remote> {
        let by_address = party(self.remote, &in_force.host, &in_force.around);
        let is_own_host = matches!(by_address, Party::OwnHost(_));
        if self.direction == Direction::Egress {
            let mapped = in_force
                .around
                .mapped_ports
                .iter()
                .any(|(protocol, port)| (protocol.number(), *port) == (self.proto, self.port));
            return vec![if is_own_host && mapped { Remote::Mapped } else { target(&by_address) }];
        }
        let tag = Tag::new(self.tag);
        let itself = Some(self.remote) == own || (self.remote == in_force.host.gateway && tag.is_some());
        let seen = match tag {
            _ if self.mapped => Remote::Mapped,
            _ if itself && tag == resident.tag => Remote::Itself,
            Some(tag) => Remote::Tagged(tag),
            // Who came by another way than from the host itself, with its address.
            None if is_own_host && in_force.host.overlay.contains(self.remote) => Remote::Nobody,
            None if is_own_host => Remote::Address(self.remote),
            None => target(&by_address),
        };
        // The host is never denied.
        if self.allowed && is_own_host { vec![Remote::OwnHost, seen] } else { vec![seen] }
    }
}

/// The answer, if it is the programs' too.
fn decide(question: &Question, set: &PolicySet, in_force: &InForce, directory: &Directory) -> Option<Decision> {
    let resident = directory.endpoints.get(&question.slot)?;
    let own = directory.address(question.slot);
    let Question { direction, proto, port, .. } = *question;
    let rulings = question
        .remotes(resident, in_force, own)
        .into_iter()
        .map(|remote| evaluate(set, direction, remote, proto, port));
    let said = |ruling: &Ruling| (ruling.allowed, ruling.rule()) == (question.allowed, question.rule);
    let Ruling { why, .. } = rulings.into_iter().find(said)?;
    let none = Decision {
        text: in_words(why.code()).to_owned(),
        because: why.code().to_owned(),
        origin: None,
        tier: None,
        priority: None,
        isolation: None,
        revision: directory.enforced,
    };
    Some(match why {
        Why::Rule(id) => {
            let rule = set.rules.iter().find(|rule| rule.id == id)?;
            of_rule(
                rule,
                origin_in_words(resident.group.as_ref(), &in_force.stance, &in_force.known.arranged, rule),
                none,
            )
        }
        Why::Isolated => {
            let isolation = resident.group.as_ref().map(|_| in_force.stance.isolation);
            let because = match isolation {
                None => "a workload without identity is closed".to_owned(),
                Some(mode) => format!("the workload is isolated (isolation {mode})"),
            };
            Decision { text: format!("{}: {because}", no_rule(question, resident, directory)), isolation, ..none }
        }
        Why::HostNotListed => {
            let text = format!("{}: {}", no_rule(question, resident, directory), none.text);
            Decision { text, ..none }
        }
        _ => none,
    })
}

fn of_rule(rule: &Rule, origin: String, none: Decision) -> Decision {
    let Rule { id, verdict, precedence, .. } = rule;
    let (tier, priority) = (precedence.tier, precedence.priority);
    let does = if *verdict == Verdict::Deny { "denies" } else { "allows" };
    Decision {
        text: format!("rule {id} {does} (tier {tier}, priority {priority}): {origin}"),
        origin: Some(origin),
        tier: Some(tier.to_string()),
        priority: Some(priority),
        ..none
    }
}

/// `no rule allows app → web tcp 80`
fn no_rule(question: &Question, resident: &Resident, directory: &Directory) -> String {
    let group = Tag::new(question.tag).and_then(|tag| directory.groups.get(&tag));
    let remote = group.map_or_else(|| question.remote.to_string(), ToString::to_string);
    let local = resident.group.as_ref().map_or_else(|| "the workload".to_owned(), ToString::to_string);
    let service = Service { proto: question.proto, port: question.port };
    match question.direction {
        Direction::Ingress => format!("no rule allows {remote} → {local} {service}"),
        Direction::Egress => format!("no rule allows {local} → {remote} {service}"),
    }
}

/// Only what the programs said.
fn unknown(event: &DenialEvent, directory: &Directory) -> Decision {
    let what = match (event.rule, event.action) {
        (0, action::ALLOW) => "no rule was needed".to_owned(),
        (0, _) => "no rule allowed it".to_owned(),
        (rule, _) => format!("rule {rule} decided"),
    };
    Decision {
        text: format!("{what}, by policies that are not in force any more, or that an earlier agent wrote"),
        because: "unknown".to_owned(),
        origin: None,
        tier: None,
        priority: None,
        isolation: None,
        revision: directory.enforced,
    }
}

#[cfg(test)]
mod tests;
