//! What is logged, changed while the agent runs. A change outlives the agent but not the host's start:
//! whoever audits for a day must not have forgotten it after a reboot.

use super::{Core, Reply, internal};
use crate::config::Config;
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use weft_api::agent::{ApiError, ErrorCode};
use weft_api::logging::{Logging, LoggingChange, LoggingView};

/// Version of the file's shape.
const VERSION: u32 = 1;

/// The file, in the run folder.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    change: LoggingChange,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("logging.json")
}

/// What an earlier agent was told since the host's start.
pub(super) fn kept(config: &Config) -> LoggingChange {
    let Some(kept) = files::read_or_log::<Kept>(&path(&config.run_dir)) else { return LoggingChange::default() };
    let fits = kept.version == VERSION && config.logging.with(&kept.change).errors().is_empty();
    if !fits {
        tracing::error!(version = kept.version, "logging.json is not ours to read: logging as configured");
        return LoggingChange::default();
    }
    if kept.change != LoggingChange::default() {
        tracing::info!(change = ?kept.change, "logging otherwise than configured, as was asked for before");
    }
    kept.change
}

impl Core {
    pub(super) fn logging_view(&self) -> LoggingView {
        LoggingView {
            in_force: self.logging.clone(),
            changed: self.changed.clone(),
            file: self.config.denial_log.display().to_string(),
            counts: self.outlets.counts.now(),
        }
    }

    pub(super) fn change_logging(&mut self, change: LoggingChange) -> Reply<LoggingView> {
        self.keep_logging(self.changed.clone().then(change))
    }

    pub(super) fn reset_logging(&mut self) -> Reply<LoggingView> {
        self.keep_logging(LoggingChange::default())
    }

    /// The configuration was read again: what was changed by hand stays over it.
    pub(super) fn reconfigure_logging(&mut self, configured: Logging) {
        self.configured = configured;
        self.log_as(self.configured.with(&self.changed));
    }

    fn keep_logging(&mut self, changed: LoggingChange) -> Reply<LoggingView> {
        let logging = self.configured.with(&changed);
        let errors = logging.errors();
        if !errors.is_empty() {
            return Err(ApiError { code: ErrorCode::Invalid, message: errors.join("; "), details: None });
        }
        let file = path(&self.config.run_dir);
        files::write(&file, &Kept { version: VERSION, change: changed.clone() })
            .map_err(|error| internal(format!("{}: {error}; logging stays as it is", file.display())))?;
        self.changed = changed;
        self.log_as(logging);
        Ok(self.logging_view())
    }

    /// In force when this returns, where the programs are as they should be.
    fn log_as(&mut self, logging: Logging) {
        if self.logging == logging {
            return;
        }
        tracing::info!(?logging, "logging is changed");
        // A closed host's rules are open while everything is audited.
        if self.logging.audit != logging.audit {
            self.due.within(Duration::ZERO);
        }
        self.logging = logging;
        self.outlets.logging.send_replace(Arc::new(self.logging.clone()));
        self.program_logging();
    }

    fn program_logging(&mut self) {
        if let Err(error) = self.program_host().and_then(|()| self.program_endpoints()) {
            self.programs_failed(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_kept_and_a_torn_or_newer_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path());
        let change = LoggingChange { audit: Some(true), ..LoggingChange::default() };
        let raw = format!("kind = 'cell'\nrun_dir = '{}'", folder.path().display());
        let config = crate::config::of_text(&raw);
        assert_eq!(kept(&config), LoggingChange::default(), "no file");
        files::write(&file, &Kept { version: VERSION, change: change.clone() }).unwrap();
        assert_eq!(kept(&config), change);
        files::write(&file, &Kept { version: VERSION + 1, change }).unwrap();
        assert_eq!(kept(&config), LoggingChange::default());
        std::fs::write(&file, "{").unwrap();
        assert_eq!(kept(&config), LoggingChange::default());
        let wrong = LoggingChange { denials_burst: Some(0), ..LoggingChange::default() };
        files::write(&file, &Kept { version: VERSION, change: wrong }).unwrap();
        assert_eq!(kept(&config), LoggingChange::default());
    }
}
