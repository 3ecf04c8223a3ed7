//! STATUS and GC: commands about the host.

use crate::config::Config;
use crate::error::{CniError, Code};
use crate::process::Answer;
use crate::section::Section;
use weft_api::agent::Ready;

/// Whether an ADD would work now. An agent that restarts is waited for exactly as long as ADD would
/// wait: an error here makes a node NotReady and evicts its pods.
///
/// # Errors
/// Code 50.
pub fn status(config: &Config) -> Result<Answer, CniError> {
    let section = Section::of(config)?;
    match section.agent().get::<Ready>("/v1/ready") {
        Ok(_) => Ok(Answer::default()),
        Err(error) => {
            let CniError { msg, details, .. } = error.into();
            Err(CniError::new(Code::NotAvailable, msg).details(details))
        }
    }
}

/// Nothing to do: the agent collects by itself, by what the kernel shows. The list of valid
/// attachments speaks of one network only, so whatever else lives on the host must not be judged by
/// it; `null` means "none", an absent key a caller that is mistaken.
///
/// # Errors
/// Code 7 without the list.
pub fn gc(config: &Config) -> Result<Answer, CniError> {
    let listed = ["cni.dev/valid-attachments", "cni.dev/attachments"].iter().any(|key| config.has(key));
    if listed {
        return Ok(Answer::default());
    }
    Err(CniError::new(Code::InvalidConfig, "cni.dev/valid-attachments is missing: nothing was collected"))
}
