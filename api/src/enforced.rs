//! Whether a revision of the policies is enforced everywhere: `GET /weft/v1/enforced`.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use weft_model::id::NodeId;

/// Header of an answer of the policy server: the revision it speaks of.
pub const REVISION_HEADER: &str = "x-weft-revision";

/// The longest anybody may wait in one request.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedReport {
    /// The revision asked for.
    pub revision: i64,
    /// Whether every host that holds a lease enforces it, or a later one.
    pub enforced: bool,
    /// All weft hosts that hold a lease, by node id.
    pub hosts: Vec<HostEnforced>,
}

/// How far a host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEnforced {
    /// Its id.
    pub node: NodeId,
    /// Its name among people, where its record says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The revision it enforces; 0: it has never said.
    pub revision: i64,
}

impl EnforcedReport {
    /// The hosts that are not there yet.
    pub fn laggards(&self) -> impl Iterator<Item = &HostEnforced> {
        self.hosts.iter().filter(|host| host.revision < self.revision)
    }
}

/// Reads a time such as `10s`, `500ms` or `2m`, at most [`MAX_WAIT`].
///
/// # Errors
/// A sentence with what was given and what is allowed.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: Option<u64> = number.parse().ok();
    let wait = number.and_then(|number| match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    });
    wait.filter(|wait| *wait <= MAX_WAIT)
        .ok_or_else(|| format!("invalid time {text:?}: must be a number and ms, s or m, at most 10m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_people_write() {
        assert_eq!(parse_wait("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_wait("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_wait("10m"), Ok(MAX_WAIT));
        for bad in ["", "10", "s", "-1s", "1.5s", "11m", "1h", "99999999999999999999s", "10 s"] {
            assert!(parse_wait(bad).is_err(), "{bad}");
        }
    }
}
