//! The log file: lines of JSON in the shape CF's iptables-logger writes.
//!
//! It may be rotated by anybody in any way. Moved or removed: the next batch, or SIGHUP, makes a new
//! one. Copied and cut (copytruncate): every write appends, so it goes on at the new end. Left alone:
//! at 16 MiB it is moved to `<name>.1`, because it lives in memory unless told otherwise.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file is moved to `<name>.1` at this size.
const FILE_BYTES: u64 = 16 << 20;

/// The file and where it should be.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next write opens it anew.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Appends whole lines: all of them, or, on a full disk, none.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let current = self.file.as_ref().filter(|file| is_at(file, &self.path));
        if current.is_some_and(is_full) {
            std::fs::rename(&self.path, with_suffix(&self.path))?;
        }
        if current.is_none_or(is_full) {
            self.file = Some(open(&self.path)?);
        }
        match &mut self.file {
            Some(file) => append(file, lines),
            None => Ok(()),
        }
    }
}

/// Half a line would spoil the next.
fn append(file: &mut File, lines: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(lines).inspect_err(|_full| {
        // Somebody may have cut it meanwhile: then it is not made longer.
        if file.metadata().is_ok_and(|metadata| metadata.len() > before) {
            drop(file.set_len(before));
        }
    })
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

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn log() -> (tempfile::TempDir, LogFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = LogFile::new(folder.path().join("logs/denials.log"));
        (folder, file)
    }

    fn text(log: &LogFile) -> String {
        fs::read_to_string(log.path()).unwrap()
    }

    #[test]
    fn a_file_that_is_moved_replaced_or_removed_is_made_anew() {
        let (_folder, mut log) = log();
        log.append(b"1\n").unwrap();
        fs::rename(log.path(), with_suffix(log.path())).unwrap();
        log.append(b"2\n").unwrap();
        assert_eq!(text(&log), "2\n");
        fs::remove_file(log.path()).unwrap();
        log.append(b"3\n").unwrap();
        assert_eq!(text(&log), "3\n");
        fs::rename(log.path(), with_suffix(log.path())).unwrap();
        fs::write(log.path(), "made by logrotate\n").unwrap();
        log.append(b"4\n").unwrap();
        assert_eq!(text(&log), "made by logrotate\n4\n");
    }

    #[test]
    fn a_file_that_is_copied_and_cut_goes_on_at_its_new_end() {
        let (_folder, mut log) = log();
        log.append(&[b'x'; 10_000]).unwrap();
        File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
        log.append(b"after\n").unwrap();
        assert_eq!(text(&log), "after\n", "no hole of zeros");
    }

    #[test]
    fn a_file_is_moved_at_its_limit() {
        let (_folder, mut log) = log();
        log.append(b"1\n").unwrap();
        File::options().write(true).open(log.path()).unwrap().set_len(FILE_BYTES).unwrap();
        log.append(b"2\n").unwrap();
        assert_eq!(text(&log), "2\n");
        assert_eq!(fs::metadata(with_suffix(log.path())).unwrap().len(), FILE_BYTES);
    }
}
