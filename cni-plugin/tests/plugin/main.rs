//! The plugin's tests: tables of what is refused, the real binary on the real kernel, and agents that
//! misbehave. Needs root; a test that cannot run fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod check;
mod delegation;
mod host_wide;
mod install;
mod one_document;
mod results;
mod runtimes;
mod support;
mod tables;
mod wiring;
