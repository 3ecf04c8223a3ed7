//! Our own section of the config: `"weft": {"socket": …, "timeoutSeconds": …}`.

use crate::config::{Config, invalid, shown};
use crate::error::{CniError, Code};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_api::agent::DEFAULT_SOCKET;

/// How to reach the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its socket.
    pub socket: PathBuf,
    /// How long to wait for it, restarts included.
    pub timeout: Duration,
}

impl Default for Section {
    /// `/run/weft/agent.sock`, 10 s.
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_SOCKET), timeout: Duration::from_secs(10) }
    }
}

impl Section {
    /// Reads it. Unknown keys are refused: a misspelt setting must not go unnoticed.
    ///
    /// # Errors
    /// Code 2 for an unknown key, 7 for a bad value.
    pub fn of(config: &Config) -> Result<Self, CniError> {
        let mut section = Self::default();
        for (key, value) in config.object("weft")?.into_iter().flatten() {
            match key.as_str() {
                "socket" => section.socket = socket(value)?,
                "timeoutSeconds" => section.timeout = timeout(value)?,
                _ => {
                    let msg = format!(
                        "unsupported field weft.{key} = {}: socket and timeoutSeconds are allowed",
                        shown(value)
                    );
                    return Err(CniError::new(Code::UnsupportedField, msg));
                }
            }
        }
        Ok(section)
    }
}

fn socket(value: &Value) -> Result<PathBuf, CniError> {
    // sun_path has 108 bytes, the last is NUL.
    let fits = |text: &&str| Path::new(text).is_absolute() && text.len() <= 107 && !text.contains('\0');
    value
        .as_str()
        .filter(fits)
        .map(PathBuf::from)
        .ok_or_else(|| invalid("weft.socket", value, "an absolute path of at most 107 bytes"))
}

fn timeout(value: &Value) -> Result<Duration, CniError> {
    value
        .as_u64()
        .filter(|seconds| (1..=120).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| invalid("weft.timeoutSeconds", value, "a whole number from 1 to 120"))
}
