//! The only door to rtnetlink, network namespaces, sysctl and nftables.
