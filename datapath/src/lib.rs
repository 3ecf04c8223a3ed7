//! The only user of aya: loads, attaches and fills the kernel programs.
