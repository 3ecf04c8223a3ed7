//! Files that appear whole or not at all.

use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// SHA-256, hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a file; `None` if there is none.
///
/// # Errors
/// It is there and cannot be read, or is no file.
pub(super) fn digest_of(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(digest(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// A file written beside its place; removed again unless it is put there.
#[derive(Debug)]
pub(super) struct Draft {
    draft: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl Draft {
    /// Writes it, down to the disk: a full one says so now.
    ///
    /// # Errors
    /// The folder is missing, cannot be written to, or is full.
    pub(super) fn write(target: &Path, bytes: &[u8], mode: u32) -> Result<Self, String> {
        let draft = Self { draft: draft_of(target), target: target.to_owned(), placed: false };
        let write = || -> io::Result<()> {
            // Left by one that was killed; it may be a text that is being executed.
            remove(&draft.draft)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft.draft)?;
            // The mode is the caller's, whatever the umask.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|error| format!("cannot write {}: {error}", target.display()))?;
        Ok(draft)
    }

    /// Gives it its name. What had that name is replaced in the same instant, and who executes it goes on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn place(mut self) -> Result<(), String> {
        let renamed = fs::rename(&self.draft, &self.target).and_then(|()| sync_folder(&self.target));
        renamed.map_err(|error| format!("cannot put {} in its place: {error}", self.target.display()))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            // The first failure is the one to tell.
            drop(remove(&self.draft));
        }
    }
}

/// The draft's path: hidden, with an ending no runtime reads.
pub(super) fn draft_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.new"))
}

/// Removes a file; whether there was one.
///
/// # Errors
/// It is there and stays.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A rename outlives a crash only with its folder.
fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}
