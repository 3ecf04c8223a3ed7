//! Versions of the CNI specification.

use crate::error::{CniError, Code};

/// A supported version of configs and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V030,
    /// 0.3.1
    V031,
    /// 0.4.0: CHECK, and prevResult on DEL.
    V040,
    /// 1.0.0: `ips[].version` is gone.
    V100,
    /// 1.1.0: GC, STATUS, MTU in results.
    V110,
}

impl Version {
    /// All of them, ascending.
    pub const ALL: [Self; 5] = [Self::V030, Self::V031, Self::V040, Self::V100, Self::V110];

    /// The newest.
    pub const NEWEST: Self = Self::V110;

    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// Reads a config's `cniVersion`; an empty or absent one means 0.1.0, as in the Go library.
    ///
    /// # Errors
    /// Code 1 with the reference's words.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let supported: Vec<String> = Self::ALL.iter().map(|version| format!("{:?}", version.as_str())).collect();
            CniError::new(Code::IncompatibleVersion, "incompatible CNI versions")
                .details(format!("config is {text:?}, plugin supports [{}]", supported.join(" ")))
        })
    }
}

/// The answer to VERSION, on one line. `cniVersion` is the newest we know, not the caller's: so does
/// the Go library, and CRI-O compares the list exactly.
#[must_use]
pub fn document() -> String {
    let supported: Vec<&str> = Version::ALL.iter().map(|version| version.as_str()).collect();
    format!(
        "{{\"cniVersion\":\"{}\",\"supportedVersions\":{}}}\n",
        Version::NEWEST.as_str(),
        serde_json::json!(supported)
    )
}
