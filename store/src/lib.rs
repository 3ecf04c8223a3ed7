//! The only door to etcd: leases, hosts, policies and tags as domain-level stores.
//!
//! Nothing here is key-value: the Kubernetes API, a later store, has no multi-key transaction.

#![forbid(unsafe_code)]

// The test harness is shared with the integration tests, where this crate has a name.
#[cfg(test)]
extern crate self as weft_store;

mod error;
pub mod etcd;
pub mod hosts;
pub mod policy;

pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdStore};
