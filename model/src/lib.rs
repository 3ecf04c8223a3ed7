//! Pure types and decisions of weft.
//!
//! Everything here computes: it opens no file, socket, clock or map (guarded by this crate's
//! `clippy.toml` and by `tests/tests/architecture.rs`). Plans are values; `hostnet` and `datapath`
//! apply them.

pub mod bandwidth;
pub mod capability;
pub mod compile;
pub mod datapath;
pub mod endpoints;
pub mod explain;
pub mod group;
pub mod id;
pub mod lease;
pub mod mac;
pub mod net;
pub mod op;
pub mod others;
pub mod overlay;
pub mod policy;
pub mod ports;
pub mod wired;
pub mod workload;
