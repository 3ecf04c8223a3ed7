//! What a host logs of denied and allowed connections, and how that is changed while it runs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use weft_model::id::GroupId;

/// What is logged, and what only is (audit).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logging {
    /// Denied packets of every workload pass and are logged.
    pub audit: bool,
    /// The same, for workloads of these groups.
    pub audit_groups: BTreeSet<GroupId>,
    /// The first packet of every allowed connection is logged.
    pub allowed: bool,
    /// Lines go to the kernel log too.
    pub kernel_log: bool,
    /// Lines a second in the kernel log, 1 to 1000.
    pub kernel_lines_per_second: u32,
    /// Denial records a second of one pair of addresses; 0: no limit.
    pub denials_per_second: u32,
    /// Denial records such a pair may have at once, from 1.
    pub denials_burst: u32,
    /// Records of allowed connections a second of one pair of addresses; 0: no limit.
    pub allowed_per_second: u32,
    /// Records of allowed connections such a pair may have at once, from 1.
    pub allowed_burst: u32,
    /// Records of any kind a second of one workload, and ten times as many at once; 0: no limit.
    pub workload_records_per_second: u32,
}

/// The largest rate or burst.
pub const MAX_RATE: u32 = 1_000_000;

impl Default for Logging {
    fn default() -> Self {
        Self {
            audit: false,
            audit_groups: BTreeSet::new(),
            allowed: false,
            kernel_log: false,
            kernel_lines_per_second: 10,
            denials_per_second: 1,
            denials_burst: 5,
            allowed_per_second: 100,
            allowed_burst: 100,
            workload_records_per_second: 50,
        }
    }
}

impl Logging {
    /// Whether what is denied to a workload of `group` passes.
    #[must_use]
    pub fn audits(&self, group: Option<&GroupId>) -> bool {
        self.audit || group.is_some_and(|group| self.audit_groups.contains(group))
    }

    /// What is wrong with it: field, value and what is allowed, a line each.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let ranges = [
            ("kernel_lines_per_second", self.kernel_lines_per_second, 1, 1000),
            ("denials_per_second", self.denials_per_second, 0, MAX_RATE),
            ("denials_burst", self.denials_burst, 1, MAX_RATE),
            ("allowed_per_second", self.allowed_per_second, 0, MAX_RATE),
            ("allowed_burst", self.allowed_burst, 1, MAX_RATE),
            ("workload_records_per_second", self.workload_records_per_second, 0, MAX_RATE),
        ];
        let wrong = ranges.iter().filter(|(_, value, low, high)| value < low || value > high);
        wrong
            .map(|(field, value, low, high)| {
                format!("{field}: invalid value \"{value}\": a number from {low} to {high}")
            })
            .collect()
    }

    /// This with the change laid over it.
    #[must_use]
    pub fn with(&self, change: &LoggingChange) -> Self {
        let change = change.clone();
        Self {
            audit: change.audit.unwrap_or(self.audit),
            audit_groups: change.audit_groups.unwrap_or_else(|| self.audit_groups.clone()),
            allowed: change.allowed.unwrap_or(self.allowed),
            kernel_log: change.kernel_log.unwrap_or(self.kernel_log),
            kernel_lines_per_second: change.kernel_lines_per_second.unwrap_or(self.kernel_lines_per_second),
            denials_per_second: change.denials_per_second.unwrap_or(self.denials_per_second),
            denials_burst: change.denials_burst.unwrap_or(self.denials_burst),
            allowed_per_second: change.allowed_per_second.unwrap_or(self.allowed_per_second),
            allowed_burst: change.allowed_burst.unwrap_or(self.allowed_burst),
            workload_records_per_second: change.workload_records_per_second.unwrap_or(self.workload_records_per_second),
        }
    }
}

/// What is to be different: the body of `PUT /v1/logging`. Absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoggingChange {
    /// As [`Logging::audit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<bool>,
    /// As [`Logging::audit_groups`]: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_groups: Option<BTreeSet<GroupId>>,
    /// As [`Logging::allowed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// As [`Logging::kernel_log`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_log: Option<bool>,
    /// As [`Logging::kernel_lines_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_lines_per_second: Option<u32>,
    /// As [`Logging::denials_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denials_per_second: Option<u32>,
    /// As [`Logging::denials_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denials_burst: Option<u32>,
    /// As [`Logging::allowed_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_per_second: Option<u32>,
    /// As [`Logging::allowed_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_burst: Option<u32>,
    /// As [`Logging::workload_records_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_records_per_second: Option<u32>,
}

impl LoggingChange {
    /// This change and then `later`, as one.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            audit: later.audit.or(self.audit),
            audit_groups: later.audit_groups.or(self.audit_groups),
            allowed: later.allowed.or(self.allowed),
            kernel_log: later.kernel_log.or(self.kernel_log),
            kernel_lines_per_second: later.kernel_lines_per_second.or(self.kernel_lines_per_second),
            denials_per_second: later.denials_per_second.or(self.denials_per_second),
            denials_burst: later.denials_burst.or(self.denials_burst),
            allowed_per_second: later.allowed_per_second.or(self.allowed_per_second),
            allowed_burst: later.allowed_burst.or(self.allowed_burst),
            workload_records_per_second: later.workload_records_per_second.or(self.workload_records_per_second),
        }
    }
}

/// The answer of `/v1/logging`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggingView {
    /// What is in force.
    pub in_force: Logging,
    /// What differs from the configuration: until it is taken back, or the host starts anew.
    pub changed: LoggingChange,
    /// The file records go to.
    pub file: String,
    /// What became of records since the agent's start.
    pub counts: LogCounts,
}

/// What became of records since the agent's start. What the programs left out or lost before that is
/// in the packet counters `record-limited` and `record-lost`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogCounts {
    /// Read from the programs.
    pub read: u64,
    /// Left out because their workload had its share.
    pub over_share: u64,
    /// Lost because the file could not keep up.
    pub queue_full: u64,
    /// Written to the file.
    pub written: u64,
    /// Not written because the file could not be (disk full).
    pub not_written: u64,
    /// Lines in the kernel log.
    pub kernel_lines: u64,
    /// Lines left out of the kernel log: its rate, or it could not be written.
    pub kernel_left_out: u64,
    /// Missed by `weft denials -f` readers that were too slow.
    pub missed_by_readers: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_lies_over_what_is_there_and_later_ones_over_earlier_ones() {
        let first = LoggingChange { audit: Some(true), denials_burst: Some(7), ..LoggingChange::default() };
        let second = LoggingChange { audit: Some(false), allowed: Some(true), ..LoggingChange::default() };
        let both = Logging::default().with(&first.clone().then(second.clone()));
        assert_eq!(both, Logging::default().with(&first).with(&second));
        assert_eq!((both.audit, both.allowed, both.denials_burst), (false, true, 7));
        assert_eq!(Logging::default().with(&LoggingChange::default()), Logging::default());
    }

    #[test]
    fn every_field_can_be_changed() {
        let group: GroupId = "app".parse().unwrap();
        let other = Logging {
            audit: true,
            audit_groups: BTreeSet::from([group.clone()]),
            allowed: true,
            kernel_log: true,
            kernel_lines_per_second: 11,
            denials_per_second: 2,
            denials_burst: 3,
            allowed_per_second: 4,
            allowed_burst: 5,
            workload_records_per_second: 6,
        };
        let change: LoggingChange = serde_json::from_value(serde_json::to_value(&other).unwrap()).unwrap();
        assert_eq!(Logging::default().with(&LoggingChange::default().then(change)), other);
        let grouped = Logging { audit: false, ..other };
        assert!(grouped.audits(Some(&group)) && !grouped.audits(None));
        assert!(!grouped.audits(Some(&"another".parse().unwrap())));
    }

    #[test]
    fn what_cannot_be_is_named_with_what_is_allowed() {
        let wrong = Logging { denials_burst: 0, kernel_lines_per_second: 2000, ..Logging::default() };
        assert_eq!(
            wrong.errors(),
            [
                "kernel_lines_per_second: invalid value \"2000\": a number from 1 to 1000",
                "denials_burst: invalid value \"0\": a number from 1 to 1000000"
            ]
        );
        assert_eq!(Logging::default().errors(), Vec::<String>::new());
        assert!(serde_json::from_str::<LoggingChange>(r#"{"audits":true}"#).is_err());
    }
}
