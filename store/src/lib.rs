//! The only door to etcd: leases, hosts, policies and tags as domain-level stores.
