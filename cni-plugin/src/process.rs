//! The rim: one JSON document on stdout, whatever happens.

use crate::error::{CniError, Code};
use crate::version::Version;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a call comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// For the runtime; empty for those successes the spec wants silent.
    pub stdout: String,
    /// For people.
    pub stderr: String,
    /// Exit status.
    pub status: u8,
}

/// Whether something was printed: what panics after that must not print again.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Runs `work`, prints its answer and ends the process. A panic becomes a CNI error object and exit
/// status 1: the hook ends the process itself, since a panic in a release build aborts.
pub fn run(work: impl FnOnce() -> Answer) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        let error = CniError::new(Code::Internal, "weft-cni failed unexpectedly (a bug)").details(panic.to_string());
        std::process::exit(finish(&Answer {
            stdout: error.to_json(Version::NEWEST),
            stderr: format!("weft-cni: {panic}\n"),
            status: 1,
        }))
    }));
    std::process::exit(finish(&work()))
}

fn finish(answer: &Answer) -> i32 {
    // Nobody may be listening on stderr; nothing can be done about it.
    drop(std::io::stderr().write_all(answer.stderr.as_bytes()));
    if PRINTED.swap(true, Ordering::SeqCst) {
        return 1;
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(answer.stdout.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => answer.status.into(),
        Err(_) => 1,
    }
}
