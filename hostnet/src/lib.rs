//! The only door to rtnetlink, network namespaces, sysctl and nftables.
//!
//! [`Executor`] is bound to one network namespace. It applies [`weft_model::op::Op`]s, and reads what
//! is there: [`Executor::snapshot`] for the planner, a few look-ups for the agent. Everything blocks;
//! netlink answers within microseconds, but the kernel removes a veth in some 20 ms, so callers with an
//! async runtime use its blocking pool; [`Departures`] says earlier that a link is gone. The feature `notify` adds `Notifier`, which waits
//! asynchronously for somebody to change something.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use weft_hostnet::{Executor, Netns};
//! let workload = Netns::open("/run/netns/w1")?;
//! let mut inside = Executor::in_namespace(&workload)?;
//! for link in inside.links()? {
//!     tracing::info!(name = %link.name, mtu = link.mtu, "link");
//! }
//! # Ok(())
//! # }
//! ```

mod bucket;
mod conntrack;
mod departures;
mod error;
mod executor;
mod inside;
mod listeners;
mod means;
mod netlink;
mod netns;
mod nft;
#[cfg(feature = "notify")]
mod notify;
mod others;
mod query;
mod request;
mod snapshot;
mod sysctl;

pub use departures::{Departed, Departures};
pub use error::{Error, OpError};
pub use executor::Executor;
pub use means::means_to_limit;
pub use netns::{Netns, NetnsError};
#[cfg(feature = "notify")]
pub use notify::Notifier;
pub use query::LinkInfo;
pub use snapshot::SnapshotScope;
