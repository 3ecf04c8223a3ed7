//! Address pool of one subnet and its journal.
//!
//! Both compute only: time is a parameter in seconds of a clock that goes on during suspend and
//! starts with the boot (`CLOCK_BOOTTIME`), randomness (tokens) comes with the request, and the
//! journal is text that the agent reads and appends.
//!
//! A change is made in memory and answered as an [`Event`]; the agent appends [`journal::line`] of it
//! before it answers anybody. After a restart [`journal::restore`] gives back the same pool.

#![forbid(unsafe_code)]

mod bits;
mod cooling;
mod entry;
mod error;
mod event;
pub mod journal;
mod pool;

pub use entry::{Entry, Request, State};
pub use error::{PoolError, Unavailable};
pub use event::Event;
pub use pool::{Freed, Pool, Released, Reserved, Times, Usage};
