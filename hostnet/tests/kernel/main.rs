//! Everything here runs on the real kernel, in network namespaces of its own, and is checked by the
//! programs an operator would use: `ip`, `bridge`, `nft`, `sysctl`.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking, as the tests do")]

mod drift;
mod laws;
mod namespaces;
mod notifications;
mod obstacles;
mod ops;
mod support;
mod workload;
