//! The CNI error object.

use crate::version::Version;
use serde_json::json;

/// CNI error codes (spec 1.1.0 "Error", and those the Go library adds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The config's version is not supported.
    IncompatibleVersion = 1,
    /// A key we do not know where we must.
    UnsupportedField = 2,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading stdin failed.
    Io = 5,
    /// JSON could not be read.
    Decoding = 6,
    /// The config is wrong.
    InvalidConfig = 7,
    /// The network namespace cannot be used.
    InvalidNetns = 8,
    /// It may work later.
    TryAgainLater = 11,
    /// STATUS: an ADD would fail.
    NotAvailable = 50,
    /// STATUS: an ADD would fail, and workloads that run already may be affected.
    LimitedConnectivity = 51,
    /// Anything else.
    Internal = 999,
}

/// What is printed when something fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct CniError {
    /// Which kind.
    pub code: u32,
    /// One line; runtimes show it.
    pub msg: String,
    /// More; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: String::new() }
    }

    /// The same with details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// As printed: indented by four spaces like the Go library's. `cniVersion` is the spec's; the Go
    /// library leaves it out and ignores it.
    #[must_use]
    pub fn to_json(&self, version: Version) -> String {
        let mut object =
            vec![("cniVersion", json!(version.as_str())), ("code", json!(self.code)), ("msg", json!(self.msg))];
        if !self.details.is_empty() {
            object.push(("details", json!(self.details)));
        }
        let lines: Vec<String> = object.iter().map(|(key, value)| format!("    \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}
