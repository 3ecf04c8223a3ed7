//! Where tests stop the plugin: after each step of an ADD or DEL. Only debug builds have it, so no
//! environment variable can stop the program that runs on hosts.

use weft_hostnet::{Executor, Netns, OpError};
use weft_model::op::Op;

/// A step is done: the process ends here, without a word, if `WEFT_CNI_STOP_AFTER` is its number,
/// counted from 1.
#[cfg(debug_assertions)]
pub fn point() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static DONE: AtomicU32 = AtomicU32::new(0);
    let done = DONE.fetch_add(1, Ordering::SeqCst) + 1;
    if stop_after() == Some(done) {
        std::process::abort();
    }
}

/// A step is done.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn point() {}

#[cfg(debug_assertions)]
fn stop_after() -> Option<u32> {
    std::env::var("WEFT_CNI_STOP_AFTER").ok()?.parse().ok()
}

/// Applies ops; each is a step of its own when somebody wants to stop after one.
///
/// # Errors
/// As [`Executor::execute`].
pub fn execute(executor: &mut Executor, ops: &[Op], workload: Option<&Netns>) -> Result<(), OpError> {
    #[cfg(debug_assertions)]
    if stop_after().is_some() {
        for op in ops {
            executor.execute(std::slice::from_ref(op), workload)?;
            point();
        }
        return Ok(());
    }
    executor.execute(ops, workload)
}
