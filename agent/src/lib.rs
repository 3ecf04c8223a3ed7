//! weftd, the agent of a host.
