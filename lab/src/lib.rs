//! A whole network of hosts in network namespaces of one machine: real binaries, real etcd, real
//! kernel. The demo, the integration tests and the benchmarks stand on it.
//!
//! ```text
//!   ctl (etcd, policy server)   h1 (weftd)   h2 (weftd)   h3 (weftd)      192.0.2.0/24
//!        └──────────────────────── sw (a bridge) ───────────────┘
//! ```
//!
//! Everything of a lab is named after it (`weft-lab-<name>-…`) or lies in its folder below
//! `/run/weft-lab`, so that labs stand side by side and each can be removed by name.

pub mod bench;
pub mod demo;
pub mod host;
pub mod lab;
pub mod probe;
pub mod process;
pub mod services;
pub mod shell;
pub mod signals;
pub mod teardown;
pub mod terminal;
pub mod underlay;
pub mod wait;
pub mod workload;

pub use host::{Host, HostOptions};
pub use lab::{Lab, LabOptions};
pub use workload::{Dialect, Workload, WorkloadOptions};
