//! STATUS and GC: commands about the host.

use crate::config::{Config, invalid};
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code};
use crate::ipam;
use crate::process::Answer;
use crate::section::Section;
use serde_json::Value;
use std::collections::BTreeSet;
use weft_api::agent::{ErrorCode, GcRequest, GcResponse, Ready};
use weft_model::id::Attachment;

use crate::client::AgentError;

/// Whether an ADD would work now. An agent that restarts is waited for exactly as long as ADD would
/// wait: an error here makes a node NotReady and evicts its pods.
///
/// # Errors
/// Code 50, or 51 if workloads that run already may be affected.
pub fn status(environment: &Environment, config: &Config) -> Result<Answer, CniError> {
    let section = Section::of(config)?;
    let delegate = ipam::delegate(config)?;
    match section.agent().get::<Ready>("/v1/ready") {
        Ok(ready) => cannot_limit(&section, &ready).map_or(Ok(()), Err)?,
        Err(error) => {
            let limited = matches!(&error, AgentError::Refused(api) if api.code == ErrorCode::Limited);
            let CniError { msg, details, .. } = error.into();
            let code = if limited { Code::LimitedConnectivity } else { Code::NotAvailable };
            return Err(CniError::new(code, msg).details(details));
        }
    }
    if let Some(delegate) = delegate {
        delegate.call(Command::Status, environment, config).map_err(|error| match error.code {
            50 | 51 => error,
            _ => CniError::new(Code::NotAvailable, error.msg).details(error.details),
        })?;
    }
    Ok(Answer::default())
}

/// Where every workload is to be limited and the kernel cannot, every ADD fails.
fn cannot_limit(section: &Section, ready: &Ready) -> Option<CniError> {
    let missing = ready.means.missing_for(&section.bandwidth)?;
    Some(CniError::new(Code::NotAvailable, format!("weft.bandwidth: this kernel has {missing}")))
}

/// Removes what the runtime does not know. The list speaks of one network only: the agent keeps which
/// network a workload is of. `null` means "none", an absent key a caller that is mistaken.
///
/// # Errors
/// Code 7 without a usable list, and nothing was done; otherwise all that could not be removed.
pub fn gc(environment: &Environment, config: &Config) -> Result<Answer, CniError> {
    let section = Section::of(config)?;
    let delegate = ipam::delegate(config)?;
    let request = GcRequest { network: config.name().to_owned(), valid: valid_attachments(config)? };
    let ours = section.agent().post::<_, GcResponse>("/v1/gc", &request).map(drop).map_err(CniError::from);
    let theirs = delegate.map_or(Ok(()), |delegate| delegate.call(Command::Gc, environment, config));
    match (ours, theirs) {
        (Ok(()), Ok(())) => Ok(Answer::default()),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Err(ours), Err(theirs)) => Err(CniError { msg: format!("{}; {}", ours.msg, theirs.msg), ..ours }),
    }
}

/// The spec's key, and the one of its draft that the Go library sends beside it. Who is in either is
/// valid.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

fn valid_attachments(config: &Config) -> Result<BTreeSet<Attachment>, CniError> {
    let listed = KEYS.iter().filter(|key| config.has(key));
    let mut valid = BTreeSet::new();
    let mut lists = 0;
    for key in listed {
        lists += 1;
        let list = match config.get(key) {
            None => continue,
            Some(Value::Array(list)) => list,
            Some(other) => return Err(invalid(key, other, "a list of attachments, or null: nothing was collected")),
        };
        for item in list {
            valid.insert(attachment(item).ok_or_else(|| {
                let allowed = "an object with containerID and ifname: nothing was collected";
                invalid(&format!("attachment in {key}"), item, allowed)
            })?);
        }
    }
    match lists {
        0 => Err(CniError::new(Code::InvalidConfig, format!("{} is missing: nothing was collected", KEYS[0]))),
        _ => Ok(valid),
    }
}

fn attachment(item: &Value) -> Option<Attachment> {
    let map = item.as_object()?;
    let text = |key| crate::config::lookup(map, key)?.as_str();
    Some(Attachment { container_id: text("containerID")?.parse().ok()?, ifname: text("ifname")?.parse().ok()? })
}
