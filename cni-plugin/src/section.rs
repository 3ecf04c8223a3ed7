//! Our own section of the config: `"weft": {"socket": …, "timeoutSeconds": …, "bandwidth": …}`.

use crate::bandwidth;
use crate::config::{Config, invalid, shown};
use crate::error::{CniError, Code};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_api::agent::DEFAULT_SOCKET;
use weft_model::bandwidth::Bandwidth;

/// How to reach the agent, and what holds for every workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its socket.
    pub socket: PathBuf,
    /// How long to wait for it, restarts included.
    pub timeout: Duration,
    /// Limits of every workload; they go before those a runtime asks for, which tenants may have written.
    pub bandwidth: Bandwidth,
}

impl Default for Section {
    /// `/run/weft/agent.sock`, 10 s, no limits.
    fn default() -> Self {
        Self {
            socket: PathBuf::from(DEFAULT_SOCKET),
            timeout: Duration::from_secs(10),
            bandwidth: Bandwidth::default(),
        }
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
                "bandwidth" => section.bandwidth = bandwidth::read_strictly("weft.bandwidth", value)?,
                _ => {
                    let msg = format!(
                        "unsupported field weft.{key} = {}: socket, timeoutSeconds and bandwidth are allowed",
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
