//! Policies in etcd.
