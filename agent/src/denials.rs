//! Records of denials and of allowed connections: from the ring buffer to people and log pipelines.
//!
//! Two threads, so that neither a flood nor a slow disk keeps the agent from anything else: `reader`
//! empties the ring buffer, gives each workload its share and names what the programs number; `sinks`
//! writes. What is left out or lost on the way is counted ([`counts`]).

mod counts;
mod decision;
mod feed;
mod file;
mod kernel_log;
mod queue;
mod reader;
mod record;
mod share;
mod sinks;

pub use counts::Counts;
pub use feed::DenialFeed;
pub(crate) use feed::line;
pub(crate) use queue::{QueueSender, queue};
pub(crate) use reader::Reader;
pub(crate) use sinks::Sinks;
