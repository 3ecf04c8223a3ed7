//! weftd, the agent of a host.
//!
//! One thread (`worker`) owns the host's state: addresses, endpoints, netlink and the kernel
//! programs. Everything else is tasks that send it messages: `server` (the unix socket), `leases`
//! and `policies` (the store), `denials` (the ring buffer), `watch` (kernel notifications).

#![forbid(unsafe_code)]

pub mod boot;
pub mod cache;
mod causes;
pub mod config;
pub mod denials;
pub mod directory;
pub mod dry_run;
mod fault;
pub mod files;
mod in_force;
pub mod leases;
pub mod metrics;
pub mod overlay;
pub mod policies;
pub mod remembered;
pub mod run;
pub mod server;
pub mod worker;
