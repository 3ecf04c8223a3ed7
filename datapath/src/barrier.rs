//! Waiting for programs that may still read what was replaced.

use crate::error::DatapathError;
use std::io;

/// Returns when every program that was running has ended.
///
/// Programs run inside an RCU read-side section; `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu`
/// (kernel/sched/membarrier.c, since 4.3). On one CPU it is nothing, as nothing else can run then.
pub(crate) fn wait_for_programs() -> Result<(), DatapathError> {
    // SAFETY: no memory is passed.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, nix::libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(DatapathError::Barrier(io::Error::last_os_error())) }
}
