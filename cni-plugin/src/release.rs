//! Telling the agent that a workload is gone.

use crate::client::{Agent, AgentError, Patience};
use crate::note;
use std::path::Path;
use std::time::Duration;
use weft_api::agent::{ErrorCode, ReleaseRequest, ReleaseResponse};

/// How long the agent has to answer before it gets a note instead.
const LIMIT: Duration = Duration::from_secs(1);

/// Tells the agent, or leaves it a note; answers what a person should know, if anything. It cannot
/// fail: the agent's own collection finds what neither reached it.
#[must_use]
pub fn tell(socket: &Path, release: &ReleaseRequest) -> Option<String> {
    let agent = Agent { socket: socket.to_owned(), patience: Patience::Once(LIMIT) };
    let error = match agent.post::<_, ReleaseResponse>("/v1/release", release) {
        Ok(_) => return None,
        Err(error) => error,
    };
    if let AgentError::Refused(api) = &error
        && api.code == ErrorCode::Invalid
    {
        return Some(format!("weft-cni: the agent refuses the release of {}: {error}\n", release.attachment));
    }
    Some(leave_note(socket, release, &error))
}

/// Leaves a note for an agent that does not answer; says why, and where.
#[must_use]
pub fn leave_note(socket: &Path, release: &ReleaseRequest, error: &AgentError) -> String {
    match note::leave(socket, release) {
        Ok(path) => format!("weft-cni: {error}; left {} for it\n", path.display()),
        Err(failed) => format!("weft-cni: {error}; no note either: {failed}\n"),
    }
}
