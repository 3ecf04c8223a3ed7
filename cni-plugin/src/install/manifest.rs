//! What `install` put where: beside the conflist, hidden, with an ending no runtime reads.

use super::Options;
use super::files::{Draft, digest_of, remove};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The layout's version.
const VERSION: u32 = 1;

/// The file `.<conflist>.manifest`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// For people: which plugin wrote it.
    by: String,
    /// The files.
    pub(super) files: Vec<Installed>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Installed {
    /// Where.
    pub(super) path: PathBuf,
    /// What it may be: while an installation is under way both the old and the new.
    pub(super) sha256: Vec<String>,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Ours,
    Foreign,
}

impl Manifest {
    pub(super) fn of(files: Vec<Installed>) -> Self {
        Self { version: VERSION, by: format!("weft-cni {}", env!("CARGO_PKG_VERSION")), files }
    }

    fn path(options: &Options) -> PathBuf {
        options.conf_dir.join(format!(".{}.manifest", options.conf_name))
    }

    /// Reads it; empty if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(super) fn read(options: &Options) -> Result<Self, String> {
        let path = Self::path(options);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let broken = |what: String| format!("{} is no manifest of weft-cni: {what}: remove it by hand", path.display());
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(broken(format!("version {}, this weft-cni knows {VERSION}", manifest.version)));
        }
        Ok(manifest)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn write(&self, options: &Options) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        Draft::write(&Self::path(options), &text, 0o644)?.place()
    }

    /// Removes it.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn remove(options: &Options) -> Result<(), String> {
        let path = Self::path(options);
        remove(&path).map(drop).map_err(|error| format!("cannot remove {}: {error}", path.display()))
    }

    /// The digests a path may have to be ours.
    pub(super) fn digests(&self, path: &Path) -> Vec<String> {
        self.files.iter().filter(|file| file.path == path).flat_map(|file| file.sha256.clone()).collect()
    }

    /// Whose the file at a path is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn owner(&self, path: &Path) -> Result<Owner, String> {
        Ok(match digest_of(path)? {
            None => Owner::Nobody,
            Some(digest) if self.digests(path).contains(&digest) => Owner::Ours,
            Some(_) => Owner::Foreign,
        })
    }
}

/// One installation at a time in a folder; the lock is the kernel's and goes with the process.
///
/// # Errors
/// The folder is missing, or another holds it.
pub(super) fn lock(options: &Options) -> Result<File, String> {
    let path = options.conf_dir.display();
    let folder = File::open(&options.conf_dir)
        .map_err(|error| format!("--conf-dir: cannot open {path}: {error}; make it first, or name another"))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(format!("--conf-dir: another weft-cni is at work in {path}")),
        Err(TryLockError::Error(error)) => Err(format!("--conf-dir: cannot lock {path}: {error}")),
    }
}
