//! The journal's file: in tmpfs, because namespaces die with the boot and so may it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use weft_ipam::{Event, Pool, Times, journal};
use weft_model::net::Subnet;

/// Events after which the file is written anew.
const SHORTEN_AFTER: u32 = 10_000;

pub(super) struct Journal {
    path: PathBuf,
    boot_id: String,
    file: Option<File>,
    appended: u32,
    /// The last append may have left half a line.
    torn: bool,
}

impl Journal {
    pub(super) fn new(run_dir: &Path) -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { path: run_dir.join("journal.jsonl"), boot_id, file: None, appended: 0, torn: false })
    }

    /// The pool the file stands for. A file that cannot be used leaves an empty pool: what the
    /// kernel shows is adopted afterwards.
    pub(super) fn restore(&mut self, subnet: Subnet, times: Times) -> Pool {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot read the journal: rebuilding from the kernel");
                Vec::new()
            }
        };
        let restored = journal::restore(&text, &self.boot_id, subnet, times);
        tracing::info!(origin = ?restored.origin, skipped = restored.skipped, workloads = restored.pool.entries().len(), "journal");
        self.rewrite(&restored.pool);
        restored.pool
    }

    /// Appends an event. A failure is said and healed by writing the file anew later; the kernel has
    /// the truth meanwhile (aliases of links).
    pub(super) fn append(&mut self, event: &Event, pool: &Pool) {
        if self.appended >= SHORTEN_AFTER || self.file.is_none() {
            return self.rewrite(pool);
        }
        let line = if self.torn { format!("\n{}", journal::line(event)) } else { journal::line(event) };
        let Some(file) = &mut self.file else { return };
        match file.write_all(line.as_bytes()) {
            Ok(()) => {
                self.appended += 1;
                self.torn = false;
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot append to the journal (full disk?): it will be rewritten with the next event");
                self.torn = true;
                self.file = None;
            }
        }
    }

    fn rewrite(&mut self, pool: &Pool) {
        match self.try_rewrite(pool) {
            Ok(file) => {
                self.file = Some(file);
                self.appended = 0;
                self.torn = false;
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot write the journal: a restart would rebuild from the kernel");
                self.file = None;
            }
        }
    }

    fn try_rewrite(&self, pool: &Pool) -> io::Result<File> {
        let temporary = self.path.with_extension("tmp");
        std::fs::write(&temporary, journal::snapshot(pool, &self.boot_id, boot_seconds()))?;
        std::fs::rename(&temporary, &self.path)?;
        OpenOptions::new().append(true).open(&self.path)
    }
}

/// Seconds since the boot, time asleep included.
pub(super) fn boot_seconds() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0))
}
