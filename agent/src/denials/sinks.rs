//! Where records go: a file of JSON lines in the shape CF's iptables-logger writes, and the kernel
//! log, where operators of Silk look with `dmesg -w | grep DENY`.

use super::record::Denial;
use crate::config::Config;
use crate::directory::HostName;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weft_api::denial::{CfContainer, CfLogLine};

/// Lines a second in the kernel log, which everybody shares.
const KERNEL_LINES_PER_SECOND: u32 = 10;
/// The file is moved to `<name>.1` at this size: it lives in memory unless told otherwise, and a hostile
/// workload can fill it.
const FILE_BYTES: u64 = 16 << 20;
/// How long a sink that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Sinks {
    path: PathBuf,
    file: Option<File>,
    file_pause: Option<Instant>,
    /// Records that did not get into the file.
    missed: u64,
    kernel: Option<File>,
    kernel_window: (Instant, u32),
}

impl Sinks {
    /// Opens what the configuration names; what cannot be opened is said once and tried again later.
    pub(super) fn open(config: &Config) -> Self {
        let mut sinks = Self {
            path: config.denial_log.clone(),
            file: None,
            file_pause: None,
            missed: 0,
            kernel: None,
            kernel_window: (Instant::now(), 0),
        };
        if config.kernel_log {
            match OpenOptions::new().write(true).open("/dev/kmsg") {
                Ok(file) => sinks.kernel = Some(file),
                Err(error) => {
                    tracing::warn!(%error, "the kernel log cannot be written: denials go to {} only", sinks.path.display())
                }
            }
        }
        sinks
    }

    /// Writes one record everywhere.
    pub(super) fn write(&mut self, denial: &Denial, me: &HostName) {
        self.write_file(denial, me);
        self.write_kernel(denial);
    }

    fn write_file(&mut self, denial: &Denial, me: &HostName) {
        if self.file_pause.is_some_and(|since| since.elapsed() < PAUSE) {
            self.missed += 1;
            return;
        }
        let line = CfLogLine::new(&denial.record, denial.at_ns, container(denial, me));
        if let Err(error) = self.append(&line) {
            if self.file_pause.is_none() {
                tracing::error!(path = %self.path.display(), %error, "a denial could not be logged: counters stay exact; trying this file again every 10 s");
            }
            self.missed += 1;
            self.file = None;
            self.file_pause = Some(Instant::now());
        }
    }

    /// Appends; opens the file anew when it was moved away or replaced (log rotation).
    fn append(&mut self, line: &CfLogLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let current = self.file.as_ref().filter(|file| is_at(file, &self.path));
        if current.is_some_and(is_full) {
            std::fs::rename(&self.path, with_suffix(&self.path))?;
        }
        if current.is_none_or(is_full) {
            self.file = Some(open_log(&self.path)?);
        }
        if let Some(file) = &mut self.file {
            append_line(file, &bytes)?;
        }
        if self.file_pause.take().is_some() {
            tracing::info!(path = %self.path.display(), missed = self.missed, "denials are logged to this file again");
            self.missed = 0;
        }
        Ok(())
    }

    fn write_kernel(&mut self, denial: &Denial) {
        let Some(kernel) = &mut self.kernel else { return };
        if self.kernel_window.0.elapsed() >= Duration::from_secs(1) {
            self.kernel_window = (Instant::now(), 0);
        }
        self.kernel_window.1 += 1;
        if self.kernel_window.1 > KERNEL_LINES_PER_SECOND {
            return;
        }
        if let Err(error) = kernel.write_all(kernel_line(denial).as_bytes()) {
            tracing::warn!(%error, "the kernel log cannot be written any more");
            self.kernel = None;
        }
    }
}

fn is_full(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() >= FILE_BYTES)
}

/// Whether the path still names the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata().map(id), std::fs::metadata(path).map(id));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A whole line or none: on a full disk half of one would spoil the next.
fn append_line(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(line).inspect_err(|_full| drop(file.set_len(before)))
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn container(denial: &Denial, me: &HostName) -> CfContainer {
    let mut container =
        CfContainer { host_ip: me.public_ip.to_string(), host_guid: me.node.to_string(), ..CfContainer::default() };
    if let Some(judge) = &denial.judge {
        container.container_id = judge.attachment.container_id.to_string();
        container.app_guid = judge.group.as_ref().map(ToString::to_string).unwrap_or_default();
        container.space_guid = judge.identity.space_id.clone().unwrap_or_default();
        container.organization_guid = judge.identity.org_id.clone().unwrap_or_default();
    }
    container
}

/// As netfilter's LOG target writes it, with Silk's prefix: at most 28 characters of
/// `DENY_C2C_<handle>`. Level 5, notice, facility user.
fn kernel_line(denial: &Denial) -> String {
    let record = &denial.record;
    let handle = denial.judge.as_ref().map_or("", |judge| judge.attachment.container_id.as_str());
    let verdict = if record.action == "audit" { "AUDIT_C2C" } else { "DENY_C2C" };
    let prefix: String = format!("{verdict}_{handle}").chars().take(28).collect();
    let (input, output) =
        if record.direction == "ingress" { ("", record.interface.as_str()) } else { (record.interface.as_str(), "") };
    format!(
        "<13>{prefix} IN={input} OUT={output} SRC={} DST={} LEN={} PROTO={} SPT={} DPT={} MARK={:#x} REASON={}\n",
        record.source.ip,
        record.destination.ip,
        denial.length,
        record.protocol,
        record.source.port,
        record.destination.port,
        record.source.tag.map_or(0, weft_model::id::Tag::get),
        record.reason,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_replaced_or_removed_is_told_from_the_open_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.log");
        let file = open_log(&path).unwrap();
        assert!(is_at(&file, &path));
        std::fs::rename(&path, with_suffix(&path)).unwrap();
        assert!(!is_at(&file, &path));
        std::fs::write(&path, "made by logrotate").unwrap();
        assert!(!is_at(&file, &path));
        assert!(is_at(&open_log(&path).unwrap(), &path));
    }

    #[test]
    fn a_file_is_full_at_its_limit() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_full(&file));
        file.set_len(FILE_BYTES).unwrap();
        assert!(is_full(&file));
    }
}
