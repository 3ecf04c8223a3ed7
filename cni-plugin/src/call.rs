//! A checked call: what every command starts from.

use crate::client::{Agent, Patience};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::section::Section;
use crate::version::Version;
use weft_hostnet::{Executor, Netns, NetnsError};
use weft_model::id::Attachment;

/// Environment and config of a call about one workload.
#[derive(Debug)]
pub struct Call {
    /// The environment.
    pub environment: Environment,
    /// The config.
    pub config: Config,
    /// Its version.
    pub version: Version,
    /// Whom it is about.
    pub attachment: Attachment,
}

impl Section {
    /// The agent, waited for as long as the section says.
    #[must_use]
    pub fn agent(&self) -> Agent {
        Agent { socket: self.socket.clone(), patience: Patience::Wait(self.timeout) }
    }
}

impl Call {
    /// The workload's namespace, which must not be ours: a runtime's race can name the host's, and
    /// whoever trusts that takes the machine's own interfaces away.
    ///
    /// # Errors
    /// Code 8.
    pub fn namespace(&self) -> Result<Netns, CniError> {
        let path = &self.environment.netns;
        let netns = Netns::open(path).map_err(|error| namespace_error(path, &error))?;
        let own = Netns::current().map_err(|error| namespace_error("of this process", &error))?;
        if own.is_same_as(&netns) {
            let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
            return Err(CniError::new(Code::InvalidNetns, msg).details(path));
        }
        Ok(netns)
    }
}

fn namespace_error(path: &str, error: &NetnsError) -> CniError {
    CniError::new(Code::InvalidNetns, format!("failed to open netns {path:?}: {error}"))
}

/// Reads and changes the namespace this process runs in.
///
/// # Errors
/// Code 999.
pub fn host() -> Result<Executor, CniError> {
    Executor::here().map_err(|error| internal("cannot read the host's network", &error))
}

/// Code 999 with what was being done.
pub fn internal(doing: &str, error: &impl std::fmt::Display) -> CniError {
    CniError::new(Code::Internal, format!("{doing}: {error}"))
}
