//! Waiting for conditions, with a deadline and the last state in the error.

use anyhow::{Result, bail};
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long something may take that takes a second on a quiet machine. Nothing is judged by it: it only
/// ends what would never come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tries `attempt` every few milliseconds until it gives something; returns it and how long it took.
///
/// # Errors
/// The deadline passed: what was waited for, and the last refusal.
pub fn until<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(refusal) if start.elapsed() > deadline => {
                bail!("waited {deadline:?} for {what}; last: {refusal:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// As [`until`], for a condition.
///
/// # Errors
/// The deadline passed.
pub fn until_true(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let attempt = || match condition() {
        Ok(true) => Ok(()),
        Ok(false) => Err("not yet".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    until(what, deadline, attempt).map(|((), took)| took)
}
