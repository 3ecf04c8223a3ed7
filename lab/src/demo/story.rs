//! Checks, told one a line.

use crate::terminal::tell;
use anyhow::Result;
use std::time::Instant;

/// Counts what passed and what failed.
#[derive(Debug, Default)]
pub(super) struct Story {
    passed: u32,
    failed: u32,
    chapters: u32,
}

impl Story {
    /// Begins a chapter.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        tell(&format!("\n{}. {title}", self.chapters));
    }

    /// Runs a check and tells what it saw.
    pub(super) fn check(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        let start = Instant::now();
        match check() {
            Ok(seen) => {
                self.passed += 1;
                tell(&format!("   ok    {what}: {seen} [{} ms]", start.elapsed().as_millis()));
            }
            Err(error) => self.fail(what, &format!("{error:#}")),
        }
    }

    /// Something that was done, and is a check in itself.
    pub(super) fn pass(&mut self, what: &str, seen: &str) {
        self.passed += 1;
        tell(&format!("   ok    {what}: {seen}"));
    }

    /// A failed check.
    pub(super) fn fail(&mut self, what: &str, error: &str) {
        crate::signals::stop_if_ending();
        self.failed += 1;
        tell(&format!("   FAIL  {what}: {error}"));
    }

    /// A line of somebody's output.
    pub(super) fn quote(line: &str) {
        tell(&format!("         | {line}"));
    }

    pub(super) fn passed(&self) -> u32 {
        self.passed
    }

    pub(super) fn failed(&self) -> u32 {
        self.failed
    }
}
