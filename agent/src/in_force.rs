//! What the programs judge by, published by the worker with the directory, so that other threads can say why a
//! packet passed or did not.

use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::compile::{Origin, Policies, Stance, origin};
use weft_model::datapath::{Host, Surroundings};
use weft_model::id::{GroupId, Slot};
use weft_model::policy::{PolicySet, Rule};

/// Policies as the store showed them last.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) revision: i64,
    pub(crate) epoch: String,
    pub(crate) arranged: Policies,
}

/// What the programs judge this host's workloads by.
#[derive(Debug)]
pub struct InForce {
    /// What they know of the host.
    pub(crate) host: Host,
    /// Whom they know besides.
    pub(crate) around: Arc<Surroundings>,
    /// What is the same for all workloads.
    pub(crate) stance: Stance,
    /// The newest policies; those of a set that is in force may be older.
    pub(crate) known: Arc<Known>,
    /// Each workload's policy set, unless an earlier agent wrote it.
    pub(crate) sets: BTreeMap<Slot, Arc<PolicySet>>,
}

/// Where a rule of the set that the group's workloads are judged by comes from, in words.
pub(crate) fn origin_in_words(group: Option<&GroupId>, stance: &Stance, policies: &Policies, rule: &Rule) -> String {
    match origin(group, stance, policies, rule) {
        Some(Origin::Policy(policy)) => format!("policy {} → {} {}", policy.source, policy.destination, rule.traffic),
        Some(Origin::HostService(..)) => format!("host_services: {}", rule.traffic),
        None => format!("a rule of an older revision: {:?}, {}", rule.peer, rule.traffic),
    }
}
