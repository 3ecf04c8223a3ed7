//! Waiting for the agent.

use super::Options;
use crate::client::{Agent, AgentError, Patience};
use std::io::Write;
use std::time::{Duration, Instant};
use weft_api::agent::Ready;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Waits until an ADD would work, and says on stderr what it waits for, each time that changes.
///
/// # Errors
/// It would not within the time: what was missing last.
pub(super) fn wait(options: &Options) -> Result<(), String> {
    let agent = Agent { socket: options.socket.clone(), patience: Patience::Once(LIMIT) };
    let deadline = Instant::now() + options.wait;
    let mut told = String::new();
    loop {
        let missing = match agent.get::<Ready>("/v1/ready") {
            Ok(_) => return Ok(()),
            Err(error) => what(&error),
        };
        if Instant::now() >= deadline {
            let waited = options.wait.as_secs();
            return Err(format!("waited {waited} s for weftd to be ready: {missing}; nothing was installed"));
        }
        if missing != told {
            // Nobody may be listening.
            drop(writeln!(std::io::stderr(), "weft-cni: waiting for weftd to be ready: {missing}"));
            told = missing;
        }
        std::thread::sleep(INTERVAL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

fn what(error: &AgentError) -> String {
    match error {
        AgentError::Refused(api) => match &api.details {
            Some(details) => format!("{} ({details})", api.message),
            None => api.message.clone(),
        },
        other => other.to_string(),
    }
}
