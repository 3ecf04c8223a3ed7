//! Which subnet a host takes, and the state machine of its lease.
