//! What a doctor found.

use super::plain;
use crate::doctor::{Finding, Level};
use std::fmt::Write;

/// A line each.
#[must_use]
pub fn doctor(findings: &[Finding]) -> String {
    let mut page = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Wrong => "WRONG",
        };
        // Writing to a String cannot fail.
        writeln!(page, "{level:<7}{}", plain(&finding.text)).unwrap_or_default();
    }
    page
}
