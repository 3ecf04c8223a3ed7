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
    /// Why the file is behind the pool.
    complaint: Option<String>,
}

impl Journal {
    pub(super) fn new(run_dir: &Path) -> io::Result<Self> {
        let boot_id = crate::boot::id()?;
        Ok(Self { path: run_dir.join("journal.jsonl"), boot_id, file: None, appended: 0, complaint: None })
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

    /// Appends an event. A failure is said once and healed by writing the file anew, which also mends a
    /// line written by half; the kernel has the truth meanwhile (aliases of links).
    pub(super) fn append(&mut self, event: &Event, pool: &Pool) {
        if self.appended >= SHORTEN_AFTER || self.file.is_none() {
            return self.rewrite(pool);
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(journal::line(event).as_bytes()) {
            Ok(()) => self.appended += 1,
            Err(error) => {
                self.file = None;
                self.complain(&error);
            }
        }
    }

    /// Writes the file anew if it is behind the pool, or was removed; what is wrong with it, if anything is.
    pub(super) fn mend(&mut self, pool: &Pool) -> Option<String> {
        if self.file.is_none() || !self.path.exists() {
            self.rewrite(pool);
        }
        self.complaint.clone()
    }

    fn complain(&mut self, error: &io::Error) {
        let text = format!(
            "run_dir: cannot write the journal {}: a restart would rebuild from the kernel: {error}",
            self.path.display()
        );
        if self.complaint.as_ref() != Some(&text) {
            tracing::error!("{text}; trying again");
            self.complaint = Some(text);
        }
    }

    fn rewrite(&mut self, pool: &Pool) {
        match self.try_rewrite(pool) {
            Ok(file) => {
                self.file = Some(file);
                self.appended = 0;
                if self.complaint.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the journal is written again");
                }
            }
            Err(error) => {
                self.file = None;
                self.complain(&error);
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
