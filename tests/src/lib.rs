//! Integration tests: one file a behaviour, real binaries on the real kernel.
